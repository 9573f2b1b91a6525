"""Synthetic profiles with a known latency, and networks of random weights, for tests of the latency estimator."""

from typing import Any

import numpy as np
import polars as pl
import torch

from paceline.estimate.description import DECODE_DEFINITIONS, EstimatorDescription
from paceline.estimate.features import FEATURES
from paceline.estimate.network import NetworkEstimator
from paceline.fit.estimator.network import LatencyEstimator
from paceline.profiles import SCHEMA
from paceline.records import TIERS, KnobConfig, KnobGrid, Provenance

GRID = KnobGrid(tiers=TIERS, top_ks=(4, 8), block_counts=(8, 16))
CONFIGS = tuple(GRID.configurations())
CROPS = {"low": (2, 4), "medium": (5, 9), "high": (10, 16)}
TOKENS_A_CROP = 144


def true_ms(vision: Any, text: Any, top_k: Any, blocks: Any) -> tuple[Any, Any]:
    """Prefill and decode-per-step milliseconds without noise."""
    prefill = 5 + 0.02 * vision + 0.001 * (vision + text) * blocks * (1 + 0.05 * top_k)
    return prefill, 2 + 0.5 * blocks + 0.1 * top_k


def synthetic_samples(count: int = 60, *, seed: int = 0, noise: float = 0.03, **columns: Any) -> pl.DataFrame:
    """`count` samples under each of CONFIGS; the noise is relative; `columns` replace what is generated."""
    random = np.random.default_rng(seed)
    crops = {tier: random.integers(*span, count) for tier, span in CROPS.items()}
    text = random.integers(8, 40, count)
    parts: list[pl.DataFrame] = []
    for config in CONFIGS:
        vision = crops[config.tier or "low"] * TOKENS_A_CROP
        prefill, decode = true_ms(vision, text, config.top_k, config.num_active_blocks)
        prefill, decode = (each * random.lognormal(0, noise, count) for each in (prefill, np.full(count, decode)))
        tokens = random.integers(1, 6, count)
        per_step = [ms if length > 1 else None for ms, length in zip(decode.tolist(), tokens.tolist(), strict=True)]
        made: dict[str, Any] = {
            "dataset": ["one" if index % 2 else "two" for index in range(count)],
            "sample_id": [f"s{index}" for index in range(count)],
            "tier": [config.tier] * count,
            "top_k": [config.top_k] * count,
            "num_active_blocks": [config.num_active_blocks] * count,
            "target_vision_tokens": vision,
            "actual_vision_tokens": vision,
            "actual_text_tokens": text,
            "output_tokens": tokens,
            "accuracy": random.integers(0, 2, count).astype(float),
            "pred": ["7"] * count,
            "metadata": ['{"synthetic":true}'] * count,
            "T_vision_total": 0.3 * prefill,
            "T_LLM_prefill": 0.7 * prefill,
            "T_LLM_decode": decode * (tokens - 1),
            "T_decode_per_token": per_step,
            "T_total": prefill + decode * (tokens - 1) + 1,
            "T_preprocess": [1.0] * count,
            "T_ttft": 1.1 * prefill + 1.5,
            "T_other": [1.0] * count,
        }
        parts.append(pl.DataFrame(made, schema=SCHEMA))
    return pl.concat(parts).with_columns(**columns)


def synthetic_run(model: str = "synthetic") -> Provenance:
    """The provenance of a profile of generated samples."""
    return Provenance(
        model=model,
        revision=None,
        dtype="none",
        device="none: the samples are generated",
        driver=None,
        clock="none",
        versions={},
        commit=None,
        seed=0,
        grid=GRID,
        block_ranking=(3, 1, 2),
        datasets={"one": "synthetic", "two": "synthetic"},
        created="2026-01-01T00:00:00Z",
        settings={"synthetic": True},
    )


def random_model(seed: int = 0, hidden_dim: int = 32, num_layers: int = 2) -> LatencyEstimator:
    """A network of random weights, gains of both signs among them, with statistics like a profile's."""
    random = torch.Generator().manual_seed(seed)
    model = LatencyEstimator(hidden_dim, num_layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.5)
    model.standardise(
        feature_mean_F=torch.tensor([1000.0, 20.0, 1.0, 6.0, 12.0]),
        feature_scale_F=torch.tensor([1 / 600, 1 / 9, 1.2, 0.5, 0.25]),
        target_scale_K=torch.tensor([120.0, 9.0]),
    )
    return model.eval()


def weights_of(model: LatencyEstimator) -> dict[str, Any]:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def description(**changes: Any) -> EstimatorDescription:
    plain: dict[str, Any] = {
        "hidden_dim": 32,
        "num_layers": 2,
        "feature_ranges": dict(
            zip(FEATURES, [(144.0, 2304.0), (8.0, 40.0), (0.0, 2.0), (4.0, 8.0), (8.0, 16.0)], strict=True)
        ),
        "typical_text_tokens": 20,
        "typical_vision_tokens": {"low": 432, "medium": 1008, "high": 1872},
        "configs": CONFIGS,
        "decode_definition": DECODE_DEFINITIONS[0],
        "split": {"seed": 3407, "calibration_share": 0.2, "test_share": 0.2, "by_picture": False},
        "training": {"loss": "mse", "synthetic": True},
        "datasets": ("one", "two"),
        "num_rows": 100,
        "num_decode_rows": 80,
        "provenance": ({"model": "synthetic"},),
    }
    return EstimatorDescription(**{**plain, **changes})


def network_of(model: LatencyEstimator, **changes: Any) -> NetworkEstimator:
    sizes = {"hidden_dim": model.hidden_dim, "num_layers": model.num_layers}
    return NetworkEstimator(description=description(**sizes, **changes), weights=weights_of(model))


def a_config(tier: str | None = "low", top_k: int | None = 4, num_active_blocks: int | None = 8) -> KnobConfig:
    return KnobConfig(tier=tier, top_k=top_k, num_active_blocks=num_active_blocks)
