"""`paceline tune price`: the price of an engine's time, found in virtual time."""

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
from paceline.schedule import EngineTime
from paceline.schedule.step_time import configuration_times
from paceline.simulate import RequestColumns
from paceline.tune.capacity import engine_that_lasts, stretches_of, ways_of
from paceline.tune.price import PRICES, JudgedPrice, PriceTuning, TriedPrice, TunedPrice, tune_price, with_budgets
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
    prices: Annotated[
        list[str] | None,
        typer.Option(
            help="To be tried: the accuracy that each of those loses who arrive during a prefill.",
            show_default=" ".join(f"{each:g}" for each in PRICES),
        ),
    ] = None,
    price_floor: Annotated[float, typer.Option(help="Accuracy that a second of prefill must bring at least.")] = 0.0,
    alpha: Annotated[float, typer.Option(help="Share of bounds that may fail.")] = 0.1,
    stretches: Annotated[int, typer.Option(help="Parts of the trace; odd ones choose, even ones judge.")] = 8,
    limit: LimitOption = None,
    chunk_size: ChunkSizeOption = 2048,
    max_num_seqs: Annotated[int, typer.Option(help="Most requests that run at once.")] = 128,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Find the price of an engine's time, `price_per_arrival` in vLLM, for a trace and its budgets."""
    requests = scaled(read_trace(trace), LoadScaling(limit=limit)).requests
    ways, time = ways_of(profile, configuration_times(step_time)), EngineTime.load(step_time)
    engine = engine_that_lasts(requests, ways, chunk_size=chunk_size, max_num_seqs=max_num_seqs)
    tuning = PriceTuning(
        engine=engine,
        time=time,
        ways=ways,
        alpha=alpha,
        floor=price_floor,
        default_budget_seconds=None if default_budget_ms is None else default_budget_ms / 1e3,
    )
    load = _with_budgets(RequestColumns.of(requests), budgets_ms, seed)
    rates = split_numbers("speeds", speeds) or [1.0]
    loads = [stretches_of(_faster(load, speed), stretches) for speed in rates]
    tried = split_numbers("prices", prices) or PRICES
    if not all(math.isfinite(each) and each >= 0 for each in tried):
        raise InvalidValueError("prices", tried, "numbers of at least 0")
    with progress_bar(f"simulating {len(load):,} requests at {len(loads)} loads") as move:
        found = tune_price(tuning, loads, prices=tried, on_progress=move)
    if as_json:
        print_json(_document(found, rates))
    else:
        _print(found, rates)


def _with_budgets(load: RequestColumns, words: list[str] | None, seed: int) -> RequestColumns:
    budgets_ms = split_numbers("--budgets-ms", words)
    if budgets_ms is None:
        if not any(math.isfinite(each) for each in load.budgets.tolist()):
            expected = "budgets, for the trace has none: for example 250 500 1000 inf"
            raise InvalidValueError("--budgets-ms", None, expected)
        return load
    if not all(each > 0 for each in budgets_ms):
        raise InvalidValueError("--budgets-ms", budgets_ms, "milliseconds above 0, or inf")
    return with_budgets(load, [each / 1e3 for each in budgets_ms], seed)


def _faster(load: RequestColumns, speed: float) -> RequestColumns:
    if not (math.isfinite(speed) and speed > 0):
        raise InvalidValueError("speeds", speed, "numbers above 0")
    return replace(load, arrival_seconds=load.arrival_seconds / speed)


def _document(found: TunedPrice, speeds: list[float]) -> dict[str, object]:
    return {
        "simulated": True,
        "price_per_arrival": found.best.per_arrival,
        "t0_ms": 1e3 * found.t0_seconds,
        "tried": [
            {
                "price": each.per_arrival,
                "value": each.value,
                "by_speed": dict(zip(map(str, speeds), each.values, strict=True)),
            }
            for each in found.tried
        ],
        "held_out": [{"speed": speed, **_held_out(each)} for speed, each in zip(speeds, found.judged, strict=True)],
    }


def _held_out(judged: JudgedPrice) -> dict[str, object]:
    kept, promised = judged.promises
    return {
        "value": mean(each.value for each in judged.priced),
        "attainment": mean(each.attainment for each in judged.priced),
        "accuracy": mean(each.accuracy for each in judged.priced),
        "promised": promised,
        "promises_kept": kept,
        "over_none": _difference(*judged.less(judged.none)),
        "best_fixed": judged.fixed_way.config.key,
        "over_best_fixed": _difference(*judged.less(judged.fixed)),
    }


def _difference(value: float, half: float | None) -> dict[str, float | None]:
    return {"value": value, "half_width": half}


def _print(found: TunedPrice, speeds: list[float]) -> None:
    title = "value by price, simulated: accuracy of those in time, over all with a budget"
    columns = ("accuracy an arrival", *(f"speed {speed:g}" for speed in speeds), "mean")
    print_table(title, columns, [_row(each, found.best) for each in found.tried])
    rows = [_judged_row(speed, each) for speed, each in zip(speeds, found.judged, strict=True)]
    columns = ("speed", "value", "attainment", "promises kept", "over none", "over the best for all", "which is")
    print_table(f"{found.best.per_arrival:g} an arrival on stretches that chose nothing", columns, rows)
    say(f"T0, the largest configuration alone: {1e3 * found.t0_seconds:,.0f} ms")
    price = found.best.per_arrival
    settings = json.dumps({"paceline": {"price_per_arrival": price}})
    say(f"price_per_arrival: {price:g}   (vLLM: --additional-config '{settings}')")
    if price == max(each.per_arrival for each in found.tried) > 0:
        note(f"the largest that was tried is the best: try more with --prices {price:g} {2 * price:g}", mark="caution")


def _row(tried: TriedPrice, best: TriedPrice) -> list[object]:
    mark = " *" if tried is best else ""
    return [f"{tried.per_arrival:g}{mark}", *(f"{value:.3f}" for value in tried.values), f"{tried.value:.3f}"]


def _judged_row(speed: float, judged: JudgedPrice) -> list[object]:
    kept, promised = judged.promises
    return [
        f"{speed:g}",
        f"{mean(each.value for each in judged.priced):.3f}",
        f"{mean(each.attainment for each in judged.priced):.3f}",
        f"{kept / promised:.3f} of {promised:,}" if promised else "none given",
        _signed(*judged.less(judged.none)),
        _signed(*judged.less(judged.fixed)),
        judged.fixed_way.config.key,
    ]


def _signed(value: float, half: float | None) -> str:
    return f"{value:+.3f}" if half is None else f"{value:+.3f} ± {half:.3f}"
