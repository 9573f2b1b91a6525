"""Whether the bounds of an estimator hold where it matters: at the configurations that a controller takes under budgets."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from paceline.analyze import default_budgets, latency_of
from paceline.control.estimated import BoundController
from paceline.errors import InvalidValueError, PacelineWarning
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.latency_model import LatencyModel
from paceline.fit.conformal import known_samples
from paceline.profiles import SampleParts
from paceline.profiles.requests import MeasuredRequests, measured_requests
from paceline.slo import Proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCheck:
    """How often a bound held on samples that had no part in it, judged at one budget as a controller spends it.

    Of `num_requests` requests, `none_fit` found no configuration whose bound fits; of the others `kept` stayed within
    the budget.
    """

    budget_ms: float
    num_requests: int
    none_fit: int
    kept: int

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= self.num_requests - self.none_fit <= self.num_requests:
            counts = f"kept {self.kept} of {self.num_requests} with {self.none_fit} that nothing fits"
            raise InvalidValueError("bound check", counts, "kept at most num_requests − none_fit, none below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCoverage:
    """Of the decisions whose bound fitted their budget, those that kept it; `target` is the promised share, 1 − α.

    `kept` is None when no such decision was judged; `none_fit` counts the requests that nothing fitted.
    """

    target: float
    kept: Proportion | None
    none_fit: int
    budgets_ms: tuple[float, ...]


def check_bounds(
    model: LatencyModel, bounds: LatencyBounds, parts: SampleParts, alpha: float
) -> tuple[BoundCheck, ...]:
    """Judge decisions by the bounds of prefill on the test part, at budgets that the other parts suggest.

    Raises InvalidValueError for an α that so few calibrating samples cannot promise.
    """
    controller = BoundController(model=model, bounds=bounds, alpha=alpha)
    return judge_in_turn(controller, parts.test, default_budgets(known_samples(parts), "prefill").budgets_ms)


def check_bound(
    controller: BoundController, samples: pl.DataFrame, budgets_ms: Sequence[float]
) -> tuple[BoundCheck, ...]:
    """Return how often the controller's decisions kept each budget, on samples that neither fitted nor calibrated it.

    Only requests that were measured under every configuration are judged.
    """
    kind = controller.latency_kind
    requests = measured_requests(samples, latency_of(kind))
    judged = requests.only(requests.complete)
    return tuple(_check_at(controller, judged, budget_ms) for budget_ms in budgets_ms)


def judge_in_turn(
    controller: BoundController, samples: pl.DataFrame, budgets_ms: Sequence[float]
) -> tuple[BoundCheck, ...]:
    """Judge a controller on samples that neither fitted nor calibrated it, each request at one of the budgets in turn.

    One decision a request keeps the decisions independent, as the interval of Clopper and Pearson needs them.
    """
    names = samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique().sort("dataset", "sample_id")
    turns = names.with_columns(turn=pl.int_range(pl.len()) % len(budgets_ms))
    keyed = samples.with_columns(name=pl.col("dataset").cast(pl.String)).join(
        turns, left_on=["name", "sample_id"], right_on=["dataset", "sample_id"], maintain_order="left"
    )
    by_turn = [(budget_ms, keyed.filter(pl.col("turn") == turn)) for turn, budget_ms in enumerate(budgets_ms)]
    return tuple(
        check for budget_ms, rows in by_turn if rows.height for check in check_bound(controller, rows, [budget_ms])
    )


def bound_coverage(checks: Sequence[BoundCheck], alpha: float) -> BoundCoverage:
    """Return what all checks say together; they must be of different requests, as `judge_in_turn` takes them."""
    none_fit = sum(check.none_fit for check in checks)
    decided = sum(check.num_requests for check in checks) - none_fit
    kept = sum(check.kept for check in checks)
    return BoundCoverage(
        target=1 - alpha,
        kept=Proportion(successes=kept, count=decided) if decided else None,
        none_fit=none_fit,
        budgets_ms=tuple(check.budget_ms for check in checks),
    )


def _check_at(controller: BoundController, requests: MeasuredRequests, budget_ms: float) -> BoundCheck:
    column = {config: place for place, config in enumerate(requests.configs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)  # what nothing fits is counted
        decisions = [controller.predict(budget_ms, features=each) for each in requests.features]
    kept = [
        decision.within_budget and bool(requests.latency_ms_RC[row, column[decision.config]] <= budget_ms)
        for row, decision in enumerate(decisions)
    ]
    return BoundCheck(
        budget_ms=float(budget_ms),
        num_requests=len(decisions),
        none_fit=sum(not decision.within_budget for decision in decisions),
        kept=sum(kept),
    )
