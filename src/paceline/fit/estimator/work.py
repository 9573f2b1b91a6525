"""Fitting what work costs: `paceline.estimate.work_terms` by samples, robustly, in relative errors.

Legend of array suffixes: N rows, F features, T terms, K heads (prefill, decode).
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from paceline.estimate.work_terms import KNOB_PART_OF_T, REQUEST_PART_OF_T, TERMS, term_rows
from paceline.fit.estimator.losses import SMALLEST_MS
from paceline.fit.estimator.rows import LatencyRows

ROUNDS = 12
HUBER_SCALES, MAD_TO_STD = 1.345, 1.4826  # Huber's: 95 % efficient under normal errors
LARGEST_STEP = 1.0  # of a logarithm in one round
MOST_ROWS = 100_000  # more of them move no digit that matters
SMALLEST_SHARE = 1e-3  # of the mean latency: the constant term is no smaller, so that no prediction is 0

Floats = NDArray[np.float64]


def fitted_work(rows: LatencyRows) -> Floats:
    """Return the weights of TERMS by head, T × K, never negative; ones on the constant for a head without measurements.

    Gauss-Newton on Huber's loss of log(measured / predicted), each round a non-negative least squares (Lawson and Hanson,
    Solving Least Squares Problems, 1974). A term whose part never varied is left out: what was never seen to matter moves
    nothing.
    """
    every = -(-len(rows.features_NF) // MOST_ROWS)
    features_NF, measured_NK, weight_NK = (
        each[::every] for each in (rows.features_NF, rows.measured_ms_NK, rows.weight_NK)
    )
    weight_TK = np.zeros((len(TERMS), 2))
    weight_TK[0] = 1.0
    for head in range(2):
        known_N = weight_NK[:, head] > 0
        if known_N.any():
            weight_TK[:, head] = _fitted(
                features_NF[known_N], measured_NK[known_N, head] + SMALLEST_MS, weight_NK[known_N, head]
            )
    return weight_TK


def _varied(features_NF: Floats) -> NDArray[np.bool_]:
    """Return which terms are made of parts that vary over the rows; the constant always is."""
    vision_N, text_N, tier_N, top_k_N, blocks_N = features_NF.T
    vision, tokens, top_k, blocks = (bool(np.ptp(each)) for each in (vision_N, vision_N + text_N, top_k_N, blocks_N))
    low, high = tier_N.min(), tier_N.max()
    knobs = (True, top_k, blocks, top_k and blocks, low < 1 <= high, low < 2 <= high)
    requests = (True, vision, vision, tokens, tokens)
    return np.array([knobs[a] and requests[p] for a, p in zip(KNOB_PART_OF_T, REQUEST_PART_OF_T, strict=True)])


def _fitted(features_NF: Floats, measured_N: Floats, count_N: Floats) -> Floats:
    terms_NT, kept_T = term_rows(features_NF), _varied(features_NF)
    scale_T = np.where(kept_T, terms_NT.max(axis=0), 1.0)  # tokens² is millions of the constant: condition the columns
    columns_NT = np.where(kept_T, terms_NT / scale_T, 0.0)
    smallest = SMALLEST_SHARE * float(np.average(measured_N, weights=count_N))
    predicted_N = np.full(len(measured_N), float(np.exp(np.average(np.log(measured_N), weights=count_N))))
    found_T = np.zeros(len(scale_T))
    for _ in range(ROUNDS):
        score_N = np.log(measured_N / predicted_N)
        reach = HUBER_SCALES * MAD_TO_STD * float(np.median(np.abs(score_N)))
        trust_N = count_N * np.minimum(1.0, reach / np.maximum(np.abs(score_N), 1e-12)) if reach > 0 else count_N
        root_N = np.sqrt(trust_N) / predicted_N
        target_N = predicted_N * (1.0 + np.clip(score_N, -LARGEST_STEP, LARGEST_STEP))
        found_T = _nnls(columns_NT * root_N[:, None], target_N * root_N)
        found_T[0] = max(found_T[0], smallest)
        predicted_N = columns_NT @ found_T
    return found_T / scale_T


def _nnls(columns_NT: Floats, target_N: Floats) -> Floats:
    """Return the non-negative least squares, of the triangle that as many rows say as much with."""
    triangle = cast("Floats", np.linalg.qr(np.column_stack([columns_NT, target_N]), mode="r"))
    return nnls(triangle[:, :-1], triangle[:, -1])[0]
