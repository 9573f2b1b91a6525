from collections.abc import Callable
from typing import Any

import pytest

from paceline.records import KnobGrid, ProfileSample, Provenance

SAMPLE: dict[str, Any] = {
    "dataset": "text_vqa",
    "sample_id": "s0",
    "tier": "low",
    "top_k": 4,
    "num_active_blocks": 16,
    "target_vision_tokens": 432,
    "actual_vision_tokens": 430,
    "actual_text_tokens": 21,
    "output_tokens": 3,
    "accuracy": 0.6,
    "pred": "a café",
    "metadata": {"question_type": "what", "digits": 3, "share": 0.1, "odd": True, "note": None},
    "T_vision_total": 31.25,
    "T_LLM_prefill": 60.1,
    "T_LLM_decode": 40.0,
    "T_decode_per_token": 20.0,
    "T_total": 133.0,
    "T_preprocess": 4.5,
    "T_ttft": 97.3,
    "T_other": 1.65,
}
RUN: dict[str, Any] = {
    "model": "synthetic",
    "revision": None,
    "dtype": "float32",
    "device": "cpu",
    "driver": None,
    "clock": "perf_counter",
    "versions": {"paceline": "0"},
    "commit": None,
    "seed": 3407,
    "grid": KnobGrid(tiers=("low",), top_ks=(4, 8), block_counts=(16,)),
    "block_ranking": (3, 1, 2),
    "datasets": {"text_vqa": "synthetic"},
    "created": "2026-01-01T00:00:00Z",
    "settings": {"greedy": True, "samples": 10},
}


@pytest.fixture(scope="session")
def synthetic_sample() -> Callable[..., ProfileSample]:
    """Build a sample from a synthetic one with some fields changed."""
    return lambda **changed: ProfileSample(**{**SAMPLE, **changed})


@pytest.fixture(scope="session")
def synthetic_run() -> Callable[..., Provenance]:
    """Build a provenance from a synthetic one with some fields changed."""
    return lambda **changed: Provenance(**{**RUN, **changed})
