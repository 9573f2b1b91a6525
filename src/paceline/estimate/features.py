"""The five features of the latency network, their order, and a request as rows of them.

Legend of array suffixes: C configurations, F features.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import TIERS, KnobConfig, RequestFeatures

FEATURES = ("vision_tokens", "text_tokens", "tier_idx", "top_k", "num_active_blocks")


def knob_features(config: KnobConfig) -> tuple[int, int, int]:
    """Return tier index, experts and blocks of a configuration; a knob that the model lacks is fed as 0."""
    tier, blocks, top_k = config.size
    return tier, top_k, blocks


def vision_tokens_of(features: RequestFeatures, tier: str | None) -> float:
    """Return the image tokens that a tier gives this request; InvalidValueError when the request does not say."""
    if tier not in features.vision_tokens:
        known = ", ".join(str(name) for name in features.vision_tokens)
        raise InvalidValueError(
            "vision_tokens",
            f"given for {known} only",
            f"the image tokens of tier {tier} too, which a configuration uses",
        )
    return features.vision_tokens[tier]


def feature_rows(features: RequestFeatures, configs: Sequence[KnobConfig]) -> NDArray[np.float64]:
    """Return one row of features a configuration, in FEATURES' order: what the network is asked for one request."""
    rows = [(vision_tokens_of(features, each.tier), features.text_tokens, *knob_features(each)) for each in configs]
    return np.array(rows, dtype=np.float64).reshape(len(configs), len(FEATURES))


def outside_ranges(rows_CF: NDArray[np.float64], ranges: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Return the features of which some row lies outside its (min, max), in FEATURES' order."""
    lowest_F, highest_F = rows_CF.min(axis=0), rows_CF.max(axis=0)
    return tuple(
        name
        for name, lowest, highest in zip(FEATURES, lowest_F, highest_F, strict=True)
        if lowest < ranges[name][0] or highest > ranges[name][1]
    )


def require_finite_features(rows_NF: NDArray[np.float64]) -> None:
    """Raise InvalidValueError that names the first feature with a value that is no finite number."""
    for name, column_N in zip(FEATURES, rows_NF.T, strict=True):
        if not np.isfinite(column_N).all():
            raise InvalidValueError(name, float(column_N[~np.isfinite(column_N)][0]), "a finite number in every row")


def tier_index(tier: str | None) -> int:
    """Return the place of a tier in the order of TIERS, 0 for a model without tiers; raises UnknownChoiceError."""
    if tier is not None and tier not in TIERS:
        raise UnknownChoiceError("tier", tier, TIERS)
    return 0 if tier is None else TIERS.index(tier)
