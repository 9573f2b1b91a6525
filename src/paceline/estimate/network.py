"""The trained network in numpy: a whole grid of configurations in one call, a single one in microseconds.

A prediction is what the request's work costs times the network's correction; of an estimator that knows no work, its mean
latency times that.

Standardisation and LayerNorm's centring and gain are folded into the weights once, so that a layer costs one product,
one sum of squares and three or four passes. Rows carry a last feature that is always 1, whose weights are the first bias.
Legend of array suffixes: N rows, C configurations, F features, I inputs of a layer, H hidden, D blocks of W hidden columns each,
T terms of work and P parts of a request, R of those of all tiers, K heads (prefill, decode), X of those of all configurations.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paceline.errors import EstimatorError
from paceline.estimate.artifact import WORK_WEIGHT, Weights, read_artifact
from paceline.estimate.description import DESCRIPTION_FILE, EstimatorDescription
from paceline.estimate.features import (
    FEATURES,
    feature_rows,
    knob_features,
    outside_ranges,
    require_finite_features,
    vision_tokens_of,
)
from paceline.estimate.latency_model import LatencyEstimates
from paceline.estimate.work_terms import constant_weights, request_parts, term_rows, weights_of_configs
from paceline.records import KnobConfig, RequestFeatures

NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's own
SMALLEST_GAIN = 1e-8  # a gain of 0 cannot be divided by; this close to 0 float32 gives the same sums
ROWS_AT_ONCE = 65_536  # 64 MiB of hidden values
# OpenBLAS takes one thread for a product of at most this many multiplications (interface/gemm.c). A grid is quicker with
# two threads on an idle machine, but where a model keeps the cores busy they wait for one another ten times as long.
ONE_THREAD_PRODUCT = 65_536 * 4
GRID_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedLayer:
    """relu(z / sqrt(mean(z²) + ε) + shift) with z = x · weight + bias; LayerNorm and its gain are in the weights."""

    weight_IH: NDArray[np.float32]
    blocks_DIW: NDArray[np.float32]  # the same weights in D blocks of W columns
    bias_H: NDArray[np.float32] | None  # None in the first layer: its bias is the weight of the feature that is 1
    shift_H: NDArray[np.float32]
    epsilon_sum: float  # H · ε, for the sum of squares stands in for their mean

    def product(self, x_NI: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return x · weight, on one thread for as few rows as a grid has."""
        rows = len(x_NI)
        if rows > GRID_ROWS:
            return x_NI @ self.weight_IH
        blocks, _, width = self.blocks_DIW.shape
        z_NH = np.empty((rows, blocks * width), dtype=np.float32)
        np.matmul(x_NI, self.blocks_DIW, out=z_NH.reshape(rows, blocks, width).transpose(1, 0, 2))
        return z_NH


class NetworkEstimator:
    """A trained latency network as a LatencyModel; immutable, safe to share between threads."""

    def __init__(
        self, *, description: EstimatorDescription, weights: Weights, weights_sha256: str | None = None
    ) -> None:
        self.description, self.weights_sha256 = description, weights_sha256
        self._layers, head_HK = _folded_layers(description, weights)
        self._head_HK = head_HK.astype(np.float32)
        self._head_bias_K = np.concatenate([weights["prefill_head.bias"], weights["decode_head.bias"]]).astype(float)
        known = WORK_WEIGHT if description.work_terms else "target_scale_K"
        costs = weights[known].astype(float) / 2
        self._half_work_TK = costs if description.work_terms else constant_weights(costs)
        self._head_bias = tuple(self._head_bias_K.tolist())
        self._no_decode = description.num_decode_rows == 0
        configs = description.configs
        self._tiers = tuple(dict.fromkeys(config.tier for config in configs))
        self._tier_of_C = np.array([self._tiers.index(config.tier) for config in configs])
        work_CPK = weights_of_configs(configs, self._half_work_TK)
        self._half_work_by_config = {
            config: _weights_by_head(own_PK) for config, own_PK in zip(configs, work_CPK, strict=True)
        }
        self._half_work_RX = _by_tier(work_CPK, self._tier_of_C)
        self._grid_CF = np.array([(0, 0, *knob_features(config), 1) for config in configs], dtype=np.float32)

    @staticmethod
    def load(directory: Path | str) -> "NetworkEstimator":
        """Read an estimator's directory; raises EstimatorError, with file and remedy, for one that cannot be trusted."""
        artifact = read_artifact(Path(directory))
        return NetworkEstimator(
            description=artifact.description, weights=artifact.weights, weights_sha256=artifact.weights_sha256
        )

    @property
    def configs(self) -> tuple[KnobConfig, ...]:
        """The configurations that were measured, smallest first."""
        return self.description.configs

    @property
    def provenance(self) -> tuple[dict[str, object], ...]:
        """One JSON document a profiling run that this estimator was trained on."""
        return self.description.provenance

    def require_model(self, models: frozenset[str], *, artifact: Path | str = DESCRIPTION_FILE) -> None:
        """Raise EstimatorError when both sides name their models and have none in common."""
        ours = self.description.models
        if ours and models and not ours & models:
            raise EstimatorError(
                artifact,
                f"was trained on {', '.join(sorted(ours))}",
                expected=f"an estimator of {', '.join(sorted(models))}",
                mend="train one on a profile of that model, or name the right artifact",
            )

    def estimate(self, features: RequestFeatures) -> LatencyEstimates:
        """Return the latencies of every configuration for one request, with the features beyond the training ranges.

        Decode is NaN in every configuration when no training sample had a decode step. Raises InvalidValueError when the
        request does not give the image tokens of a tier.
        """
        vision = [vision_tokens_of(features, tier) for tier in self._tiers]
        rows_CF = self._grid_CF.copy()
        rows_CF[:, 0] = np.array(vision, dtype=np.float32)[self._tier_of_C]
        rows_CF[:, 1] = features.text_tokens
        starts = range(0, len(rows_CF), GRID_ROWS)
        parts = [self._corrections(rows_CF[start : start + GRID_ROWS]) for start in starts]
        corrections_CK = parts[0] if len(parts) == 1 else np.concatenate(parts)
        parts_R = np.array([part for tokens in vision for part in request_parts(tokens, features.text_tokens)])
        milliseconds_CK = (parts_R @ self._half_work_RX).reshape(-1, 2) * corrections_CK
        return LatencyEstimates(
            prefill_ms_C=milliseconds_CK[:, 0],
            decode_per_token_ms_C=milliseconds_CK[:, 1],
            outside=self._outside(min(vision), max(vision), features.text_tokens),
        )

    def estimate_one(self, features: RequestFeatures, config: KnobConfig) -> tuple[float, float]:
        """Return (prefill_ms, decode_per_token_ms) of one configuration, whether or not it was measured.

        Decode is NaN when no training sample had a decode step; `outside` tells what lies beyond the training ranges.
        """
        vision_tokens = vision_tokens_of(features, config.tier)
        x = np.array((vision_tokens, features.text_tokens, *knob_features(config), 1.0), dtype=np.float32)
        for layer in self._layers:
            x = x.dot(layer.weight_IH)  # half the price of @ for a single row
            if layer.bias_H is not None:
                x += layer.bias_H
            x *= (float(x.dot(x)) + layer.epsilon_sum) ** -0.5
            x += layer.shift_H
            np.maximum(x, 0.0, out=x)
        prefill, decode = x.dot(self._head_HK).tolist()
        prefill, decode = prefill + self._head_bias[0], decode + self._head_bias[1]
        half_prefill_ms, half_decode_ms = self._half_work_of(vision_tokens, features.text_tokens, config)
        # squareplus; what cancels far below 0 is a time near 0 ms
        prefill_ms = (prefill + (prefill * prefill + 4.0) ** 0.5) * half_prefill_ms
        decode_ms = (decode + (decode * decode + 4.0) ** 0.5) * half_decode_ms
        return prefill_ms, float("nan") if self._no_decode else decode_ms

    def estimate_rows(self, rows_NF: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (prefill_ms_N, decode_per_token_ms_N) of rows of features in the order of FEATURES.

        Raises InvalidValueError for a feature that is not a finite number.
        """
        require_finite_features(rows_NF)
        rows = np.column_stack([rows_NF, np.ones(len(rows_NF))]).astype(np.float32)
        starts = range(0, len(rows), ROWS_AT_ONCE)
        parts = [
            self._corrections(rows[start : start + ROWS_AT_ONCE])
            * (term_rows(rows_NF[start : start + ROWS_AT_ONCE]) @ self._half_work_TK)
            for start in starts
        ]
        milliseconds_NK = np.concatenate([np.empty((0, 2)), *parts])
        return milliseconds_NK[:, 0], milliseconds_NK[:, 1]

    def outside(self, features: RequestFeatures, config: KnobConfig) -> tuple[str, ...]:
        """Return the features of a request under one configuration that lie beyond the training ranges."""
        return outside_ranges(feature_rows(features, [config]), self.description.feature_ranges)

    def _half_work_of(self, vision_tokens: float, text_tokens: float, config: KnobConfig) -> tuple[float, float]:
        weights = self._half_work_by_config.get(config)
        if weights is None:  # it was never measured
            weights = _weights_by_head(weights_of_configs([config], self._half_work_TK)[0])
        one, vision, vision_2, tokens, tokens_2 = request_parts(vision_tokens, text_tokens)
        prefill, decode = (a * one + b * vision + c * vision_2 + d * tokens + e * tokens_2 for a, b, c, d, e in weights)
        return prefill, decode

    def _corrections(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return twice what the work of rows is multiplied by."""
        for layer in self._layers:
            x = layer.product(x)
            if layer.bias_H is not None:
                x += layer.bias_H
            x *= ((np.vecdot(x, x) + np.float32(layer.epsilon_sum)) ** np.float32(-0.5))[:, None]
            x += layer.shift_H
            np.maximum(x, 0.0, out=x)
        heads_NK = (x @ self._head_HK).astype(np.float64) + self._head_bias_K
        doubled_NK = heads_NK + np.sqrt(heads_NK * heads_NK + 4.0)  # squareplus
        if self._no_decode:
            doubled_NK[:, 1] = np.nan
        return doubled_NK

    def _outside(self, least_vision: float, most_vision: float, text_tokens: float) -> tuple[str, ...]:
        # the knobs of the grid are inside by construction
        vision_low, vision_high = self.description.feature_ranges[FEATURES[0]]
        text_low, text_high = self.description.feature_ranges[FEATURES[1]]
        vision = () if vision_low <= least_vision and most_vision <= vision_high else FEATURES[:1]
        text = () if text_low <= text_tokens <= text_high else FEATURES[1:2]
        return (*vision, *text)


def _by_tier(work_CPK: NDArray[np.float64], tier_of_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what the parts of a request under every tier weigh in each configuration's latencies, for a single product."""
    configs, parts, heads = work_CPK.shape
    found_SPCK = np.zeros((int(tier_of_C.max()) + 1, parts, configs, heads))
    for config, tier in enumerate(tier_of_C.tolist()):
        found_SPCK[tier, :, config] = work_CPK[config]
    return found_SPCK.reshape(-1, configs * heads)


def _weights_by_head(weights_PK: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, weights_PK.T.tolist()))


def _folded_layers(
    description: EstimatorDescription, weights: Weights
) -> tuple[tuple[FoldedLayer, ...], NDArray[np.float64]]:
    """Return the layers, and the heads' weights with the last gain in them."""
    hidden = description.hidden_dim
    scale_I = weights["feature_scale_F"].astype(float)
    mean_I = weights["feature_mean_F"].astype(float)
    layers: list[FoldedLayer] = []
    for index in range(description.num_layers):
        linear, norm = f"encoder.{3 * index}", f"encoder.{3 * index + 1}"
        weight_IH = weights[f"{linear}.weight"].astype(float).T * scale_I[:, None]
        bias_H = weights[f"{linear}.bias"].astype(float) - mean_I @ weight_IH
        gain_H = weights[f"{norm}.weight"].astype(float)
        sign_H, size_H = np.where(gain_H < 0, -1.0, 1.0), np.maximum(np.abs(gain_H), SMALLEST_GAIN)
        root = hidden**0.5  # sqrt(H) / sqrt(sum + H · ε) is 1 / sqrt(mean + ε)
        both = np.vstack([weight_IH, bias_H])
        both = _float32((both - both.mean(axis=1, keepdims=True)) * sign_H)
        folded_IH = np.ascontiguousarray(both[:-1]) if index else both
        layers.append(
            FoldedLayer(
                weight_IH=folded_IH,
                blocks_DIW=_in_blocks(folded_IH),
                bias_H=both[-1].copy() if index else None,
                shift_H=_float32(weights[f"{norm}.bias"].astype(float) / size_H / root),
                epsilon_sum=hidden * NORM_EPSILON,
            )
        )
        scale_I, mean_I = size_H * root, np.zeros(hidden)
    heads_HK = np.concatenate([weights["prefill_head.weight"], weights["decode_head.weight"]]).astype(float).T
    return tuple(layers), heads_HK * scale_I[:, None]


def _in_blocks(weight_IH: NDArray[np.float32]) -> NDArray[np.float32]:
    inputs, hidden = weight_IH.shape
    widest = max(1, ONE_THREAD_PRODUCT // (GRID_ROWS * inputs))
    width = next(width for width in range(min(widest, hidden), 0, -1) if hidden % width == 0)
    return np.ascontiguousarray(weight_IH.reshape(inputs, hidden // width, width).transpose(1, 0, 2))


def _float32(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)
