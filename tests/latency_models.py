"""Latency models and bounds of generated data, for tests of what is built upon them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from paceline.estimate.bounds import CalibratedConfig, ConformalScores, LatencyBounds
from paceline.estimate.latency_model import LatencyEstimates
from paceline.profiles import SCHEMA
from paceline.records import KnobConfig, KnobGrid, RequestFeatures

GRID = KnobGrid(tiers=("low", "high"), top_ks=(4,), block_counts=(8, 16)).configurations()


class TokenLinear:
    """Prefill is `ms_per_token` of the configuration times image and text tokens; decode is constant."""

    def __init__(self, ms_per_token: Mapping[KnobConfig, float], decode_ms: float = 2.0, most_text: int = 1000) -> None:
        self.configs = tuple(ms_per_token)
        self.ms_per_token, self.decode_ms, self.most_text = ms_per_token, decode_ms, most_text

    def estimate(self, features: RequestFeatures) -> LatencyEstimates:
        tokens = [features.vision_tokens[config.tier] + features.text_tokens for config in self.configs]
        rates = np.array([self.ms_per_token[config] for config in self.configs])
        return LatencyEstimates(
            prefill_ms_C=rates * np.array(tokens, dtype=float),
            decode_per_token_ms_C=np.full(len(self.configs), self.decode_ms),
            outside=("text_tokens",) if features.text_tokens > self.most_text else (),
        )


def token_linear() -> TokenLinear:
    """A grid of four whose time grows with blocks."""
    return TokenLinear({config: 0.01 * (config.num_active_blocks or 0) for config in GRID})


def request(text_tokens: int = 10, low: int = 90, high: int = 190, **more: Any) -> RequestFeatures:
    return RequestFeatures(text_tokens=text_tokens, vision_tokens={"low": low, "high": high}, **more)


def scores_of(per_config: Sequence[Sequence[float]]) -> ConformalScores:
    """Scores of requests 0, 1, … in the order given, for each configuration."""
    flat = [sorted((score, row) for row, score in enumerate(scores)) for scores in per_config]
    return ConformalScores(
        scores_N=np.array([score for each in flat for score, _ in each]),
        requests_N=np.array([row for each in flat for _, row in each], dtype=np.int32),
        counts_C=np.array([len(each) for each in flat]),
    )


def bounds_of(
    per_config: Sequence[Sequence[float]], accuracies: Sequence[float] = (0.3, 0.6, 0.5, 0.9), **more: Any
) -> LatencyBounds:
    """Bounds over GRID with the same scores for prefill and total."""
    configs = tuple(
        CalibratedConfig(
            config=config, accuracy=accuracy, accuracy_std=0.1, num_samples=100, expected_output_tokens=5.0
        )
        for config, accuracy in zip(GRID, accuracies, strict=True)
    )
    scores = scores_of(per_config)
    return LatencyBounds(configs=configs, scores={"prefill": scores, "total": scores}, **more)


def steady_bounds(factor: float = 1.2, count: int = 99) -> LatencyBounds:
    """Every calibrating request took `factor` times its prediction."""
    return bounds_of([[float(np.log(factor))] * count] * len(GRID))


def synthetic_samples(
    count: int = 200,
    *,
    seed: int = 1,
    noise: float = 0.1,
    datasets: Sequence[str] = ("synthetic_one", "synthetic_two"),
    noise_of: Mapping[KnobConfig, float] | None = None,
) -> pl.DataFrame:
    """Requests under every configuration of GRID; latency is token_linear's times lognormal noise; accuracy grows."""
    random = np.random.default_rng(seed)
    model, rows = token_linear(), []
    for index in range(count):
        features = request(int(random.integers(5, 40)), int(random.integers(80, 110)), int(random.integers(180, 260)))
        estimates = model.estimate(features)
        for place, config in enumerate(model.configs):
            spread = noise if noise_of is None else noise_of[config]
            prefill_ms = float(estimates.prefill_ms_C[place] * random.lognormal(0.0, spread))
            tokens = int(random.integers(1, 9))
            decode_ms = (tokens - 1) * float(random.lognormal(np.log(model.decode_ms), 0.05))
            right = random.random() < 0.3 + 0.15 * place
            rows.append(
                {
                    "dataset": datasets[index % len(datasets)],
                    "sample_id": f"{index:05d}",
                    "tier": config.tier,
                    "top_k": config.top_k,
                    "num_active_blocks": config.num_active_blocks,
                    "target_vision_tokens": None,
                    "actual_vision_tokens": features.vision_tokens[config.tier],
                    "actual_text_tokens": features.text_tokens,
                    "output_tokens": tokens,
                    "accuracy": float(right),
                    "pred": "synthetic",
                    "metadata": '{"synthetic":true}',
                    "T_vision_total": 0.3 * prefill_ms,
                    "T_LLM_prefill": 0.7 * prefill_ms,
                    "T_LLM_decode": decode_ms,
                    "T_decode_per_token": decode_ms / (tokens - 1) if tokens > 1 else None,
                    "T_total": prefill_ms + decode_ms + 0.5,
                    "T_preprocess": None,
                    "T_ttft": prefill_ms + 2.0,
                    "T_other": 0.5,
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA)
