"""The configurations of a latency model in order of preference, and what each is expected to take for one request.

Legend of array suffixes: C configurations, most accurate first and the smaller first of equals.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.errors import BudgetTooSmallError, EstimatorError, InvalidValueError, PacelineWarning
from paceline.estimate.bounds import CalibratedConfig, LatencyBounds, predicted_ms
from paceline.estimate.latency_model import LatencyModel
from paceline.records import Decision, KnobConfig, LatencyKind, RequestFeatures

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTimes:
    """What every configuration is predicted to take for one request, and its bound; None from what promises no bound.

    `sequence_C` is the order in which bounds are tested: the smallest *expected* bound first, the preferred of equals, by the
    latency model and the samples it was fitted on; nothing of the calibration enters it. `outside` names the features of the
    request beyond the model's training.
    """

    latencies_C: Floats
    bounds_C: Floats | None
    sequence_C: Places
    outside: tuple[str, ...]

    def limits(self) -> Floats:
        """Return the milliseconds that must fit a budget: the bounds, or the predictions where there are none."""
        return self.latencies_C if self.bounds_C is None else self.bounds_C

    def least_budget_ms(self) -> float:
        """Return the smallest budget that something fits: the first bound of the sequence, the fastest prediction without."""
        return float(self.latencies_C.min() if self.bounds_C is None else self.bounds_C[self.sequence_C[0]])


class RankedConfigs:
    """What a profile says of each configuration, in order of preference, and the decisions that can be made of them."""

    def __init__(self, known: Sequence[CalibratedConfig]) -> None:
        self.known = tuple(known)
        self._error_C = np.array([-each.accuracy for each in self.known])

    @property
    def configs(self) -> tuple[KnobConfig, ...]:
        """The configurations, most accurate first and the smaller first of equals."""
        return tuple(each.config for each in self.known)

    def in_order(self, places: Places, latencies_C: Floats) -> Places:
        """Return ascending places as requests prefer them: most accurate first; ties: faster, then smaller."""
        return places[np.lexsort((latencies_C[places], self._error_C[places]))]

    def fitting(self, budget_ms: float, times: RankedTimes) -> Places:
        """Return the places of what fits the budget, the preferred first; empty where nothing does.

        With bounds a configuration fits if its own does *and* those of all whose bounds are expected to be smaller do: a
        fixed sequence of tests that ends at the first failure. Then the confidence over the calibration holds for whichever
        is taken, not for each by itself (Angelopoulos et al., Learn then Test, 2021, fixed-sequence testing).
        """
        fits_C = times.limits() <= budget_ms
        if times.bounds_C is not None and not fits_C.all():
            fits_C[times.sequence_C] = np.logical_and.accumulate(fits_C[times.sequence_C])
        return self.in_order(fits_C.nonzero()[0], times.latencies_C)

    def decision(
        self,
        place: int,
        times: RankedTimes,
        *,
        within_budget: bool = True,
        refused: bool = False,
        outside: tuple[str, ...] = (),
    ) -> Decision:
        """Return the decision for the configuration at a place; `outside` is told after what the times name."""
        known = self.known[place]
        return Decision(
            config=known.config,
            accuracy=known.accuracy,
            latency_ms=float(times.latencies_C[place]),
            num_samples=known.num_samples,
            within_budget=within_budget,
            bound_ms=None if times.bounds_C is None else float(times.bounds_C[place]),
            outside=times.outside + outside,
            refused=refused,
        )

    def nearest(self, times: RankedTimes) -> Decision:
        """Return the decision where nothing fits: the smallest of what must fit, marked."""
        return self.decision(int(times.limits().argmin()), times, within_budget=False)

    def none_fits(self, budget_ms: float, times: RankedTimes, *, strict: bool) -> Decision:
        """Return `nearest` with a PacelineWarning at the caller's caller; BudgetTooSmallError when `strict`."""
        decision = self.nearest(times)
        smallest_ms = decision.latency_ms if decision.bound_ms is None else decision.bound_ms
        if strict:
            raise BudgetTooSmallError(budget_ms, times.least_budget_ms())
        warnings.warn(
            f"no configuration is expected to keep a budget of {budget_ms:g} ms for this request; taking the nearest, "
            f"{decision.config.key} with {smallest_ms:.1f} ms",
            PacelineWarning,
            stacklevel=3,
        )
        return decision


class RankedGrid:
    """A latency model whose configurations stand in order of preference."""

    def __init__(self, model: LatencyModel, bounds: LatencyBounds, latency_kind: LatencyKind) -> None:
        known = bounds.configs
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
        self.ranked = RankedConfigs([covered[place] for place in ranks])
        self._model = model
        self._latency_kind: LatencyKind = latency_kind
        self._of_model_C = np.array(ranks)
        self._of_known_C = np.array([places[config] for config in self.ranked.configs])
        self._ratios_C = bounds.ratios(latency_kind)[self._of_known_C]
        self._expected_C = bounds.expected_factors(latency_kind)[self._of_known_C]
        self._output_tokens_C = np.array([each.expected_output_tokens for each in covered])

    def in_rank(self, values_C: Floats) -> Floats:
        """Return values given in the bounds' order of configurations in the order of preference."""
        return values_C[self._of_known_C]

    def times(self, features: RequestFeatures | None, factors_C: Floats | None) -> RankedTimes:
        """Return the predicted milliseconds, and bounds as their multiples by `factors_C`, which stand in rank."""
        request = require_features(features)
        estimates = self._model.estimate(request)
        expected_tokens = request.expected_output_tokens
        tokens_C = self._output_tokens_C if expected_tokens is None else expected_tokens
        predicted_C = predicted_ms(estimates, self._latency_kind, tokens_C)[self._of_model_C]
        bounds_C = None if factors_C is None else predicted_C * factors_C
        return RankedTimes(
            latencies_C=predicted_C * self._ratios_C,
            bounds_C=bounds_C,
            sequence_C=np.argsort(predicted_C * self._expected_C, kind="stable"),
            outside=estimates.outside,
        )


def require_features(features: RequestFeatures | None) -> RequestFeatures:
    """Return the features; raises InvalidValueError where there are none."""
    if features is None:
        expected = "the request's RequestFeatures: its text tokens, and its image tokens by tier"
        raise InvalidValueError("features", None, expected)
    return features
