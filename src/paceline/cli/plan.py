"""`paceline plan`: how many engines keep a promise at an accuracy, in virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from paceline.cli.flags.lists import ListFlagCommand, split_list
from paceline.cli.printing import JsonFlag, print_json, print_table, progress_bar, say
from paceline.cli.tune.flags import ChunkSizeOption, LimitOption, SpeedOption
from paceline.errors import InvalidValueError
from paceline.schedule import EngineTime, LoadSettings
from paceline.schedule.step_time import configuration_times
from paceline.serving.pricing import PER_ARRIVAL, price_settings
from paceline.simulate import ROUTERS, RequestColumns
from paceline.tune.capacity import (
    CONTROLLERS,
    ENGINES_SERVED,
    CapacityPlan,
    Need,
    ServedWay,
    alone_seconds,
    engine_that_lasts,
    largest_of,
    stretches_of,
    ways_of,
)
from paceline.tune.capacity_chart import capacity_chart
from paceline.tune.student import t_half_width
from paceline.tune.trace import read_trace
from paceline.tune.workload import LoadScaling, scaled


def register(app: typer.Typer) -> None:
    """Add `paceline plan` to the command line."""
    app.command("plan", cls=ListFlagCommand)(plan)


def plan(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="CSV or JSONL of arrivals and lengths (docs/traces.md).")
    ],
    profile: Annotated[Path, typer.Option(help="What the configurations are worth and cost: any profile.")],
    step_time: Annotated[Path, typer.Option(help="A model file of `paceline tune step-time`.")],
    budget_ms: Annotated[float, typer.Option(help="First-token budget of requests that bring none.")],
    accuracy_floor: Annotated[list[str], typer.Option(help="Mean accuracies to be reached, one plan each.")],
    alpha: Annotated[float, typer.Option(help="Share of budgets that may be missed.")] = 0.05,
    controllers: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(CONTROLLERS)}.", show_default="all")
    ] = None,
    routers: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(ROUTERS)}.", show_default="round_robin")
    ] = None,
    stretches: Annotated[
        int,
        typer.Option(
            help="Parts of the trace; odd ones plan, even ones check. n that plan suffice for n/(n+1) of further ones."
        ),
    ] = 40,
    limit: LimitOption = None,
    speed: SpeedOption = 1.0,
    chunk_size: ChunkSizeOption = 2048,
    max_num_seqs: Annotated[int, typer.Option(help="Most requests that run at once.")] = 128,
    price_floor: Annotated[float, typer.Option(help="Accuracy that a second of prefill must bring at least.")] = 0.0,
    price_per_arrival: Annotated[
        float, typer.Option(help="Accuracy that those lose who arrive during a prefill (`paceline tune price`).")
    ] = PER_ARRIVAL,
    engines_served: Annotated[
        int, typer.Option(help="Of more engines so many are served, with their share of the requests.")
    ] = ENGINES_SERVED,
    chart: Annotated[Path | None, typer.Option(help="An SVG file: replicas over the accuracy floor.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the fewest engines that keep a promise at an accuracy, by controller and router, in virtual time."""
    if not 0 < alpha < 1:
        raise InvalidValueError("alpha", alpha, "a share between 0 and 1")
    if engines_served < 1:
        raise InvalidValueError("engines_served", engines_served, "at least 1")
    requests = scaled(read_trace(trace), LoadScaling(limit=limit, speed=speed, ttft_budget_ms=budget_ms)).requests
    ways, time = ways_of(profile, configuration_times(step_time)), EngineTime.load(step_time)
    engine = engine_that_lasts(requests, ways, chunk_size=chunk_size, max_num_seqs=max_num_seqs)
    text_tokens = mean(each.prompt_tokens for each in requests)
    t0_seconds = alone_seconds(largest_of(ways), text_tokens, engine=engine, time=time)
    price = price_settings(t0_seconds, floor=price_floor, per_arrival=price_per_arrival)
    settings = LoadSettings(alpha=alpha, price=price)
    asked = CapacityPlan(
        engine=engine, time=time, ways=ways, alpha=alpha, settings=settings, engines_served=engines_served
    )
    parts = stretches_of(RequestColumns.of(requests), stretches)
    floors = [_floor(word) for word in split_list(accuracy_floor) or []]
    cells = [
        (floor, controller, router)
        for floor in floors
        for controller in split_list(controllers) or CONTROLLERS
        for router in split_list(routers) or ["round_robin"]
    ]
    with progress_bar(f"planning {len(cells)} cells of {len(parts)} stretches") as move:
        found: list[_Planned] = []
        for done, (floor, controller, router) in enumerate(cells):
            need = asked.need(parts[::2], controller=controller, router=router, accuracy_floor=floor)
            found.append(_planned(asked, need, parts))
            move(done + 1, len(cells))
    if chart is not None:
        chart.write_text(capacity_chart([each.need for each in found]), encoding="utf-8")
    if as_json:
        print_json(_document(found, asked, len(parts)))
    else:
        own = any(each.ttft_budget_ms != budget_ms for each in requests)
        budgets = "their own budgets" if own else f"{budget_ms:g} ms"
        title = f"engines that keep {budgets} for {1 - alpha:.0%} of the requests, simulated"
        columns = (
            "accuracy floor",
            "controller",
            "router",
            "engines",
            "mean over stretches",
            "95 % CI",
            "held out kept",
        )
        print_table(title, columns, [_row(each) for each in found])
        say(f"assumed: {_assumed(ways)}")


def _floor(word: str) -> float:
    try:
        value = float(word)
    except ValueError as error:
        raise InvalidValueError("accuracy floor", word, "a number from 0 to 1") from error
    if not 0 <= value <= 1:
        raise InvalidValueError("accuracy floor", value, "a number from 0 to 1")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """The engines that are needed, and what they do: the mean share of budgets kept and the mean accuracy, on held-out stretches
    where there are any; `held_out_kept` is the share of these on which the promise is kept."""

    need: Need
    attainment: float | None = None
    accuracy: float | None = None
    held_out_kept: float | None = None


def _planned(asked: CapacityPlan, need: Need, parts: list[RequestColumns]) -> _Planned:
    if need.planned is None:
        return _Planned(need=need)
    held_out = parts[1::2]
    served = [
        asked.served(part, need.controller, need.router, need.accuracy_floor, need.planned)
        for part in held_out or parts
    ]
    kept = [asked.keeps(attainment) for attainment, _ in served]
    return _Planned(
        need=need,
        attainment=mean(attainment for attainment, _ in served),
        accuracy=mean(accuracy for _, accuracy in served),
        held_out_kept=sum(kept) / len(kept) if held_out else None,
    )


def _interval(need: Need) -> tuple[float, float, float] | None:
    """Return the mean over stretches and its 95 % t interval; None without two stretches that something suffices for."""
    counts = [each for each in need.replicas if each is not None]
    half = t_half_width(counts)
    if len(counts) < len(need.replicas) or half is None:
        return None
    return mean(counts), mean(counts) - half, mean(counts) + half


def _document(found: list[_Planned], asked: CapacityPlan, stretches: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "simulated": True,
        "assumed": _assumed(asked.ways),
        "alpha": asked.alpha,
        "stretches": stretches,
        "plans": [
            {
                "accuracy_floor": each.need.accuracy_floor,
                "controller": each.need.controller,
                "router": each.need.router,
                "replicas": each.need.planned,
                "by_stretch": list(each.need.replicas),
                "ci": _ends(each.need),
                "attainment": each.attainment,
                "accuracy": each.accuracy,
                "held_out_kept": each.held_out_kept,
            }
            for each in found
        ],
    }
    if len({each.need.accuracy_floor for each in found}) > 1:
        return document
    replicas = _by_cell(found, lambda each: {"replicas": each.need.planned, "ci": _ends(each.need)})
    kept, accuracy = (_by_cell(found, attrgetter(name)) for name in ("attainment", "accuracy"))
    return {**document, "replicas": replicas, "attainment": kept, "accuracy": accuracy}


def _by_cell(found: list[_Planned], value: Callable[[_Planned], Any]) -> dict[str, dict[str, Any]]:
    """Return a figure by controller and router, of plans for one accuracy."""
    cells: dict[str, dict[str, Any]] = {}
    for each in found:
        cells.setdefault(each.need.controller, {})[each.need.router] = value(each)
    return cells


def _ends(need: Need) -> list[float] | None:
    interval = _interval(need)
    return None if interval is None else list(interval[1:])


def _assumed(ways: Sequence[ServedWay]) -> str:
    """Return in words what of the configurations' costs is an assumption, and of how many samples each is where they differ."""
    count, memory = sum(way.assumed for way in ways), "memory that never runs out"
    least, most = min(way.samples for way in ways), max(way.samples for way in ways)
    uneven = (
        f"; configurations have {least:,} to {most:,} samples: they may not be the same ones" if least < most else ""
    )
    if not count:
        return f"{memory}; prefill shares of all configurations are those of the engine's own steps{uneven}"
    return (
        f"{memory}, and for {count} of {len(ways)} configurations that fewer experts and blocks save what they save requests "
        f"alone on the profile's own device{uneven}"
    )


def _row(each: _Planned) -> list[object]:
    need = each.need
    interval = _interval(need)
    middle = ("", "") if interval is None else (f"{interval[0]:.1f}", f"{interval[1]:.1f} to {interval[2]:.1f}")
    count = "none suffices" if need.planned is None else str(need.planned)
    return [
        f"{need.accuracy_floor:g}",
        need.controller,
        need.router,
        count,
        *middle,
        None if each.held_out_kept is None else f"{each.held_out_kept:.0%}",
    ]
