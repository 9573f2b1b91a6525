"""Samples of a profile as rows of features and measured milliseconds.

Legend of array suffixes: N rows, F features, K heads (prefill, decode).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paceline.analyze import LATENCIES
from paceline.errors import InvalidValueError
from paceline.estimate.description import DECODE_DEFINITIONS
from paceline.estimate.features import FEATURES
from paceline.fit.estimator.losses import SMALLEST_MS
from paceline.profiles import CONFIGURATION

FEATURE_COLUMNS = {
    "vision_tokens": pl.col("actual_vision_tokens"),
    "text_tokens": pl.col("actual_text_tokens"),
    "tier_idx": pl.col("tier").to_physical().fill_null(0),
    "top_k": pl.col("top_k").fill_null(0),
    "num_active_blocks": pl.col("num_active_blocks").fill_null(0),
}
ESTIMATOR_COLUMNS = (
    "dataset",
    "sample_id",
    *CONFIGURATION,
    "actual_vision_tokens",
    "actual_text_tokens",
    "output_tokens",
    "accuracy",
    "T_vision_total",
    "T_LLM_prefill",
    "T_LLM_decode",
    "T_decode_per_token",
    "T_total",
    "T_ttft",
)


def arithmetic_mean(name: str) -> pl.Expr:
    """Return a column's mean."""
    return pl.col(name).mean()


def geometric_mean(name: str) -> pl.Expr:
    """Return a column's mean on the logarithmic scale of the loss `log`."""
    return (pl.col(name) + SMALLEST_MS).log().mean().exp() - SMALLEST_MS


# by loss: a sum of squares over rows of equal features is that of their mean times their count, plus a constant
JOINED_MEANS = {"mse": arithmetic_mean, "scaled": arithmetic_mean, "log": geometric_mean}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRows:
    """Features with measured milliseconds a row; `weight_NK` counts the samples behind each, 0 where none had a decode."""

    features_NF: NDArray[np.float64]
    measured_ms_NK: NDArray[np.float64]
    weight_NK: NDArray[np.float64]


def decode_definition_of(samples: pl.DataFrame) -> str:
    """Return which of DECODE_DEFINITIONS the profile's T_decode_per_token follows, by its own T_LLM_decode.

    The first, a profile's own, where no sample can tell.
    """
    tokens = pl.col("output_tokens")
    times = samples.filter(tokens >= 2, pl.col("T_decode_per_token") > 0, pl.col("T_LLM_decode") > 0).select(
        by_steps=(pl.col("T_decode_per_token") * (tokens - 1) / pl.col("T_LLM_decode")).log().abs().median(),
        by_tokens=(pl.col("T_decode_per_token") * tokens / pl.col("T_LLM_decode")).log().abs().median(),
    )
    by_steps, by_tokens = times.row(0)
    return DECODE_DEFINITIONS[0 if by_steps is None or by_steps <= by_tokens else 1]


def decode_step_ms(decode_definition: str) -> pl.Expr:
    """Return milliseconds a decode step from T_decode_per_token of either definition; null without a decode step."""
    tokens = pl.col("output_tokens")
    steps = pl.col("T_decode_per_token")
    if decode_definition == DECODE_DEFINITIONS[1]:
        steps = steps * tokens / (tokens - 1)
    return pl.when(tokens >= 2).then(steps)


def latency_rows(samples: pl.DataFrame, decode_definition: str) -> LatencyRows:
    """Return one row a sample and configuration, in the order of the samples."""
    frame = _frame(samples, decode_definition)
    known = frame["decode"].is_not_null().to_numpy()
    measured_ms_NK = frame.select("prefill", pl.col("decode").fill_null(0.0)).to_numpy()
    return _rows(frame, measured_ms_NK, np.stack([np.ones(len(known)), known], axis=1))


def joined_rows(samples: pl.DataFrame, decode_definition: str, loss: str) -> LatencyRows:
    """Return one row for all samples of equal features, with their mean times and their counts as weights.

    The mean is that of JOINED_MEANS, so that the loss over these rows is that over all samples, up to a constant.
    """
    mean = JOINED_MEANS[loss]
    joined = (
        _frame(samples, decode_definition)
        .group_by(FEATURES, maintain_order=True)  # else partial sums meet in the order that threads finish
        .agg(
            mean("prefill"),
            mean("decode").fill_null(0.0),
            prefill_count=pl.len(),
            decode_count=pl.col("decode").count(),
        )
        .sort(FEATURES)  # training must not depend on the order of the samples
    )
    counts_NK = joined.select("prefill_count", "decode_count").to_numpy().astype(float)
    return _rows(joined, joined.select("prefill", "decode").to_numpy(), counts_NK)


def _frame(samples: pl.DataFrame, decode_definition: str) -> pl.DataFrame:
    if samples.is_empty():
        raise InvalidValueError("samples", "none", "at least one sample; measure some with `paceline profile`")
    return samples.select(**FEATURE_COLUMNS, prefill=LATENCIES["prefill"], decode=decode_step_ms(decode_definition))


def _rows(frame: pl.DataFrame, measured_ms_NK: NDArray[np.float64], weight_NK: NDArray[np.float64]) -> LatencyRows:
    features_NF = frame.select(FEATURES).to_numpy().astype(float)
    return LatencyRows(features_NF=features_NF, measured_ms_NK=measured_ms_NK, weight_NK=weight_NK)
