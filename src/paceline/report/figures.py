"""The figures of the page, computed from a profile's samples as rows that charts and script read."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paceline.analyze import BudgetAnalysis, ConfigPoint, latency_of, latency_percentiles
from paceline.control import LookupTable
from paceline.profiles import CONFIGURATION
from paceline.profiles.told import Name, pictures_of, told_questions
from paceline.records import KnobConfig
from paceline.slo import Interval, MeanEstimate, clustered_estimate, wilson_interval

STAGES = {
    "vision": "T_vision_total",
    "LLM prefill": "T_LLM_prefill",
    "decode": "T_LLM_decode",
    "other": "T_other",
}
KNOB_WORDS = {"tier": "vision tier", "top_k": "experts a token", "num_active_blocks": "active blocks"}
SLIDER_STEPS = 160
BINS = 50
SHOWN_PERCENT = 99.5  # the tail beyond would squeeze the histogram; its size is said beside it
CUTS = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}

Row = dict[str, Any]


def shared_pictures(samples: pl.DataFrame) -> dict[Name, Name]:
    """Return what each question shares its picture under, by (dataset, sample_id); empty where metadata was not read."""
    if "metadata" not in samples.columns:
        return {}
    told = told_questions(samples)
    names = list(told)
    return dict(zip(names, pictures_of(told, names), strict=True))


def front_rows(analysis: BudgetAnalysis, samples: pl.DataFrame, pictures: Mapping[Name, Name]) -> dict[str, list[Row]]:
    """Return, for each dataset, a row a configuration with intervals, marked where it is on the front.

    Intervals count the pictures that questions share, where `pictures` tells them.
    """
    effects = _design_effects(samples, analysis.latency_kind, pictures) if pictures else {}
    return {
        name: [
            _point_row(point, point in dataset.front, effects.get((name, point.config.key), (1.0, 1.0)))
            for point in dataset.points
        ]
        for name, dataset in analysis.datasets.items()
    }


def _design_effects(
    samples: pl.DataFrame, latency_kind: str, pictures: Mapping[Name, Name]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the design effects of accuracy and latency by dataset and configuration."""
    frame = samples.select(
        pl.col("dataset").cast(pl.String), "sample_id", *CONFIGURATION, "accuracy", latency_ms=latency_of(latency_kind)
    )
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for part in frame.partition_by("dataset", *CONFIGURATION):
        first = part.row(0, named=True)
        accuracy, latency = (_mean_of(part, name, pictures) for name in ("accuracy", "latency_ms"))
        found[first["dataset"], _config(first).key] = (accuracy.design_effect, latency.design_effect)
    return found


def slider_budgets_ms(analysis: BudgetAnalysis) -> list[float]:
    """Return at most 160 evenly spaced round budgets, from below the fastest configuration to above the slowest."""
    latencies = [point.latency_ms for dataset in analysis.datasets.values() for point in dataset.points]
    low, high = 0.92 * min(latencies), 1.05 * max(latencies)
    exponent = math.floor(math.log10(max((high - low) / SLIDER_STEPS, 1e-3)))
    wide_enough = (step for step in (1, 2, 5, 10) if step * 10**exponent * SLIDER_STEPS >= high - low)
    step_ms = next(wide_enough) * 10**exponent
    first, last = max(1, math.floor(low / step_ms)), math.ceil(high / step_ms)
    return [round(index * step_ms, max(0, -exponent)) for index in range(first, last + 1)]


def taken_keys(table: LookupTable, budgets_ms: Sequence[float]) -> list[str]:
    """Return the key of the configuration that a table takes at each budget, the nearest where none fits."""
    return [table.key_at(budget_ms) for budget_ms in budgets_ms]


def unfit_budgets(table: LookupTable, budgets_ms: Sequence[float]) -> int:
    """Return how many budgets, from the smallest on, are below every configuration of a table."""
    return sum(not table.candidates(budget_ms) for budget_ms in budgets_ms)


def kept_shares(
    samples: pl.DataFrame,
    latency_kind: str,
    budgets_ms: Sequence[float],
    taken: Mapping[str, Mapping[str, Sequence[str]]],
    pictures: Mapping[Name, Name],
) -> dict[str, dict[str, list[list[float] | None]]]:
    """Return the share of a dataset's samples that keep each budget under the configuration taken there, with interval.

    `taken` maps dataset and controller to a configuration's key a budget; a configuration that the dataset was not
    measured under gives None. Where questions share pictures, an interval counts as few as if those of one picture were one
    (Kish's effective number).
    """
    kept = _kept_counts(samples, latency_kind, budgets_ms)
    effective = _effective_shares(samples, pictures) if pictures else {}

    def share(name: str, key: str, index: int) -> list[float] | None:
        if (name, key) not in kept:
            return None
        count, counts = kept[name, key]
        found = float(counts[index]) / count
        interval = wilson_interval(found, count * effective.get(name, 1.0))
        return [round(found, 3), round(interval.low, 3), round(interval.high, 3)]

    return {
        name: {
            controller: [share(name, key, index) for index, key in enumerate(keys)]
            for controller, keys in controllers.items()
        }
        for name, controllers in taken.items()
    }


def _effective_shares(samples: pl.DataFrame, pictures: Mapping[Name, Name]) -> dict[str, float]:
    """Return, by dataset, the effective number of questions over their number: (sum of m)^2 / sum of m^2, m a picture."""
    sizes: dict[str, Counter[Name]] = {}
    for dataset, sample_id in samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique().iter_rows():
        sizes.setdefault(dataset, Counter())[pictures[dataset, sample_id]] += 1
    return {name: each.total() / sum(m * m for m in each.values()) for name, each in sizes.items()}


def _kept_counts(
    samples: pl.DataFrame, latency_kind: str, budgets_ms: Sequence[float]
) -> dict[tuple[str, str], tuple[int, NDArray[np.int64]]]:
    """Return, by dataset and configuration, the number of samples and of those within each budget."""
    frame = samples.lazy().select("dataset", *CONFIGURATION, latency_ms=latency_of(latency_kind))
    groups = frame.group_by("dataset", *CONFIGURATION).agg(pl.col("latency_ms").sort()).collect()
    found: dict[tuple[str, str], tuple[int, NDArray[np.int64]]] = {}
    for row in groups.iter_rows(named=True):
        latencies = np.asarray(row["latency_ms"])
        counts = np.searchsorted(latencies, budgets_ms, side="right")
        found[row["dataset"], _config(row).key] = (len(latencies), counts)
    return found


def measured_stages(samples: pl.DataFrame) -> list[str]:
    """Return the stages that every sample has a time for; core-exp files know no `other`."""
    return [stage for stage, column in STAGES.items() if samples[column].null_count() == 0]


def stage_rows(samples: pl.DataFrame) -> list[Row]:
    """Return each configuration's mean stages laid end to end, fastest first; a stage that was not measured is left out."""
    stages = {stage: STAGES[stage] for stage in measured_stages(samples)}
    means = samples.lazy().group_by(CONFIGURATION).agg(pl.col(*stages.values()).mean(), count=pl.len())
    ordered = means.sort(pl.sum_horizontal(stages.values())).collect()
    rows: list[Row] = []
    for order, row in enumerate(ordered.iter_rows(named=True)):
        end = 0.0
        for stage, column in stages.items():
            start, end = end, end + row[column]
            cells = {"start": _round(start), "end": _round(end), "ms": _round(row[column])}
            rows.append({"key": _config(row).key, "order": order, "stage": stage, **cells, "n": row["count"]})
    return rows


def histogram_rows(samples: pl.DataFrame, latency_kind: str) -> list[Row]:
    """Return counts of samples by latency and tier, up to the 99.5th percentile."""
    frame = samples.select(pl.col("tier").cast(pl.String), latency_ms=latency_of(latency_kind))
    latencies = frame["latency_ms"].to_numpy()
    edges = np.histogram_bin_edges(latencies[latencies <= np.percentile(latencies, SHOWN_PERCENT)], BINS)
    rows: list[Row] = []
    for tier in frame["tier"].unique().sort().to_list():
        of_tier = frame.filter(pl.col("tier").eq_missing(pl.lit(tier)))["latency_ms"].to_numpy()
        for count, low, high in zip(np.histogram(of_tier, edges)[0].tolist(), edges[:-1], edges[1:], strict=True):
            if count:
                rows.append({"tier": tier or "all", "low": _round(low), "high": _round(high), "count": count})
    return rows


def percentile_rows(samples: pl.DataFrame, latency_kind: str) -> list[Row]:
    """Return each configuration's latency percentiles over all its samples, fastest median first."""
    frame = samples.lazy().select(*CONFIGURATION, latency_ms=latency_of(latency_kind))
    cuts = {name: pl.col("latency_ms").quantile(cut / 100, "linear") for name, cut in CUTS.items()}
    rows = frame.group_by(CONFIGURATION).agg(**cuts, n=pl.len()).sort("median").collect()
    return [
        {"key": _config(row).key, "order": order, "n": row["n"], **{name: _round(row[name]) for name in CUTS}}
        for order, row in enumerate(rows.iter_rows(named=True))
    ]


def dataset_percentiles(samples: pl.DataFrame, latency_kind: str, datasets: Sequence[str]) -> dict[str, Any]:
    """Return the latency percentiles of every dataset by name."""
    column = pl.col("dataset").cast(pl.String)
    return {name: latency_percentiles(samples.filter(column == name), latency_kind) for name in datasets}


def knob_rows(samples: pl.DataFrame, latency_kind: str, pictures: Mapping[Name, Name]) -> dict[str, list[Row]]:
    """Return, for each knob that was varied, what each value changes against the knob's largest, by dataset.

    Paired: a sample's mean at one value minus the same sample's mean at the largest, over all settings of the others.
    Intervals count the pictures that questions share, where `pictures` tells them.
    """
    frame = samples.lazy().select(
        "dataset", "sample_id", *CONFIGURATION, "accuracy", latency_ms=latency_of(latency_kind)
    )
    varied = [knob for knob in KNOB_WORDS if samples[knob].n_unique() > 1]
    return {knob: _paired_differences(frame, knob, pictures) for knob in varied}


def _paired_differences(frame: pl.LazyFrame, knob: str, pictures: Mapping[Name, Name]) -> list[Row]:
    means = frame.group_by("dataset", "sample_id", knob).agg(pl.col("accuracy", "latency_ms").mean()).collect()
    largest = means.filter(pl.col(knob) == pl.col(knob).max()).drop(knob)
    paired = means.join(largest, on=["dataset", "sample_id"], suffix="_full").with_columns(
        accuracy=100 * (pl.col("accuracy") - pl.col("accuracy_full")),
        latency_ms=pl.col("latency_ms") - pl.col("latency_ms_full"),
    )
    measured = ("accuracy", "latency_ms")
    rows: list[Row] = []
    for part in paired.sort("dataset", knob).partition_by("dataset", knob, maintain_order=True):
        cells: Row = {"dataset": str(part["dataset"][0]), "value": str(part[knob][0]), "n": part.height}
        for name in measured:
            estimate = _mean_of(part, name, pictures)
            cells |= {name: _round(estimate.mean), **_ends(name, estimate.interval())}
        rows.append(cells)
    return rows


def _mean_of(samples: pl.DataFrame, name: str, pictures: Mapping[Name, Name]) -> MeanEstimate:
    """Return the mean of a column, with the design effect of shared pictures where they are told."""
    if pictures:
        names = samples.select(pl.col("dataset").cast(pl.String), "sample_id").iter_rows()
        return clustered_estimate(samples[name].to_list(), [pictures[dataset, sample] for dataset, sample in names])
    mean, std = samples.select(pl.col(name).mean(), pl.col(name).std(ddof=0).alias("std")).row(0)
    return MeanEstimate(mean=mean, std=std, count=samples.height)


def _point_row(point: ConfigPoint, on_front: bool, effects: tuple[float, float]) -> Row:
    count, (accuracy_effect, latency_effect) = point.num_samples, effects
    accuracy = MeanEstimate(mean=point.accuracy, std=point.accuracy_std, count=count, design_effect=accuracy_effect)
    latency = MeanEstimate(mean=point.latency_ms, std=point.latency_std_ms, count=count, design_effect=latency_effect)
    return {
        "key": point.config.key,
        "tier": point.config.tier or "all",
        "accuracy": _round(point.accuracy),
        **_ends("accuracy", accuracy.score_interval()),
        "latency_ms": _round(point.latency_ms),
        **_ends("latency_ms", latency.interval()),
        "n": point.num_samples,
        "front": on_front,
    }


def _ends(name: str, interval: Interval | None) -> Row:
    low, high = (None, None) if interval is None else (_round(interval.low), _round(interval.high))
    return {f"{name}_low": low, f"{name}_high": high}


def _config(row: Mapping[str, Any]) -> KnobConfig:
    return KnobConfig(**{name: row[name] for name in CONFIGURATION})


def _round(value: float | NDArray[np.float64]) -> float:
    return round(float(value), 4)
