"""Controllers over a latency model: each request's own latencies are predicted, and the best configuration that fits taken.

Legend of array suffixes: C configurations, most accurate first and the smaller first of equals.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.control.table import require_budget
from paceline.errors import BudgetTooSmallError, EstimatorError, InvalidValueError, PacelineWarning
from paceline.estimate.bounds import DEFAULT_CONFIDENCE, CalibratedConfig, LatencyBounds, predicted_ms
from paceline.estimate.drift import DriftCorrection
from paceline.estimate.latency_model import LatencyModel
from paceline.records import Decision, LatencyKind, RequestFeatures

DEFAULT_ALPHA = 0.05

Floats = NDArray[np.float64]


class PointController:
    """Takes the most accurate configuration whose predicted latency fits: about half of those predictions are exceeded."""

    def __init__(self, *, model: LatencyModel, bounds: LatencyBounds, latency_kind: LatencyKind = "prefill") -> None:
        bounds.require_kind(latency_kind)
        self.latency_kind: LatencyKind = latency_kind
        self.provenance = bounds.provenance
        self._grid = _RankedGrid(model, bounds.configs, latency_kind)

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return the most accurate configuration predicted within the budget; ties: faster, then smaller.

        None fits: the fastest, with `within_budget` False and a PacelineWarning, or BudgetTooSmallError when `strict`.
        Raises InvalidValueError for a budget that is not above 0, and without features.
        """
        require_budget(budget_ms)
        latencies_C, outside = self._grid.latencies(features)
        return self._grid.decision(budget_ms, latencies_C, latencies_C, None, outside, strict)


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
        self._grid = _RankedGrid(model, bounds.configs, latency_kind)
        self._factors_C = self._grid.ranked(factors_C)

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return the most accurate configuration whose bound is within the budget; ties: faster, then smaller.

        None fits: the one of the smallest bound, with `within_budget` False and a PacelineWarning, or BudgetTooSmallError
        when `strict`. Raises InvalidValueError for a budget that is not above 0, and without features. Where the features
        name `expected_output_tokens` and totals are promised, the promise is as good as that expectation.
        """
        require_budget(budget_ms)
        latencies_C, outside = self._grid.latencies(features)
        bounds_C = latencies_C * (self._factors_C * self.drift.factor)
        return self._grid.decision(budget_ms, latencies_C, bounds_C, bounds_C, outside, strict)

    def observe(self, decision: Decision, measured_ms: float) -> None:
        """Take note of the latency that a decision led to, so that bounds follow a machine that became slower or faster.

        Raises InvalidValueError for a latency that is no time, and for a decision that carries no bound.
        """
        if not 0 <= measured_ms < math.inf:
            raise InvalidValueError("measured latency", measured_ms, "a number of milliseconds of at least 0")
        if decision.bound_ms is None:
            raise InvalidValueError("decision", "without a bound", "a decision of this controller")
        self.drift.observe(exceeded=measured_ms > decision.bound_ms)


class _RankedGrid:
    """The configurations of a latency model in order of preference, with what the profile says of each."""

    def __init__(self, model: LatencyModel, known: Sequence[CalibratedConfig], latency_kind: LatencyKind) -> None:
        by_config = {each.config: each for each in known}
        if by_config.keys() != set(model.configs):
            keys = sorted(config.key for config in by_config.keys() ^ set(model.configs))
            raise EstimatorError(
                "latency model and bounds",
                f"only one of them covers {', '.join(keys)}",
                expected="bounds that were calibrated for this model",
                mend="train the estimator again, which calibrates its bounds",
            )
        covered = [by_config[config] for config in model.configs]
        ranks = sorted(range(len(covered)), key=lambda place: (-covered[place].accuracy, covered[place].config.size))
        # bounds come in the order of `known`, predictions in that of the model
        places = {each.config: place for place, each in enumerate(known)}
        self._model = model
        self._latency_kind: LatencyKind = latency_kind
        self._known = [covered[place] for place in ranks]
        self._of_model_C = np.array(ranks)
        self._of_known_C = np.array([places[each.config] for each in self._known])
        self._accuracy_C = np.array([each.accuracy for each in self._known])
        self._output_tokens_C = np.array([covered[place].expected_output_tokens for place in range(len(covered))])

    def ranked(self, values_C: Floats) -> Floats:
        """Return values given in the bounds' order of configurations in the order of preference."""
        return values_C[self._of_known_C]

    def latencies(self, features: RequestFeatures | None) -> tuple[Floats, tuple[str, ...]]:
        """Return the predicted milliseconds, most accurate configuration first, and the features outside of training."""
        if features is None:
            expected = "the request's RequestFeatures: its text tokens, and its image tokens by tier"
            raise InvalidValueError("features", None, expected)
        estimates = self._model.estimate(features)
        expected_tokens = features.expected_output_tokens
        tokens_C = self._output_tokens_C if expected_tokens is None else expected_tokens
        return predicted_ms(estimates, self._latency_kind, tokens_C)[self._of_model_C], estimates.outside

    def decision(
        self,
        budget_ms: float,
        latencies_C: Floats,
        limits_C: Floats,
        bounds_C: Floats | None,
        outside: tuple[str, ...],
        strict: bool,
    ) -> Decision:
        """Return the decision where `limits_C` must fit the budget."""
        fitting = (limits_C <= budget_ms).nonzero()[0]
        if len(fitting):
            first = fitting[0]
            equal = fitting[self._accuracy_C[fitting] == self._accuracy_C[first]]
            place = int(equal[latencies_C[equal].argmin()])
        else:
            place = int(limits_C.argmin())
            self._none_fits(budget_ms, place, float(limits_C[place]), strict)
        known = self._known[place]
        return Decision(
            config=known.config,
            accuracy=known.accuracy,
            latency_ms=float(latencies_C[place]),
            num_samples=known.num_samples,
            within_budget=len(fitting) > 0,
            bound_ms=None if bounds_C is None else float(bounds_C[place]),
            outside=outside,
        )

    def _none_fits(self, budget_ms: float, place: int, smallest_ms: float, strict: bool) -> None:
        if strict:
            raise BudgetTooSmallError(budget_ms, smallest_ms)
        warnings.warn(
            f"no configuration keeps a budget of {budget_ms:g} ms for this request; taking the nearest, "
            f"{self._known[place].config.key} with {smallest_ms:.1f} ms",
            PacelineWarning,
            stacklevel=4,
        )
