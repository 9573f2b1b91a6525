"""Whether the bounds of an estimator hold where it matters: at the configurations that a controller takes under budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from paceline.analyze import default_budgets
from paceline.control.estimated import BoundController
from paceline.estimate.bounds import BoundCheck, LatencyBounds
from paceline.estimate.latency_model import LatencyModel
from paceline.fit.conformal import check_bound, known_samples
from paceline.profiles import SampleParts
from paceline.slo import Proportion


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
