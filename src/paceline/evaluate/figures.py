"""The figures of an evaluation, each with its interval.

Requests are independent of one another, the decisions for one request at several budgets are not: intervals are taken at
one budget, and the pooled one counts every request once. Questions about one picture score alike, though, so intervals of
accuracies count pictures where a profile tells them.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.evaluate.choices import Choices, Outcomes
from paceline.profiles.requests import MeasuredRequests
from paceline.slo import Interval, MeanEstimate, Proportion, clustered_estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFigures:
    """One controller at one budget over all judged requests.

    `adherence` counts every request; `promised` only those that the controller said fit (None where it said so of none),
    `none_fit` the others. `refused` counts those for which a learned controller's own choice was not taken. `overshoot` is
    max(0, latency − budget). `configs` counts what was taken; it and accuracy are told by question set too.
    """

    budget_ms: float
    accuracy: MeanEstimate
    adherence: Proportion
    promised: Proportion | None
    none_fit: int
    refused: int
    outside: int
    mean_latency_ms: float
    p95_latency_ms: float
    mean_overshoot_ms: float
    p95_overshoot_ms: float
    configs: dict[str, int]
    configs_by_dataset: dict[str, dict[str, int]]
    accuracy_by_dataset: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTimes:
    """How long a controller took to decide, in microseconds, over all judged decisions; features were there already."""

    mean_us: float
    median_us: float
    p95_us: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledFigures:
    """The decisions of all budgets together that a controller said fit.

    `interval` is that of Clopper and Pearson with as many outcomes as requests: as if the decisions of one request were
    all alike, which is the least that they can tell.
    """

    kept: int
    decisions: int
    requests: int
    interval: Interval

    @property
    def share(self) -> float:
        """Kept decisions over all of them."""
        return self.kept / self.decisions


def budget_figures(
    choices: Choices,
    outcomes: Outcomes,
    requests: MeasuredRequests,
    budgets_ms: Sequence[float],
) -> tuple[BudgetFigures, ...]:
    """Return the figures of one controller, a row a budget; requests that share a picture are not independent."""
    shared = requests.names if requests.pictures is None else requests.pictures
    dataset_R = np.array([dataset for dataset, _ in requests.names])
    groups = {str(dataset): dataset_R == dataset for dataset in np.unique(dataset_R)}
    return tuple(
        _row(choices, outcomes, requests, groups, shared, place, float(budget_ms))
        for place, budget_ms in enumerate(budgets_ms)
    )


def mean_adherence(figures: Sequence[BudgetFigures]) -> float:
    """Return the share of budgets kept over all budgets of one controller."""
    return sum(each.adherence.share for each in figures) / len(figures)


def decision_times(choices: Choices) -> DecisionTimes | None:
    """Return how long the decisions took; None for choices that nothing decided, such as those in hindsight."""
    taken_us_BR = choices.decision_us_BR
    if taken_us_BR is None:
        return None
    return DecisionTimes(
        mean_us=float(taken_us_BR.mean()),
        median_us=float(np.median(taken_us_BR)),
        p95_us=float(np.percentile(taken_us_BR, 95)),
        count=taken_us_BR.size,
    )


def pooled_figures(choices: Choices, outcomes: Outcomes) -> PooledFigures | None:
    """Return adherence over all budgets where the controller said that something fits; None where it never did."""
    decisions = int(choices.promised_BR.sum())
    requests = int(choices.promised_BR.any(axis=0).sum())
    if not decisions:
        return None
    kept = int((outcomes.kept_BR & choices.promised_BR).sum())
    alike = Proportion(successes=math.floor(kept / decisions * requests), count=requests)
    return PooledFigures(kept=kept, decisions=decisions, requests=requests, interval=alike.interval())


def _row(
    choices: Choices,
    outcomes: Outcomes,
    requests: MeasuredRequests,
    groups: Mapping[str, NDArray[np.bool_]],
    pictures: Sequence[Hashable],
    place: int,
    budget_ms: float,
) -> BudgetFigures:
    column_R = choices.column_BR[place]
    latency_ms_R, kept_R = outcomes.latency_ms_BR[place], outcomes.kept_BR[place]
    promised_R, accuracy_R = choices.promised_BR[place], outcomes.accuracy_BR[place]
    overshoot_ms_R = np.maximum(latency_ms_R - budget_ms, 0.0)
    count, promised = len(latency_ms_R), int(promised_R.sum())
    return BudgetFigures(
        budget_ms=budget_ms,
        accuracy=clustered_estimate(accuracy_R.tolist(), pictures),
        adherence=Proportion(successes=int(kept_R.sum()), count=count),
        promised=Proportion(successes=int((kept_R & promised_R).sum()), count=promised) if promised else None,
        none_fit=count - promised,
        refused=int(choices.refused_BR[place].sum()),
        outside=int(choices.outside_R.sum()),
        mean_latency_ms=float(latency_ms_R.mean()),
        p95_latency_ms=float(np.percentile(latency_ms_R, 95)),
        mean_overshoot_ms=float(overshoot_ms_R.mean()),
        p95_overshoot_ms=float(np.percentile(overshoot_ms_R, 95)),
        configs=_counts(column_R, requests),
        configs_by_dataset={name: _counts(column_R[of_R], requests) for name, of_R in groups.items()},
        accuracy_by_dataset={name: float(accuracy_R[of_R].mean()) for name, of_R in groups.items()},
    )


def _counts(column_R: NDArray[np.intp], requests: MeasuredRequests) -> dict[str, int]:
    counted = Counter(column_R.tolist())
    return {requests.configs[column].key: count for column, count in counted.most_common()}
