"""`paceline tune price`: the floor of the price of an engine's time, found in virtual time."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

from paceline.cli.flags.lists import split_numbers
from paceline.cli.printing import JsonFlag, note, print_json, print_table, progress_bar, say
from paceline.cli.tune.flags import ChunkSizeOption, LimitOption, SeedOption
from paceline.errors import InvalidValueError
from paceline.schedule import EngineTime, PlannerSettings
from paceline.schedule.step_time import configuration_times
from paceline.simulate import RequestColumns, SimulatedEngine
from paceline.simulate.engine_settings import PACELINE
from paceline.tune.capacity import stretches_of, ways_of
from paceline.tune.price_floor import JudgedFloor, PriceTuning, TriedFloor, TunedFloor, tune_floor, with_budgets
from paceline.tune.simulated import blocks_that_last
from paceline.tune.trace import read_trace
from paceline.tune.workload import LoadScaling, scaled


def price(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="CSV or JSONL of arrivals and lengths (docs/traces.md).")
    ],
    profile: Annotated[Path, typer.Option(help="What the configurations are worth and cost: any profile.")],
    step_time: Annotated[Path, typer.Option(help="A model file of `paceline tune step-time`.")],
    budgets_ms: Annotated[
        list[str] | None,
        typer.Option(
            help="First-token budgets, with equal chance, of requests that bring none; inf leaves them without.",
            show_default="those of the trace",
        ),
    ] = None,
    default_budget_ms: Annotated[
        float | None,
        typer.Option(help="What the server gives those without a budget.", show_default="they are served whole"),
    ] = None,
    speeds: Annotated[
        list[str] | None, typer.Option(help="Loads: arrival times are divided by each of these.", show_default="1")
    ] = None,
    floors: Annotated[
        list[str] | None,
        typer.Option(help="To be tried, accuracy a second of prefill.", show_default="0 to 1.12 by the model's time"),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Share of bounds that may fail.")] = 0.1,
    stretches: Annotated[int, typer.Option(help="Parts of the trace; odd ones choose, even ones judge.")] = 8,
    limit: LimitOption = None,
    chunk_size: ChunkSizeOption = 2048,
    max_num_seqs: Annotated[int, typer.Option(help="Most requests that run at once.")] = 128,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Find the floor of the price of an engine's time, `price_floor` in vLLM, for a trace and its budgets."""
    requests = scaled(read_trace(trace), LoadScaling(limit=limit)).requests
    ways, time = ways_of(profile, configuration_times(step_time)), EngineTime.load(step_time)
    image = max(way.image_tokens for way in ways)
    longest = [replace(each, prompt_tokens=each.prompt_tokens + image) for each in requests]
    engine = SimulatedEngine(
        rules=PACELINE,
        planner=PlannerSettings(chunk_size=chunk_size, policy="edf"),
        max_num_seqs=max_num_seqs,
        num_blocks=blocks_that_last(longest, max_num_seqs=max_num_seqs, block_size=16),
    )
    tuning = PriceTuning(
        engine=engine,
        time=time,
        ways=ways,
        alpha=alpha,
        default_budget_seconds=None if default_budget_ms is None else default_budget_ms / 1e3,
    )
    load = RequestColumns.of(requests)
    budgets = _budgets_seconds(budgets_ms)
    if budgets is not None:
        load = with_budgets(load, budgets, seed)
    elif not any(math.isfinite(each) for each in load.budgets.tolist()):
        raise InvalidValueError("--budgets-ms", None, "budgets, for the trace has none: for example 250 500 1000 inf")
    rates = split_numbers("speeds", speeds) or [1.0]
    loads = [stretches_of(_faster(load, speed), stretches) for speed in rates]
    tried = split_numbers("floors", floors)
    if any(not (math.isfinite(each) and each >= 0) for each in tried or ()):
        raise InvalidValueError("floors", tried, "numbers of at least 0")
    with progress_bar(f"simulating {len(load):,} requests at {len(loads)} loads") as move:
        found = tune_floor(tuning, loads, floors=tried, on_progress=move)
    if as_json:
        print_json(_document(found, rates))
    else:
        _print(found, rates)


def _budgets_seconds(words: list[str] | None) -> list[float] | None:
    budgets = split_numbers("--budgets-ms", words)
    if budgets is not None and not all(each > 0 for each in budgets):
        raise InvalidValueError("--budgets-ms", budgets, "milliseconds above 0, or inf")
    return None if budgets is None else [each / 1e3 for each in budgets]


def _faster(load: RequestColumns, speed: float) -> RequestColumns:
    if not (math.isfinite(speed) and speed > 0):
        raise InvalidValueError("speeds", speed, "numbers above 0")
    return replace(load, arrival_seconds=load.arrival_seconds / speed)


def _document(found: TunedFloor, speeds: list[float]) -> dict[str, object]:
    return {
        "simulated": True,
        "price_floor": found.best.floor,
        "t0_ms": 1e3 * found.t0_seconds,
        "tried": [
            {
                "floor": each.floor,
                "value": each.value,
                "by_speed": dict(zip(map(str, speeds), each.values, strict=True)),
            }
            for each in found.tried
        ],
        "held_out": [{"speed": speed, **_held_out(each)} for speed, each in zip(speeds, found.judged, strict=True)],
    }


def _held_out(judged: JudgedFloor) -> dict[str, object]:
    kept, promised = judged.promises
    return {
        "value": mean(each.value for each in judged.floor),
        "attainment": mean(each.attainment for each in judged.floor),
        "accuracy": mean(each.accuracy for each in judged.floor),
        "promised": promised,
        "promises_kept": kept,
        "over_no_floor": _difference(*judged.less(judged.none)),
        "best_fixed": judged.fixed_way.config.key,
        "over_best_fixed": _difference(*judged.less(judged.fixed)),
    }


def _difference(value: float, half: float | None) -> dict[str, float | None]:
    return {"value": value, "half_width": half}


def _print(found: TunedFloor, speeds: list[float]) -> None:
    title = "value by floor, simulated: accuracy of those in time, over all with a budget"
    columns = ("floor, accuracy/s", *(f"speed {speed:g}" for speed in speeds), "mean")
    print_table(title, columns, [_row(each, found.best) for each in found.tried])
    rows = [_judged_row(speed, each) for speed, each in zip(speeds, found.judged, strict=True)]
    columns = ("speed", "value", "attainment", "promises kept", "over floor 0", "over the best for all", "which is")
    print_table(f"floor {found.best.floor:g} on stretches that chose nothing", columns, rows)
    say(f"T0, the largest configuration alone: {1e3 * found.t0_seconds:,.0f} ms")
    floor = found.best.floor
    settings = json.dumps({"paceline": {"price_floor": floor}})
    say(f"price_floor: {floor:g}   (vLLM: --additional-config '{settings}')")
    if floor == max(each.floor for each in found.tried) > 0:
        note(
            f"the largest floor that was tried is the best: try more with --floors {floor:g} {2 * floor:g}",
            mark="caution",
        )


def _row(tried: TriedFloor, best: TriedFloor) -> list[object]:
    mark = " *" if tried is best else ""
    return [f"{tried.floor:g}{mark}", *(f"{value:.3f}" for value in tried.values), f"{tried.value:.3f}"]


def _judged_row(speed: float, judged: JudgedFloor) -> list[object]:
    kept, promised = judged.promises
    return [
        f"{speed:g}",
        f"{mean(each.value for each in judged.floor):.3f}",
        f"{mean(each.attainment for each in judged.floor):.3f}",
        f"{kept / promised:.3f} of {promised:,}" if promised else "none given",
        _signed(*judged.less(judged.none)),
        _signed(*judged.less(judged.fixed)),
        judged.fixed_way.config.key,
    ]


def _signed(value: float, half: float | None) -> str:
    return f"{value:+.3f}" if half is None else f"{value:+.3f} ± {half:.3f}"
