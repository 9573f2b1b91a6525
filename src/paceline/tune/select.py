"""Choosing `min_chunk_threshold` from a sweep: every run against its own baseline, the runs together, one score.

A sweep's directory is `ROOT/<start time>/<threshold>/`, one run a start time; the metrics stand in each threshold's
directory or in its `replica_0/plots/`. The rules are those of SPEC S10.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite
from pathlib import Path
from statistics import fmean, median

from paceline.errors import InvalidValueError, RequestFileError, UnknownChoiceError
from paceline.slo import percentile
from paceline.tune.metrics_csv import run_metric

DEFAULT_BASELINE = 0
TIE = 1e-9  # scores this close, as a share, are equal: rounding of the last digits must not choose
THRESHOLD_NAME = re.compile(r"0|[1-9][0-9]*")


def p90(values: Sequence[float]) -> float:
    """Return the 90th percentile, linear between neighbouring values."""
    return percentile(values, 90)


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile, linear between neighbouring values."""
    return percentile(values, 95)


Statistic = Callable[[Sequence[float]], float]
AGGREGATIONS: Mapping[str, Statistic] = {"mean": fmean, "median": median, "p90": p90, "max": max}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredMetric:
    """One ratio of the score: which metric it comes from, what is taken over the requests of a run, and its weight."""

    metric: str
    over_requests: Statistic
    weight: float


SCORED: Mapping[str, ScoredMetric] = {
    "request": ScoredMetric(metric="request_execution_time", over_requests=p95, weight=0.35),
    "prefill": ScoredMetric(metric="prefill_e2e_time", over_requests=p95, weight=0.35),
    "prefill_exec_norm": ScoredMetric(
        metric="prefill_time_execution_plus_preemption_normalized", over_requests=fmean, weight=0.2
    ),
    "request_exec_norm": ScoredMetric(metric="request_execution_time_normalized", over_requests=fmean, weight=0.05),
    "decode": ScoredMetric(metric="decode_time_execution_plus_preemption_normalized", over_requests=fmean, weight=0.05),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWeights:
    """What each ratio counts in the score; at least 0, not all 0. They need not sum to 1."""

    request: float = SCORED["request"].weight
    prefill: float = SCORED["prefill"].weight
    prefill_exec_norm: float = SCORED["prefill_exec_norm"].weight
    request_exec_norm: float = SCORED["request_exec_norm"].weight
    decode: float = SCORED["decode"].weight

    def __post_init__(self) -> None:
        for name in SCORED:
            if not (isfinite(self.of(name)) and self.of(name) >= 0):
                raise InvalidValueError(f"w_{name}", self.of(name), "a number of at least 0")
        if not any(self.of(name) for name in SCORED):
            raise InvalidValueError("weights", 0, "at least one above 0")

    def of(self, name: str) -> float:
        """Return the weight of one ratio of SCORED."""
        return float(getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRun:
    """One repetition of a sweep: by threshold, what each ratio's metric comes to over the run's requests."""

    name: str
    levels: Mapping[int, Mapping[str, float]]

    def baseline(self, asked: int) -> int:
        """Return the threshold that this run is divided by: the asked one, the run's smallest where it is missing."""
        return asked if asked in self.levels else min(self.levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdScore:
    """One threshold over all runs that have it: each ratio to the runs' own baselines, aggregated, and the score."""

    threshold: int
    runs: int
    ratios: Mapping[str, float]
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdChoice:
    """The recommended threshold and what it was compared with.

    `left_out` says, one sentence each, which directories could not be compared and why; `fallbacks` names the runs
    without the asked baseline and the threshold that took its place.
    """

    recommended: int
    runs: int
    scores: tuple[ThresholdScore, ...]
    left_out: tuple[str, ...] = ()
    fallbacks: Mapping[str, int] = field(default_factory=dict[str, int])

    def document(self) -> dict[str, object]:
        """Return the choice as JSON."""
        return {
            "recommended": self.recommended,
            "runs": self.runs,
            "thresholds": {
                str(each.threshold): {
                    "runs": each.runs,
                    **{f"{name}_ratio": ratio for name, ratio in each.ratios.items()},
                    "score": each.score,
                }
                for each in self.scores
            },
            "left_out": list(self.left_out),
            "baseline_fallbacks": dict(self.fallbacks),
        }


def select_threshold(
    root: Path | str,
    *,
    baseline: int = DEFAULT_BASELINE,
    weights: ScoreWeights | None = None,
    run_agg: str = "mean",
) -> ThresholdChoice:
    """Read a sweep and return the threshold with the smallest score, the smaller one of equals.

    A threshold's directory that lacks a file, or holds one that cannot be trusted, is left out of its run and listed.
    Raises RequestFileError when nothing remains to compare.
    """
    root = Path(root)
    if baseline < 0:
        raise InvalidValueError("baseline", baseline, "a threshold of at least 0")
    runs, left_out = read_sweep(root)
    choice = choose_threshold(runs, baseline=baseline, weights=weights or ScoreWeights(), run_agg=run_agg)
    return ThresholdChoice(
        recommended=choice.recommended,
        runs=choice.runs,
        scores=choice.scores,
        left_out=left_out,
        fallbacks=choice.fallbacks,
    )


def choose_threshold(
    runs: Sequence[SweepRun], *, baseline: int, weights: ScoreWeights, run_agg: str = "mean"
) -> ThresholdChoice:
    """Return the choice among runs that are read already; every run has at least one threshold.

    Score (SPEC S10): the weighted sum of the ratios, each a run's figure over the same run's figure at the baseline,
    aggregated over the runs that have the threshold.
    """
    if run_agg not in AGGREGATIONS:
        raise UnknownChoiceError("run aggregation", run_agg, tuple(AGGREGATIONS))
    thresholds = sorted({threshold for run in runs for threshold in run.levels})
    scores = tuple(_score(threshold, runs, baseline, weights, AGGREGATIONS[run_agg]) for threshold in thresholds)
    smallest = min(each.score for each in scores)
    return ThresholdChoice(
        recommended=min(each.threshold for each in scores if each.score <= smallest * (1 + TIE)),
        runs=len(runs),
        scores=scores,
        fallbacks={run.name: run.baseline(baseline) for run in runs if baseline not in run.levels},
    )


def read_sweep(root: Path) -> tuple[tuple[SweepRun, ...], tuple[str, ...]]:
    """Return the runs under a sweep's directory, oldest name first, and a sentence for each directory left out."""
    runs: list[SweepRun] = []
    left_out: list[str] = []
    for folder in _subdirectories(root):
        levels, faults = _read_run(folder)
        left_out += faults
        if levels:
            runs.append(SweepRun(name=folder.name, levels=levels))
    if not runs:
        raise RequestFileError(
            root,
            "; ".join(["no run to compare", *left_out]),
            expected="<start time>/<threshold>/*.csv with every metric of a run",
            mend="name the directory that `paceline tune threshold sweep` wrote to, or let the sweep go on",
        )
    return tuple(runs), tuple(left_out)


def _score(
    threshold: int, runs: Sequence[SweepRun], baseline: int, weights: ScoreWeights, aggregate: Statistic
) -> ThresholdScore:
    having = [run for run in runs if threshold in run.levels]
    ratios = {
        name: aggregate([run.levels[threshold][name] / run.levels[run.baseline(baseline)][name] for run in having])
        for name in SCORED
    }
    score = fsum(weights.of(name) * ratio for name, ratio in ratios.items())
    return ThresholdScore(threshold=threshold, runs=len(having), ratios=ratios, score=score)


def _read_run(folder: Path) -> tuple[dict[int, Mapping[str, float]], list[str]]:
    cells = [each for each in _subdirectories(folder) if THRESHOLD_NAME.fullmatch(each.name)]
    levels: dict[int, Mapping[str, float]] = {}
    faults = [] if cells else [f"{folder}: holds no directory named after a threshold, such as 0 or 20"]
    for cell in sorted(cells, key=_threshold):
        try:
            levels[_threshold(cell)] = _levels(cell)
        except RequestFileError as error:
            faults.append(str(error))
    return levels, faults


def _levels(cell: Path) -> dict[str, float]:
    levels = {name: each.over_requests(list(run_metric(cell, each.metric).values())) for name, each in SCORED.items()}
    for name, level in levels.items():
        if level == 0:  # nothing can be divided by it
            raise RequestFileError(
                cell, f"{SCORED[name].metric} comes to 0", expected="times above 0", mend="run this threshold again"
            )
    return levels


def _threshold(cell: Path) -> int:
    return int(cell.name)


def _subdirectories(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestFileError(folder, reason, expected="a sweep's directory", mend="check the path") from error
