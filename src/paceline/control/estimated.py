"""Controllers over a latency model: each request's own latencies are predicted, and the best configuration that fits taken."""

import math

from paceline.control.ranked_grid import RankedConfigs, RankedGrid, RankedTimes
from paceline.control.table import require_budget
from paceline.errors import InvalidValueError
from paceline.estimate.bounds import DEFAULT_CONFIDENCE, LatencyBounds
from paceline.estimate.drift import DriftCorrection
from paceline.estimate.features import FEATURES
from paceline.estimate.latency_model import LatencyModel
from paceline.records import Decision, KnobConfig, LatencyKind, RequestFeatures

DEFAULT_ALPHA = 0.05


class PointController:
    """Takes the most accurate configuration whose predicted latency fits: about half of those predictions are exceeded."""

    def __init__(self, *, model: LatencyModel, bounds: LatencyBounds, latency_kind: LatencyKind = "prefill") -> None:
        bounds.require_kind(latency_kind)
        self.latency_kind: LatencyKind = latency_kind
        self.provenance = bounds.provenance
        self._grid = RankedGrid(model, bounds, latency_kind)

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return the most accurate configuration predicted within the budget; ties: faster, then smaller.

        None fits: the fastest, with `within_budget` False and a PacelineWarning, or BudgetTooSmallError when `strict`.
        Raises InvalidValueError for a budget that is not above 0, and without features.
        """
        require_budget(budget_ms)
        times, ranked = self._grid.times(features, None), self._grid.ranked
        fitting = ranked.fitting(budget_ms, times)
        return ranked.decision(fitting[0], times) if len(fitting) else ranked.none_fits(budget_ms, times, strict=strict)


class BoundController:
    """Takes the most accurate configuration whose latency stays within the budget with probability 1 − α.

    The bounds hold with `confidence` over the calibration, or on average over calibrations for None (see
    `paceline.estimate.bounds`). `observe` corrects them while it serves; an instance is meant for one stream of requests
    on one machine.
    """

    def __init__(
        self,
        *,
        model: LatencyModel,
        bounds: LatencyBounds,
        alpha: float = DEFAULT_ALPHA,
        confidence: float | None = DEFAULT_CONFIDENCE,
        latency_kind: LatencyKind = "prefill",
    ) -> None:
        factors_C = bounds.factors(alpha, latency_kind, confidence)
        self.alpha = alpha
        self.latency_kind: LatencyKind = latency_kind
        self.provenance = bounds.provenance
        self.drift = DriftCorrection(alpha)
        self._grid = RankedGrid(model, bounds, latency_kind)
        self._factors_C = self._grid.in_rank(factors_C)

    @property
    def ranked(self) -> RankedConfigs:
        """The configurations in order of preference."""
        return self._grid.ranked

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return the most accurate configuration whose bound is within the budget; ties: faster, then smaller.

        None fits: the one of the smallest bound, with `within_budget` False and a PacelineWarning, or BudgetTooSmallError
        when `strict`. Raises InvalidValueError for a budget that is not above 0, and without features. Where the features
        name `expected_output_tokens` and totals are promised, the promise is as good as that expectation.
        """
        require_budget(budget_ms)
        times, ranked = self.times(features), self.ranked
        fitting = ranked.fitting(budget_ms, times)
        if len(fitting):
            return ranked.decision(fitting[0], times)
        if strict:
            self.note_refusal(budget_ms, times)
        return ranked.none_fits(budget_ms, times, strict=strict)

    def note_refusal(self, budget_ms: float, times: RankedTimes) -> None:
        """Take note that a request is refused: what the drift correction alone forbids lowers it, for it is never measured."""
        if times.least_budget_ms() / self.drift.factor <= budget_ms:
            self.drift.refuse()

    def fitting(self, budget_ms: float, features: RequestFeatures) -> tuple[KnobConfig, ...]:
        """Return the configurations whose bound is within the budget, the one that `predict` takes first; may be empty."""
        require_budget(budget_ms)
        places = self.ranked.fitting(budget_ms, self.times(features))
        return tuple(self.ranked.known[place].config for place in places.tolist())

    def times(self, features: RequestFeatures | None) -> RankedTimes:
        """Return what every configuration is predicted to take for a request, with its bound, corrected for drift."""
        return self._grid.times(features, self._factors_C * self.drift.factor)

    def observe(self, decision: Decision, measured_ms: float) -> None:
        """Take note of the latency that a decision led to, so that bounds follow a machine that became slower or faster.

        A request beyond what the latency model was fitted on teaches nothing: there the prediction errs, not the machine.
        Raises InvalidValueError for a latency that is no time, and for a decision that carries no bound.
        """
        if not 0 <= measured_ms < math.inf:
            raise InvalidValueError("measured latency", measured_ms, "a number of milliseconds of at least 0")
        if decision.bound_ms is None:
            raise InvalidValueError("decision", "without a bound", "a decision of this controller")
        # a learned controller names what its chooser never saw too; that says nothing of latencies
        if not set(FEATURES).intersection(decision.outside):
            self.drift.observe(exceeded=measured_ms > decision.bound_ms)
