"""Thousands of simulated settings of one load: their figures, and which of them no other beats in everything."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from math import ceil
from multiprocessing import get_context

import numpy as np

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.schedule.policies import POLICIES, PolicyWeights
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.trace_request import TraceRequest
from paceline.simulate import RULES, RequestColumns, SimulatedEngine, StepCost, simulate
from paceline.simulate.load import Floats
from paceline.simulate.simulation import FAST
from paceline.slo import percentile
from paceline.tune.host import OnProgress

Value = str | int | float | None
WORDS = {"policy": tuple(POLICIES), "rules": RULES}
NUMBERS = ("target_time_ms", "target_base_share", "watermark", "time_weight", "prompt_weight", "no_budget_seconds")
PLANNER_KEYS = tuple(
    each.name for each in fields(PlannerSettings) if each.name not in ("weights", "indivisible_tokens")
)
WEIGHT_KEYS = tuple(each.name for each in fields(PolicyWeights))
ENGINE_KEYS = ("rules", "max_num_seqs", "num_blocks", "block_size", "watermark")
SWEPT_KEYS = (*PLANNER_KEYS, *WEIGHT_KEYS, *ENGINE_KEYS)
SETTINGS_A_PROCESS = 8  # fewer are done before another process has started


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingFigures:
    """What one setting comes to; `changes` is what it sets, times are milliseconds, rates a second of the whole run.

    TPOT is None where no request has two output tokens, goodput where none has a first-token budget.
    """

    changes: Mapping[str, Value]
    ttft_p50_ms: float
    ttft_p95_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float | None
    tpot_p95_ms: float | None
    requests_per_second: float
    goodput_per_second: float | None
    preemptions: int

    def document(self) -> dict[str, object]:
        """Return the figures ready for JSON."""
        figures: dict[str, object] = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**figures, "changes": dict(self.changes)}


def read_grid(words: Iterable[str]) -> dict[str, list[Value]]:
    """Return the values by setting of words such as `policy=fcfs,srtf`.

    `none` is no value. Raises UnknownChoiceError for a setting that does not exist, InvalidValueError for a bad value.
    """
    grid: dict[str, list[Value]] = {}
    for word in words:
        name, separator, values = word.partition("=")
        if name not in SWEPT_KEYS:
            raise UnknownChoiceError("setting to sweep", name, SWEPT_KEYS)
        if not separator or not values:
            raise InvalidValueError("--sweep", word, f"values, for example {name}=…,…")
        grid[name] = [_value(name, value) for value in values.split(",")]
    return grid


def settings_of(
    base: SimulatedEngine, grid: Mapping[str, Sequence[Value]]
) -> list[tuple[dict[str, Value], SimulatedEngine]]:
    """Return every combination of the grid with its engine; raises what its settings raise."""
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return [(changes, changed(base, changes)) for changes in combinations]


def changed(base: SimulatedEngine, changes: Mapping[str, Value]) -> SimulatedEngine:
    """Return the engine with some settings changed."""

    def of(keys: Sequence[str]) -> dict[str, object]:
        return {name: value for name, value in changes.items() if name in keys}

    weights = replace(base.planner.weights, **of(WEIGHT_KEYS))  # type: ignore[arg-type]
    planner = replace(base.planner, weights=weights, **of(PLANNER_KEYS))  # type: ignore[arg-type]
    return replace(base, planner=planner, **of(ENGINE_KEYS))  # type: ignore[arg-type]


def sweep_simulated(
    requests: Sequence[TraceRequest],
    settings: Sequence[tuple[Mapping[str, Value], SimulatedEngine]],
    cost: StepCost,
    *,
    workers: int,
    on_progress: OnProgress,
    computed_by: str = FAST,
) -> list[SettingFigures]:
    """Simulate every setting, in so many processes at most; `on_progress` counts settings."""
    load = RequestColumns.of(requests)
    budgets = np.array([np.nan if each.ttft_budget_ms is None else each.ttft_budget_ms for each in requests])
    one = partial(_figures, load=load, budgets_ms=budgets, cost=cost, computed_by=computed_by)
    processes = min(workers, ceil(len(settings) / SETTINGS_A_PROCESS))
    found: list[SettingFigures] = []
    if processes <= 1:
        results: Iterable[SettingFigures] = map(one, settings)
        return _counted(results, found, len(settings), on_progress)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        chunk = max(1, min(32, len(settings) // (4 * processes)))
        return _counted(pool.map(one, settings, chunksize=chunk), found, len(settings), on_progress)


def front(figures: Sequence[SettingFigures]) -> list[SettingFigures]:
    """Return the settings that no other beats: none is as good in P95 of TTFT and TPOT and in throughput, and better in one."""
    points = np.array([[each.ttft_p95_ms, each.tpot_p95_ms or 0.0, -each.requests_per_second] for each in figures])
    kept: list[SettingFigures] = []
    for point, each in zip(points, figures, strict=True):
        beaten = (points <= point).all(axis=1) & (points < point).any(axis=1)
        if not beaten.any():
            kept.append(each)
    return sorted(kept, key=lambda each: each.ttft_p95_ms)


def _counted(
    results: Iterable[SettingFigures], found: list[SettingFigures], total: int, on_progress: OnProgress
) -> list[SettingFigures]:
    for each in results:
        found.append(each)
        on_progress(len(found), total)
    return found


def _figures(
    setting: tuple[Mapping[str, Value], SimulatedEngine],
    *,
    load: RequestColumns,
    budgets_ms: Floats,
    cost: StepCost,
    computed_by: str,
) -> SettingFigures:
    changes, engine = setting
    run = simulate(load, engine, cost, computed_by=computed_by, with_steps=False)
    ttft_ms = 1e3 * (run.first_token_seconds - load.arrival_seconds)
    several = load.output_tokens > 1
    decoding = run.completion_seconds[several] - run.first_token_seconds[several]
    tpot_ms = (1e3 * decoding / (load.output_tokens[several] - 1)).tolist()
    seconds = float(run.completion_seconds.max() - load.arrival_seconds[0])
    within = int((ttft_ms <= budgets_ms).sum())
    ttfts = ttft_ms.tolist()
    return SettingFigures(
        changes=changes,
        ttft_p50_ms=percentile(ttfts, 50),
        ttft_p95_ms=percentile(ttfts, 95),
        ttft_p99_ms=percentile(ttfts, 99),
        tpot_p50_ms=percentile(tpot_ms, 50) if tpot_ms else None,
        tpot_p95_ms=percentile(tpot_ms, 95) if tpot_ms else None,
        requests_per_second=len(load) / seconds,
        goodput_per_second=None if np.isnan(budgets_ms).all() else within / seconds,
        preemptions=int(run.preemptions.sum()),
    )


def _value(name: str, text: str) -> Value:
    if text == "none":
        return None
    if name in WORDS:
        if text not in WORDS[name]:
            raise UnknownChoiceError(name, text, WORDS[name])
        return text
    try:
        return float(text) if name in NUMBERS else int(text)
    except ValueError:
        expected = "a number" if name in NUMBERS else "a whole number"
        raise InvalidValueError(f"--sweep {name}", text, f"{expected}, or none") from None
