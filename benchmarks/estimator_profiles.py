"""Synthetic profiles of the reference run's size, whose true latencies are known.

Two kinds: `crops`, image tokens in whole crops as crop-tiling models have them, so that many samples have equal features;
`distinct`, any number of image tokens, so that hardly two are equal.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paceline.profiles import SCHEMA
from paceline.records import TIERS, KnobGrid

GRID = KnobGrid(tiers=TIERS, top_ks=(4, 6, 8), block_counts=(12, 14, 16))
CROPS = {"low": (1, 3), "medium": (4, 8), "high": (9, 15)}
TOKENS_A_CROP = 144
NOISE, SAMPLE_NOISE = 0.04, 0.02
DATASETS = 9
REFERENCE_SAMPLES = 1_638_588

Floats = NDArray[np.float64]


def true_ms(vision: Floats, text: Floats, top_k: int, blocks: int) -> tuple[Floats, Floats]:
    """Return prefill and decode milliseconds a step without noise: linear and quadratic in tokens, with a saturating MoE."""
    tokens = vision + text
    block_ms = 0.9 + 0.0011 * tokens * (1 + 0.35 * np.log1p(top_k)) + 2.2e-7 * tokens**2
    return 14 + 0.021 * vision + blocks * block_ms, 1.5 + blocks * (0.9 + 0.07 * top_k) + 2e-5 * blocks * tokens


def generated(kind: str, total: int, *, seed: int = 3407) -> pl.DataFrame:
    """Return a synthetic profile of about `total` rows: samples × 27 configurations, noise of 4 % a row, 2 % a sample."""
    random = np.random.default_rng(seed)
    configs = GRID.configurations()
    count = total // len(configs)
    text = np.clip(random.lognormal(3.0, 0.5, count), 4, 200).round()
    sample_noise = random.normal(0, SAMPLE_NOISE, count)
    vision = {tier: _vision_tokens(kind, tier, count, random) for tier in TIERS}
    names = {
        "dataset": pl.Series([f"synthetic_{index % DATASETS}" for index in range(count)], dtype=pl.Categorical),
        "sample_id": pl.Series([f"{index:07d}" for index in range(count)]),
    }
    parts: list[pl.DataFrame] = []
    for config in configs:
        tier, blocks, top_k = config.size
        prefill, decode = true_ms(vision[TIERS[tier]], text, top_k, blocks)
        prefill = prefill * np.exp(sample_noise + random.normal(0, NOISE, count))
        decode = decode * np.exp(sample_noise + random.normal(0, NOISE, count))
        tokens = random.geometric(0.15, count)
        columns = {
            **names,
            "tier": [TIERS[tier]] * count,
            "top_k": [top_k] * count,
            "num_active_blocks": [blocks] * count,
            "actual_vision_tokens": vision[TIERS[tier]].astype(int),
            "actual_text_tokens": text.astype(int),
            "output_tokens": tokens,
            "accuracy": (random.random(count) < 0.4 + 0.05 * tier + 0.01 * blocks).astype(float),
            "T_vision_total": 0.3 * prefill,
            "T_LLM_prefill": 0.7 * prefill,
            "T_LLM_decode": decode * (tokens - 1),
            "T_decode_per_token": pl.Series(decode).set(pl.Series(tokens == 1), None),
            "T_total": prefill + decode * (tokens - 1),
        }
        parts.append(pl.DataFrame(columns, schema={name: SCHEMA[name] for name in columns}))
    return pl.concat(parts)


def _vision_tokens(kind: str, tier: str, count: int, random: np.random.Generator) -> Floats:
    low, high = CROPS[tier]
    if kind == "crops":
        return ((random.integers(low, high + 1, count) + 1) * TOKENS_A_CROP).astype(float)
    return random.integers(low * TOKENS_A_CROP, (high + 1) * TOKENS_A_CROP + 1, count).astype(float)
