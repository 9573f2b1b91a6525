"""What budgets a profile supports: latency percentiles, accuracy-latency fronts per dataset, recommended ranges.

Takes the samples frame of a profile; every figure is computed from the samples, none is stored. Deviations are of the
population form (divided by n), as in table files.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.profiles.fields import CONFIGURATION, dataset_name
from paceline.records import KnobConfig

LATENCIES = {
    "ttft": pl.col("T_ttft"),
    "prefill": pl.col("T_vision_total") + pl.col("T_LLM_prefill"),
    "llm-prefill": pl.col("T_LLM_prefill"),
    "total": pl.col("T_total"),
}
PERCENTILES = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
RANGE_STEP_MS = 10
STEP_PARTS = (1.0, 0.5, 0.2)  # of 10 ms, then of 1, 0.1 … where latencies are too short for that
BUDGET_STEPS = 5  # of the range's step from one sample budget to the next
LINSPACE_POINTS = 10
KEPT_SHARE = 0.95
STEP_SLACK = 1e-9  # a float division that should give a whole number misses it by less
NANOSECOND_DIGITS = 6  # sums of floats miss whole milliseconds by less than this many decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPercentiles:
    """The distribution of one latency over samples, in milliseconds, linear between neighbouring values."""

    min: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float
    mean: float
    std: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigPoint:
    """One configuration's mean accuracy and mean latency over its samples."""

    config: KnobConfig
    accuracy: float
    latency_ms: float
    accuracy_std: float
    latency_std_ms: float
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFront:
    """Every configuration of one dataset, and those on its accuracy-latency front, both fastest first."""

    points: tuple[ConfigPoint, ...]
    front: tuple[ConfigPoint, ...]

    @property
    def fastest(self) -> ConfigPoint:
        """The front's cheapest point."""
        return self.front[0]

    @property
    def most_accurate(self) -> ConfigPoint:
        """The front's slowest point, which no configuration beats in accuracy."""
        return self.front[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontsAcross:
    """How the fronts of datasets compare; `jaccard` is the mean over pairs of datasets, None where there is one."""

    min_ms: float
    max_ms: float
    mean_min_ms: float
    mean_max_ms: float
    median_min_ms: float
    median_max_ms: float
    jaccard: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendedBudgets:
    """Budget ranges worth serving, and sample budgets within the range of the fronts, all in milliseconds."""

    percentile_range_ms: tuple[float, float]
    safer_upper_ms: float
    front_range_ms: tuple[float, float]
    budgets_ms: tuple[float, ...]
    linspace_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenBudgets:
    """Budgets in milliseconds, ascending, and where they come from in words."""

    budgets_ms: tuple[float, ...]
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAnalysis:
    """All that a profile says of budgets of one latency kind."""

    latency_kind: str
    percentiles: LatencyPercentiles
    datasets: Mapping[str, DatasetFront]
    across: FrontsAcross
    recommended: RecommendedBudgets

    @property
    def on_no_front(self) -> tuple[KnobConfig, ...]:
        """The configurations that are on no dataset's front: measured, and worth taking nowhere; smallest first."""
        measured = {point.config for dataset in self.datasets.values() for point in dataset.points}
        useful = {point.config for dataset in self.datasets.values() for point in dataset.front}
        return tuple(sorted(measured - useful, key=lambda config: config.size))


def analyze_budgets(
    samples: pl.DataFrame, *, latency_kind: str = "prefill", datasets: Sequence[str] | None = None
) -> BudgetAnalysis:
    """Return percentiles, fronts and recommended budgets of a profile's samples, all of one latency kind.

    Raises InvalidValueError where samples do not tell that kind.
    """
    samples = of_datasets(samples, datasets)
    require_latency(samples, latency_kind)
    fronts = {
        name: DatasetFront(points=points, front=pareto_front(points))
        for name, points in dataset_points(samples, latency_kind).items()
    }
    percentiles = latency_percentiles(samples, latency_kind)
    across = compare_fronts([each.front for each in fronts.values()])
    return BudgetAnalysis(
        latency_kind=latency_kind,
        percentiles=percentiles,
        datasets=fronts,
        across=across,
        recommended=recommend_budgets(percentiles.p5, percentiles.p95, across.min_ms, across.max_ms),
    )


def latency_of(kind: str) -> pl.Expr:
    """Return the expression for a latency kind over the columns of a samples frame: ttft, prefill, llm-prefill or total."""
    if kind not in LATENCIES:
        raise UnknownChoiceError("latency kind", kind, tuple(LATENCIES))
    return LATENCIES[kind]


def require_latency(samples: pl.DataFrame, kind: str) -> None:
    """Raise InvalidValueError where samples do not tell a latency kind: those measured before it was are never made up."""
    for name in latency_of(kind).meta.root_names():
        missing = samples[name].null_count() if name in samples.columns else samples.height
        if missing:
            raise InvalidValueError(
                "latency kind",
                kind,
                f"prefill or total: {missing:,} of {samples.height:,} samples hold no {name}, they are older than it; "
                f"profile again to have {kind} latencies",
            )


def analyzed_columns(kind: str) -> list[str]:
    """Return the columns of a samples frame that an analysis of one latency kind reads."""
    return ["dataset", *CONFIGURATION, "accuracy", *latency_of(kind).meta.root_names()]


def of_datasets(samples: pl.DataFrame, datasets: Sequence[str] | None) -> pl.DataFrame:
    """Return the samples of the named datasets (`-` and `_` alike), all for None; raises when one is not there."""
    if samples.is_empty():
        raise InvalidValueError("profile", "empty", "at least one sample; measure one with `paceline profile`")
    if datasets is None:
        return samples
    present = dataset_names(samples)
    wanted = [dataset_name(name) for name in datasets]
    for name in wanted:
        if name not in present:
            raise UnknownChoiceError("dataset", name, present)
    return samples.filter(pl.col("dataset").cast(pl.String).is_in(wanted))


def dataset_names(samples: pl.DataFrame) -> list[str]:
    """Return the datasets that have samples, in order of name."""
    return sorted(samples["dataset"].unique().cast(pl.String).to_list())


def latency_percentiles(samples: pl.DataFrame, kind: str) -> LatencyPercentiles:
    """Return the percentiles of a latency kind over all samples."""
    latencies = samples.select(latency_of(kind)).to_series().sort()
    cuts = {name: _number(latencies.quantile(cut / 100, "linear")) for name, cut in PERCENTILES.items()}
    mean, std = _number(latencies.mean()), _number(latencies.std(ddof=0))
    return LatencyPercentiles(**cuts, mean=mean, std=std, n=len(latencies))


def dataset_points(samples: pl.DataFrame, kind: str) -> dict[str, tuple[ConfigPoint, ...]]:
    """Return each dataset's configurations with mean accuracy and mean latency, fastest first."""
    # the latency becomes a column first: summed inside the groups it costs three times as much
    frame = samples.lazy().select("dataset", *CONFIGURATION, "accuracy", latency_ms=latency_of(kind))
    rows = frame.group_by("dataset", *CONFIGURATION).agg(
        pl.col("accuracy", "latency_ms").mean(),
        accuracy_std=pl.col("accuracy").std(ddof=0),
        latency_std_ms=pl.col("latency_ms").std(ddof=0),
        num_samples=pl.len(),
    )
    found: dict[str, list[ConfigPoint]] = {name: [] for name in dataset_names(samples)}
    for row in rows.collect().iter_rows(named=True):
        config = KnobConfig(**{name: row.pop(name) for name in CONFIGURATION})
        found[row.pop("dataset")].append(ConfigPoint(config=config, **row))
    return {name: tuple(sorted(points, key=_fastest_first)) for name, points in found.items()}


def pareto_front(points: Sequence[ConfigPoint]) -> tuple[ConfigPoint, ...]:
    """Return, fastest first, the points that no other beats: as accurate and as fast, one of them strictly."""
    front: list[ConfigPoint] = []
    for point in sorted(points, key=_fastest_first):
        last = front[-1] if front else None
        if last is None or point.accuracy > last.accuracy or _equal(point, last):
            front.append(point)
    return tuple(front)


def compare_fronts(fronts: Sequence[Sequence[ConfigPoint]]) -> FrontsAcross:
    """Return what the fronts of at least one dataset have in common; each must be fastest first."""
    smallest = [front[0].latency_ms for front in fronts]
    largest = [front[-1].latency_ms for front in fronts]
    return FrontsAcross(
        min_ms=min(smallest),
        max_ms=max(largest),
        mean_min_ms=fmean(smallest),
        mean_max_ms=fmean(largest),
        median_min_ms=median(smallest),
        median_max_ms=median(largest),
        jaccard=mean_jaccard([{point.config for point in front} for front in fronts]),
    )


def mean_jaccard(sets: Sequence[set[KnobConfig]]) -> float | None:
    """Return |A ∩ B| / |A ∪ B| averaged over the pairs of non-empty sets; None when there is no pair."""
    pairs = [len(one & other) / len(one | other) for one, other in combinations(sets, 2)]
    return fmean(pairs) if pairs else None


def recommend_budgets(p5_ms: float, p95_ms: float, front_min_ms: float, front_max_ms: float) -> RecommendedBudgets:
    """Return the recommended ranges from two percentiles and from the smallest and largest front latency.

    They end at multiples of 10 ms and budgets lie 50 ms apart; where a latency is shorter than 10 ms its end is a multiple
    of the largest of 5, 2, 1, 0.5 … ms that is not longer, and so is a fifth of the gap between budgets by their range.
    """
    percentile_low, percentile_high = _ends(p5_ms, p95_ms, math.floor)
    low, high = _ends(front_min_ms, front_max_ms, math.ceil)
    between = _between(low, high, BUDGET_STEPS * _step_below(high - low))
    return RecommendedBudgets(
        percentile_range_ms=(percentile_low, percentile_high),
        safer_upper_ms=_rounded(percentile_high, BUDGET_STEPS * _step_below(p95_ms), math.ceil),
        front_range_ms=(low, high),
        budgets_ms=tuple(dict.fromkeys([low, *between, high])),
        linspace_ms=tuple(float(budget) for budget in np.linspace(low, high, LINSPACE_POINTS)),
    )


def default_budgets(samples: pl.DataFrame, latency_kind: str) -> ChosenBudgets:
    """Return ten budgets from samples that do not judge: the recommended ones, or finer ones where those are too coarse.

    Recommended ranges end at multiples of 10 ms. Where ten budgets would lie closer together than that, the fronts' ends
    are finer than the rounding: then they run from the fastest to the slowest configuration's 95th percentile.
    """
    recommended = analyze_budgets(samples, latency_kind=latency_kind).recommended
    low, high = recommended.front_range_ms
    if high - low >= RANGE_STEP_MS * (LINSPACE_POINTS - 1):
        return ChosenBudgets(budgets_ms=recommended.linspace_ms, origin="ten over the recommended range")
    frame = samples.lazy().select(*CONFIGURATION, latency_ms=latency_of(latency_kind))
    percentiles = frame.group_by(CONFIGURATION).agg(pl.col("latency_ms").quantile(KEPT_SHARE, "linear")).collect()
    ends_ms = percentiles["latency_ms"].sort()
    budgets = np.linspace(ends_ms[0], ends_ms[-1], LINSPACE_POINTS if ends_ms[-1] > ends_ms[0] else 1)
    return ChosenBudgets(
        budgets_ms=tuple(round(float(budget), 2) for budget in budgets),
        origin="from the fastest to the slowest configuration's p95: the recommended range is too coarse for this profile",
    )


def uniform_budgets(range_ms: tuple[float, float], random: Generator, count: int) -> NDArray[np.float64]:
    """Draw `count` budgets in milliseconds, uniform over a range whose low end is above 0."""
    low, high = range_ms
    if not 0 < low <= high < math.inf:
        raise InvalidValueError("budget range", range_ms, "two numbers of milliseconds, 0 < low <= high")
    return random.uniform(low, high, size=count)


def listed_budgets(budgets_ms: Sequence[float], random: Generator, count: int) -> NDArray[np.float64]:
    """Draw `count` budgets in milliseconds from a list, each with the same chance."""
    if not budgets_ms or not all(0 < budget < math.inf for budget in budgets_ms):
        raise InvalidValueError("budgets", budgets_ms, "at least one number of milliseconds, all above 0")
    return random.choice(np.asarray(budgets_ms, dtype=np.float64), size=count)


def soft_penalty_ms(
    *, prefill_ms: float, budget_ms: float, decode_ms: float, decode_target_ms: float, alpha: float = 0.15
) -> float:
    """Return what prefill exceeds its budget by, plus `alpha` (0.1 to 0.2) times what decode exceeds its target by."""
    if not 0.1 <= alpha <= 0.2:
        raise InvalidValueError("alpha", alpha, "a number from 0.1 to 0.2")
    return max(0.0, prefill_ms - budget_ms) + alpha * max(0.0, decode_ms - decode_target_ms)


def budgets_document(analysis: BudgetAnalysis) -> dict[str, Any]:
    """Return the analysis as the JSON document of `paceline budgets`."""
    shown, recommended, across = analysis.percentiles, analysis.recommended, analysis.across
    return {
        "latency_kind": analysis.latency_kind,
        "n": shown.n,
        "percentiles_ms": {name: getattr(shown, name) for name in (*PERCENTILES, "mean", "std")},
        "datasets": {name: _front_document(each) for name, each in analysis.datasets.items()},
        "across": {name: getattr(across, name) for name in FrontsAcross.__slots__},
        "recommended": {
            "percentile_range_ms": list(recommended.percentile_range_ms),
            "safer_upper_ms": recommended.safer_upper_ms,
            "front_range_ms": list(recommended.front_range_ms),
            "budgets_ms": list(recommended.budgets_ms),
            "linspace_ms": list(recommended.linspace_ms),
        },
        "on_no_front": [config.key for config in analysis.on_no_front],
    }


def _front_document(dataset: DatasetFront) -> dict[str, Any]:
    return {
        "front": [_point_document(point) for point in dataset.front],
        "front_points": len(dataset.front),
        "most_accurate": _point_document(dataset.most_accurate),
        "fastest": _point_document(dataset.fastest),
    }


def _point_document(point: ConfigPoint) -> dict[str, str | int | float | None]:
    knobs = {name: getattr(point.config, name) for name in CONFIGURATION}
    return {**knobs, "accuracy": point.accuracy, "latency_ms": point.latency_ms}


def _fastest_first(point: ConfigPoint) -> tuple[float, float, tuple[int, int, int]]:
    return point.latency_ms, -point.accuracy, point.config.size


def _equal(one: ConfigPoint, other: ConfigPoint) -> bool:
    return one.accuracy == other.accuracy and one.latency_ms == other.latency_ms


def _step_below(value_ms: float) -> float:
    """Return the largest step of 10, 5, 2, 1, 0.5 … ms that is at most `value_ms`; 10 for no latency at all."""
    scale = float(RANGE_STEP_MS)
    while value_ms > 0:
        for part in STEP_PARTS:
            if part * scale <= value_ms:
                return _multiple(1, part * scale)
        scale /= 10
    return RANGE_STEP_MS


def _ends(low_ms: float, high_ms: float, low_end: Callable[[float], int]) -> tuple[float, float]:
    """Return a range whose low end is rounded by `low_end` and whose high end is rounded up."""
    low = _rounded(low_ms, _step_below(low_ms), low_end)
    return low, max(low, _rounded(high_ms, _step_below(high_ms), math.ceil))


def _rounded(value_ms: float, step_ms: float, whole: Callable[[float], int]) -> float:
    slack = STEP_SLACK if whole is math.floor else -STEP_SLACK
    return _multiple(whole(round(value_ms, NANOSECOND_DIGITS) / step_ms + slack), step_ms)


def _between(low_ms: float, high_ms: float, step_ms: float) -> list[float]:
    """Return the multiples of a step strictly between two ends."""
    first = math.floor(low_ms / step_ms + STEP_SLACK) + 1
    return [_multiple(count, step_ms) for count in range(first, math.ceil(high_ms / step_ms - STEP_SLACK))]


def _multiple(count: int, step_ms: float) -> float:
    """Return count · step without the last digits that a float adds: a whole number where it is one."""
    product = round(count * step_ms, NANOSECOND_DIGITS)
    return int(product) if product == int(product) else product


def _number(value: object) -> float:
    assert isinstance(value, float), "polars reduces a Float64 column that is not empty to a float"
    return value
