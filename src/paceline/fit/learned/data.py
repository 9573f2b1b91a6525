"""What a learned controller is trained on: every request of a profile's fit part as numbers, with what each choice gave.

No model runs and no picture is opened: the request vectors, accuracies and latencies are those that profiling stored.
Legend of array suffixes: R requests, C configurations, F numbers of the request vector.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paceline.analyze import default_budgets, latency_of, require_latency
from paceline.errors import InvalidValueError
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.latency_model import LatencyModel
from paceline.fit.conformal import predicted_matrix
from paceline.profiles.request_features import request_vectors
from paceline.profiles.requests import measured_requests
from paceline.records import KnobConfig, LatencyKind

FEWEST_REQUESTS = 20
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooserData:
    """Requests with what every configuration of the grid scored and took, most accurate configuration first.

    `accuracy_RC` and `latency_ms_RC` are measured; where a request was not measured under a configuration they are the
    configuration's mean accuracy and the estimator's latency, and `measured_RC` is False. `predicted_ms_RC` and
    `bound_ms_RC` are what the controller will know beforehand.
    """

    configs: tuple[KnobConfig, ...]
    names: tuple[tuple[str, str], ...]
    vectors_RF: NDArray[np.float64]
    accuracy_RC: NDArray[np.float64]
    latency_ms_RC: NDArray[np.float64]
    measured_RC: NDArray[np.bool_]
    predicted_ms_RC: NDArray[np.float64]
    bound_ms_RC: NDArray[np.float64]

    def at(self, rows: NDArray[np.intp]) -> "ChooserData":
        """Return the requests of these rows, in their order; a row may come twice."""
        return ChooserData(
            configs=self.configs,
            names=tuple(self.names[row] for row in rows.tolist()),
            vectors_RF=self.vectors_RF[rows],
            accuracy_RC=self.accuracy_RC[rows],
            latency_ms_RC=self.latency_ms_RC[rows],
            measured_RC=self.measured_RC[rows],
            predicted_ms_RC=self.predicted_ms_RC[rows],
            bound_ms_RC=self.bound_ms_RC[rows],
        )

    def allowed(self, budget_ms: float | NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return what may be taken (R, C) at one budget, or one budget each: what fits, else the smallest bound alone."""
        fits_RC = self.bound_ms_RC <= np.reshape(budget_ms, (-1, 1))
        smallest_RC = np.arange(len(self.configs)) == self.bound_ms_RC.argmin(axis=1)[:, None]
        return np.where(fits_RC.any(axis=1, keepdims=True), fits_RC, smallest_RC)

    def bound_choice(self, budget_ms: float | NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the column that the controller with bounds takes for every request, apart from ties in accuracy."""
        return self.allowed(budget_ms).argmax(axis=1)  # columns stand in its order of preference


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooserParts:
    """Requests to learn from, requests of the same part of the profile to stop by, and the budgets of both."""

    training: ChooserData
    validation: ChooserData
    budgets_ms: tuple[float, ...]

    @property
    def budget_range_ms(self) -> tuple[float, float]:
        """The ends of the range that training draws budgets from."""
        return self.budgets_ms[0], self.budgets_ms[-1]


def chooser_parts(
    fit_samples: pl.DataFrame,
    *,
    source: Path,
    model: LatencyModel,
    bounds: LatencyBounds,
    latency_kind: LatencyKind,
    alpha: float,
    seed: int,
) -> ChooserParts:
    """Return the fit part of a profile as matrices, some 15 of 100 requests held back to stop by.

    `source` is where the samples were read, for errors. Raises ProfileDataError for samples without request vectors, and
    InvalidValueError for fewer than 20 requests or an α that the bounds cannot promise.
    """
    data = chooser_data(fit_samples, source=source, model=model, bounds=bounds, latency_kind=latency_kind, alpha=alpha)
    if len(data.names) < FEWEST_REQUESTS:
        raise InvalidValueError(
            "requests to learn from", len(data.names), f"at least {FEWEST_REQUESTS}: profile more samples"
        )
    order = np.random.default_rng(seed).permutation(len(data.names))
    held = round(VALIDATION_SHARE * len(order))
    return ChooserParts(
        training=data.at(np.sort(order[held:])),
        validation=data.at(np.sort(order[:held])),
        budgets_ms=default_budgets(fit_samples, latency_kind).budgets_ms,
    )


def chooser_data(
    samples: pl.DataFrame,
    *,
    source: Path,
    model: LatencyModel,
    bounds: LatencyBounds,
    latency_kind: LatencyKind,
    alpha: float,
) -> ChooserData:
    """Return samples as matrices over the configurations of the bounds; raises as `chooser_parts` does."""
    known = {each.config: place for place, each in enumerate(bounds.configs)}
    ranked = sorted(bounds.configs, key=lambda each: (-each.accuracy, each.config.size))
    configs = tuple(each.config for each in ranked)
    require_latency(samples, latency_kind)
    requests = measured_requests(samples, latency_of(latency_kind))
    lengths_C = np.array([bounds.configs[known[config]].expected_output_tokens for config in model.configs])
    predicted_RC = predicted_matrix(model, requests.features, latency_kind, lengths_C)
    predicted_RC = predicted_RC[:, [model.configs.index(config) for config in configs]]
    factors_C = bounds.factors(alpha, latency_kind)[[known[config] for config in configs]]
    bound_ms_RC = predicted_RC * factors_C
    predicted_RC = predicted_RC * bounds.ratios(latency_kind)[[known[config] for config in configs]]
    measured_ms_RC = _ordered(requests.latency_ms_RC, requests.configs, configs)
    accuracy_RC = _ordered(requests.accuracy_RC, requests.configs, configs)
    measured_RC = ~np.isnan(measured_ms_RC)
    return ChooserData(
        configs=configs,
        names=requests.names,
        vectors_RF=request_vectors(samples, source).vectors_RF,
        accuracy_RC=np.where(measured_RC, accuracy_RC, [each.accuracy for each in ranked]),
        latency_ms_RC=np.where(measured_RC, measured_ms_RC, predicted_RC),
        measured_RC=measured_RC,
        predicted_ms_RC=predicted_RC,
        bound_ms_RC=bound_ms_RC,
    )


def _ordered(
    values_RC: NDArray[np.float64], columns: tuple[KnobConfig, ...], wanted: tuple[KnobConfig, ...]
) -> NDArray[np.float64]:
    """Return the columns of the wanted configurations; NaN for those that no request was measured under."""
    found = np.full((len(values_RC), len(wanted)), np.nan)
    place_of = {config: place for place, config in enumerate(wanted)}
    for column, config in enumerate(columns):
        if config in place_of:
            found[:, place_of[config]] = values_RC[:, column]
    return found
