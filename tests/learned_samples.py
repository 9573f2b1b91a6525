"""Synthetic profiles in which what a request needs can be read off its vector: half need fine pictures, half need depth."""

import json
from typing import Any

import numpy as np
import polars as pl
from latency_models import GRID, synthetic_samples

from paceline.records import KnobConfig
from paceline.request_vector import RANGES, REQUEST_VECTOR_NAMES, REQUEST_VECTOR_VERSION

TELLING = REQUEST_VECTOR_NAMES.index("log_mark_size")


def needs_detail(sample_id: str) -> bool:
    """Whether a request is answered by the high tier alone, however few blocks; the others by 16 blocks in any tier."""
    return int(sample_id) % 3 != 0


def answered(sample_id: str, config: KnobConfig) -> bool:
    """Whether a configuration answers a request."""
    return config.tier == "high" if needs_detail(sample_id) else config.num_active_blocks == 16


def taught_samples(count: int = 240, *, seed: int = 1, **more: Any) -> pl.DataFrame:
    """Samples of `latency_models.synthetic_samples`, answered by what each request needs; its vector tells which."""
    samples = synthetic_samples(count, seed=seed, **more)
    random = np.random.default_rng(seed)
    low, high = np.array(list(RANGES.values())).T
    vectors = {f"{row:05d}": random.uniform(low, high) for row in range(count)}
    for name, vector in vectors.items():
        vector[TELLING] = high[TELLING] * (0.25 if needs_detail(name) else 0.75)
    told = {
        name: json.dumps(
            {
                "synthetic": True,
                "request_features": [round(x, 6) for x in vector.tolist()],
                "request_features_version": REQUEST_VECTOR_VERSION,
            }
        )
        for name, vector in vectors.items()
    }
    by_knobs = {(config.tier, config.num_active_blocks): config for config in GRID}
    right = [
        float(answered(name, by_knobs[tier, blocks]))
        for name, tier, blocks in samples.select(
            "sample_id", pl.col("tier").cast(pl.String), "num_active_blocks"
        ).rows()
    ]
    return samples.with_columns(
        accuracy=pl.Series(right), metadata=pl.Series([told[name] for name in samples["sample_id"].to_list()])
    )
