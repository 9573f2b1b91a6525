"""A profile's samples as matrices: a row a request, a column a configuration.

Legend of array suffixes: R requests, C configurations. NaN stands where a request was not measured under a configuration.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paceline.profiles.fields import CONFIGURATION
from paceline.records import KnobConfig, RequestFeatures

NAME = ("dataset", "sample_id")
REQUEST_COLUMNS = (*NAME, *CONFIGURATION, "actual_vision_tokens", "actual_text_tokens", "accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRequests:
    """What every request turned out to take and to score under each configuration, with what was known before it ran.

    `pictures` tells which requests share one, None where nothing does.
    """

    names: tuple[tuple[str, str], ...]
    configs: tuple[KnobConfig, ...]
    features: tuple[RequestFeatures, ...]
    latency_ms_RC: NDArray[np.float64]
    accuracy_RC: NDArray[np.float64]
    pictures: tuple[Hashable, ...] | None = None

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Whether a request was measured under every configuration."""
        return np.asarray(~np.isnan(self.latency_ms_RC).any(axis=1))

    def only(self, chosen_R: NDArray[np.bool_]) -> "MeasuredRequests":
        """Return the requests for which `chosen_R` is true, in their order."""
        rows: list[int] = np.flatnonzero(chosen_R).tolist()
        return MeasuredRequests(
            names=tuple(self.names[row] for row in rows),
            configs=self.configs,
            features=tuple(self.features[row] for row in rows),
            latency_ms_RC=self.latency_ms_RC[rows],
            accuracy_RC=self.accuracy_RC[rows],
            pictures=None if self.pictures is None else tuple(self.pictures[row] for row in rows),
        )


def measured_requests(samples: pl.DataFrame, latency: pl.Expr) -> MeasuredRequests:
    """Return a samples frame as matrices, requests in order of name and configurations smallest first.

    `latency` gives the milliseconds of a row. Features come from the request's own rows: the image tokens of each tier it
    was measured under, and its text tokens; where rows of one request differ the largest counts.
    """
    rows = samples.select(
        pl.col("dataset").cast(pl.String),
        "sample_id",
        pl.col("tier").cast(pl.String),
        "top_k",
        "num_active_blocks",
        "actual_vision_tokens",
        "actual_text_tokens",
        "accuracy",
        latency_ms=latency,
    )
    requests = rows.group_by(NAME).agg(pl.col("actual_text_tokens").max()).sort(NAME).with_row_index("request")
    configs = sorted(_configs(rows), key=lambda config: config.size)
    placed = rows.join(requests.select("request", *NAME), on=NAME).join(
        _columns(configs), on=CONFIGURATION, nulls_equal=True
    )
    shape = requests.height, len(configs)
    return MeasuredRequests(
        names=tuple(requests.select(NAME).iter_rows()),
        configs=tuple(configs),
        features=_features(placed, requests),
        latency_ms_RC=_matrix(placed, "latency_ms", shape),
        accuracy_RC=_matrix(placed, "accuracy", shape),
    )


def _configs(rows: pl.DataFrame) -> list[KnobConfig]:
    return [KnobConfig(**row) for row in rows.select(CONFIGURATION).unique().iter_rows(named=True)]


def _columns(configs: Sequence[KnobConfig]) -> pl.DataFrame:
    knobs: dict[str, Any] = {name: [getattr(config, name) for config in configs] for name in CONFIGURATION}
    types = {"tier": pl.String(), "top_k": pl.Int32(), "num_active_blocks": pl.Int32(), "column": pl.UInt32()}
    return pl.DataFrame({**knobs, "column": range(len(configs))}, schema=types)


def _features(placed: pl.DataFrame, requests: pl.DataFrame) -> tuple[RequestFeatures, ...]:
    vision_tokens: list[dict[str | None, int]] = [{} for _ in range(requests.height)]
    for request, tier, tokens in (
        placed.group_by("request", "tier").agg(pl.col("actual_vision_tokens").max()).iter_rows()
    ):
        vision_tokens[request][tier] = tokens
    rows = requests.select("dataset", "actual_text_tokens").iter_rows()
    return tuple(
        RequestFeatures(text_tokens=text_tokens, vision_tokens=by_tier, dataset=dataset)
        for (dataset, text_tokens), by_tier in zip(rows, vision_tokens, strict=True)
    )


def _matrix(placed: pl.DataFrame, column: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    found = np.full(shape, np.nan)
    found[placed["request"].to_numpy(), placed["column"].to_numpy()] = placed[column].to_numpy()
    return found
