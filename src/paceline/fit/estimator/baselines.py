"""What an estimator must beat: simpler models of latency, fitted on the same samples.

Legend of array suffixes: N rows, F features, K heads (prefill, decode).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits

from paceline.fit.estimator.rows import LatencyRows

KNOBS = slice(2, 5)  # of FEATURES
SEED = 3407
ONE_THREAD_ROWS = 100_000  # for fewer, threads wait for one another longer than they work on a busy machine

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]


def config_mean(rows: LatencyRows) -> Predict:
    """Return the mean of each configuration's samples; of all samples for a configuration that has none."""
    knobs_CF, of_N = np.unique(rows.features_NF[:, KNOBS], axis=0, return_inverse=True)
    known_K = _means(rows.measured_ms_NK, rows.weight_NK, np.zeros(len(of_N), dtype=np.int64), 1, np.zeros(2))[0]
    mean_CK = _means(rows.measured_ms_NK, rows.weight_NK, of_N, len(knobs_CF), known_K)
    place = {tuple(knobs): index for index, knobs in enumerate(knobs_CF.tolist())}
    table = np.vstack([mean_CK, known_K])

    def predict(features_NF: Floats) -> Floats:
        asked, asked_of_N = np.unique(features_NF[:, KNOBS], axis=0, return_inverse=True)
        return table[[place.get(tuple(knobs), len(mean_CK)) for knobs in asked.tolist()]][asked_of_N]

    return predict


def ridge(rows: LatencyRows) -> Predict:
    """Fit ridge regression on the features, their squares and their products, standardised."""
    return _by_head(
        rows, lambda: make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), Ridge(1.0))
    )


def gradient_boosting(rows: LatencyRows) -> Predict:
    """Fit boosted trees on histograms of the features, as scikit-learn sets them up by default."""
    return _by_head(rows, lambda: HistGradientBoostingRegressor(random_state=SEED))


BASELINES: dict[str, Callable[[LatencyRows], Predict]] = {
    "config_mean": config_mean,
    "ridge": ridge,
    "gradient_boosting": gradient_boosting,
}


def _by_head(rows: LatencyRows, new_model: Callable[[], HistGradientBoostingRegressor | Pipeline]) -> Predict:
    models: list[HistGradientBoostingRegressor | Pipeline] = []
    for head in range(2):
        known_N = rows.weight_NK[:, head] > 0
        if known_N.any():
            with threadpool_limits(1 if len(known_N) <= ONE_THREAD_ROWS else None):
                models.append(new_model().fit(rows.features_NF[known_N], rows.measured_ms_NK[known_N, head]))

    def predict(features_NF: Floats) -> Floats:
        with threadpool_limits(1 if len(features_NF) <= ONE_THREAD_ROWS else None):
            columns = [model.predict(features_NF) for model in models]
        # the second model is missing when no sample has a decode step, and then its column is never judged
        return np.column_stack([*columns, *[np.full(len(features_NF), np.nan)] * (2 - len(columns))])

    return predict


def _means(
    values_NK: Floats, weight_NK: Floats, group_N: NDArray[np.int64], groups: int, otherwise_K: Floats
) -> Floats:
    columns = [
        np.divide(
            np.bincount(group_N, values_NK[:, head] * weight_NK[:, head], groups),
            np.bincount(group_N, weight_NK[:, head], groups),
            out=np.full(groups, otherwise_K[head]),
            where=np.bincount(group_N, weight_NK[:, head], groups) > 0,
        )
        for head in range(2)
    ]
    return np.column_stack(columns)
