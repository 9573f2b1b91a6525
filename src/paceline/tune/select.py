"""Choosing `min_chunk_threshold` from a sweep: every run against its own baseline, the runs together, one score.

A sweep's directory is `ROOT/<start time>/<threshold>/`, one run a start time; the metrics stand in each threshold's
directory or in its `replica_0/plots/`. The score is that of SPEC S10. Its rule, the smallest score wins, is `reference`; it
takes another threshold than the baseline on noise alone almost always, for one of many is the smallest. The rule that is
meant to be used, `interval`, stays with the baseline unless a score's interval lies below it (`score_intervals`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, isfinite, log
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from paceline.errors import InvalidValueError, RequestFileError, UnknownChoiceError
from paceline.slo import Interval, percentile
from paceline.tune.metrics_csv import run_metric
from paceline.tune.score_intervals import Score, score_reach

DEFAULT_BASELINE = 0
RULES = ("interval", "reference")
LEAST_RUNS = 4  # fewer tell too little of the noise: benchmarks/threshold_noise.py
TIE = 1e-9  # scores this close, as a share, are equal: rounding of the last digits must not choose
THRESHOLD_NAME = re.compile(r"0|[1-9][0-9]*")


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile, linear between neighbouring values."""
    return percentile(values, 95)


Statistic = Callable[[Sequence[float]], float]
Floats = NDArray[np.float64]
AGGREGATIONS: Mapping[str, Callable[[Floats], Floats]] = {  # over the runs of (…, run, metric)
    "mean": lambda ratios: np.mean(ratios, axis=-2),
    "median": lambda ratios: np.median(ratios, axis=-2),
    "p90": lambda ratios: np.percentile(ratios, 90, axis=-2),
    "max": lambda ratios: np.max(ratios, axis=-2),
}


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

    def score(self, ratios: Floats) -> Floats:
        """Return the weighted sum of ratios in the order of SCORED, over the last axis."""
        return ratios @ np.array([self.of(name) for name in SCORED])


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
    """One threshold over all runs that have it: each ratio to the runs' own baselines, aggregated, and the score.

    `interval` holds with 95 % for all thresholds at once; None for the baseline, which is what the others are compared with,
    for too few runs, and by the rule `reference`.
    """

    threshold: int
    runs: int
    ratios: Mapping[str, float]
    score: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdChoice:
    """The recommended threshold, why, and what it was compared with; `runs` counts the runs that are compared.

    `left_out` says, one sentence each, what could not be compared and why; `fallbacks` names, by the rule `reference`, the
    runs without the asked baseline and the threshold that took its place.
    """

    rule: str
    recommended: int
    reason: str
    runs: int
    scores: tuple[ThresholdScore, ...]
    left_out: tuple[str, ...] = ()
    fallbacks: Mapping[str, int] = field(default_factory=dict[str, int])

    def document(self) -> dict[str, object]:
        """Return the choice as JSON."""
        return {
            "rule": self.rule,
            "recommended": self.recommended,
            "reason": self.reason,
            "runs": self.runs,
            "thresholds": {
                str(each.threshold): {
                    "runs": each.runs,
                    **{f"{name}_ratio": ratio for name, ratio in each.ratios.items()},
                    "score": each.score,
                    "score_ci": each.interval and [each.interval.low, each.interval.high],
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
    rule: str = RULES[0],
) -> ThresholdChoice:
    """Read a sweep and return what `choose_threshold` makes of it.

    A threshold's directory that lacks a file, or holds one that cannot be trusted, is left out of its run and listed.
    Raises RequestFileError when nothing remains to compare.
    """
    root = Path(root)
    if baseline < 0:
        raise InvalidValueError("baseline", baseline, "a threshold of at least 0")
    runs, left_out = read_sweep(root)
    choice = choose_threshold(runs, baseline=baseline, weights=weights or ScoreWeights(), run_agg=run_agg, rule=rule)
    return replace(choice, left_out=left_out + choice.left_out)


def choose_threshold(
    runs: Sequence[SweepRun], *, baseline: int, weights: ScoreWeights, run_agg: str = "mean", rule: str = RULES[0]
) -> ThresholdChoice:
    """Return the choice among runs that are read already; every run has at least one threshold.

    Score (SPEC S10): the weighted sum of the ratios, each a run's figure over the same run's figure at the baseline,
    aggregated over the runs that have the threshold. `interval`: of the scores whose interval lies below the baseline's
    score the smallest, the baseline where there is none; runs without the baseline are left out. `reference`: the smallest
    score; a run without the baseline is divided by its smallest threshold. Ties go to the smaller threshold.
    """
    if run_agg not in AGGREGATIONS:
        raise UnknownChoiceError("run aggregation", run_agg, tuple(AGGREGATIONS))
    if rule not in RULES:
        raise UnknownChoiceError("rule", rule, RULES)
    return (_by_interval if rule == RULES[0] else _by_reference)(runs, baseline, weights, run_agg)


def _by_reference(runs: Sequence[SweepRun], baseline: int, weights: ScoreWeights, run_agg: str) -> ThresholdChoice:
    scores = _scores(runs, baseline, weights, run_agg)
    return ThresholdChoice(
        rule="reference",
        recommended=_smallest(scores).threshold,
        reason="the smallest score, by chance or not",
        runs=len(runs),
        scores=scores,
        fallbacks={run.name: run.baseline(baseline) for run in runs if baseline not in run.levels},
    )


def _by_interval(runs: Sequence[SweepRun], baseline: int, weights: ScoreWeights, run_agg: str) -> ThresholdChoice:
    compared = sorted((run for run in runs if baseline in run.levels), key=lambda run: run.name)
    scores = _with_intervals(_scores(compared, baseline, weights, run_agg), compared, baseline, weights, run_agg)
    beating = [each for each in scores if each.interval and each.interval.high < _unchanged(weights) * (1 - TIE)]
    chosen = _smallest(beating) if beating else None
    return ThresholdChoice(
        rule="interval",
        recommended=chosen.threshold if chosen else baseline,
        reason=f"its score's interval lies below the baseline's score of {_unchanged(weights):.4f}"
        if chosen
        else _why_baseline(scores, baseline, weights),
        runs=len(compared),
        scores=scores,
        left_out=tuple(
            f"run {run.name} has no threshold {baseline} to compare with" for run in runs if baseline not in run.levels
        ),
    )


def _with_intervals(
    scores: tuple[ThresholdScore, ...], runs: Sequence[SweepRun], baseline: int, weights: ScoreWeights, run_agg: str
) -> tuple[ThresholdScore, ...]:
    told = {each.threshold for each in scores if each.runs >= LEAST_RUNS}
    if len(told) < 2:
        return scores
    levels_R = [
        {
            threshold: [by_name[name] for name in SCORED]
            for threshold, by_name in run.levels.items()
            if threshold in told
        }
        for run in runs
    ]
    factor = score_reach(levels_R, baseline, _score_over_runs(weights, run_agg))
    return tuple(
        replace(each, interval=Interval(low=each.score / factor, high=each.score * factor))
        if each.threshold in told and each.threshold != baseline
        else each
        for each in scores
    )


def _why_baseline(scores: Sequence[ThresholdScore], baseline: int, weights: ScoreWeights) -> str:
    told = [each for each in scores if each.interval]
    if not told:
        most = max((each.runs for each in scores if each.threshold != baseline), default=0)
        return (
            f"{most} runs compare another threshold with {baseline}, too few to tell a difference from noise; at least "
            f"{LEAST_RUNS} are needed: go on with the sweep, `paceline tune threshold sweep --repetitions {LEAST_RUNS}` or "
            "more with its other flags as they were"
        )
    best = _smallest(told)
    gain = log(_unchanged(weights) / best.score)
    if gain <= TIE or best.interval is None:
        return "no threshold scores better"
    needed = ceil(best.runs * (log(best.interval.high / best.score) / gain) ** 2)
    return (
        f"no threshold's interval lies below its score of {_unchanged(weights):.4f}; if {best.threshold} is as good as it "
        f"looks, some {needed:,} runs would show it"
    )


def _smallest(scores: Sequence[ThresholdScore]) -> ThresholdScore:
    smallest = min(each.score for each in scores)
    return min((each for each in scores if each.score <= smallest * (1 + TIE)), key=lambda each: each.threshold)


def _unchanged(weights: ScoreWeights) -> float:
    """Return the baseline's own score."""
    return sum(weights.of(name) for name in SCORED)


def _score_over_runs(weights: ScoreWeights, run_agg: str) -> Score:
    return lambda ratios_SRM: weights.score(AGGREGATIONS[run_agg](ratios_SRM))


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
            "; ".join(["no run to compare", *(each.replace(f"{root}/", "") for each in left_out)]),
            expected="<start time>/<threshold>/*.csv with every metric of a run",
            mend="name the directory that `paceline tune threshold sweep` wrote to, or let the sweep go on",
        )
    return tuple(runs), tuple(left_out)


def _scores(runs: Sequence[SweepRun], baseline: int, weights: ScoreWeights, run_agg: str) -> tuple[ThresholdScore, ...]:
    thresholds = sorted({threshold for run in runs for threshold in run.levels})
    return tuple(_score(threshold, runs, baseline, weights, run_agg) for threshold in thresholds)


def _score(
    threshold: int, runs: Sequence[SweepRun], baseline: int, weights: ScoreWeights, run_agg: str
) -> ThresholdScore:
    having = [run for run in runs if threshold in run.levels]
    ratios_RM = np.array(
        [[run.levels[threshold][name] / run.levels[run.baseline(baseline)][name] for name in SCORED] for run in having]
    )
    ratios_M = AGGREGATIONS[run_agg](ratios_RM)
    return ThresholdScore(
        threshold=threshold,
        runs=len(having),
        ratios=dict(zip(SCORED, ratios_M.tolist(), strict=True)),
        score=float(weights.score(ratios_M)),
    )


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
