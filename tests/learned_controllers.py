"""Synthetic choosers, of random weights or of given scores, for tests of learned controllers; nothing in them was learned."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from estimator_samples import CONFIGS, description, random_model, weights_of
from latency_models import TokenLinear, scores_of
from safetensors.numpy import save

from paceline.control.learned.artifact import ChooserWeights, chooser_files, weight_shapes
from paceline.control.learned.controller import LearnedController
from paceline.control.learned.description import ESTIMATOR_DIRECTORY, ChooserDescription
from paceline.control.learned.network import ChooserNetwork
from paceline.control.learned.reward import Reward
from paceline.estimate.bounds import CalibratedConfig, LatencyBounds
from paceline.estimate.bounds_file import bounds_files
from paceline.estimate.description import DESCRIPTION_FILE, WEIGHTS_FILE
from paceline.records import KnobConfig, PictureFeatures, RequestFeatures
from paceline.request_vector import RANGES, REQUEST_VECTOR_NAMES

RUN: dict[str, object] = {"model": "synthetic", "block_ranking": [2, 1]}
SPLIT = description().split


def synthetic_description(learner: str = "supervised", **changes: Any) -> ChooserDescription:
    plain: dict[str, Any] = {
        "learner": learner,
        "latency_kind": "prefill",
        "alpha": 0.05,
        "configs": CONFIGS,
        "input_ranges": dict(RANGES),
        "budget_range_ms": (1e-3, 1e6),
        "members": 2,
        "hidden_dim": 8,
        "num_layers": 1,
        "reward": Reward(),
        "split": SPLIT,
        "training": {"synthetic": True},
        "learning": ({"step": 0, "train_reward": 0.1}, {"step": 100, "train_reward": 0.2}),
        "datasets": ("one", "two"),
        "num_requests": 60,
        "estimator_sha256": "none: synthetic",
        "provenance": (RUN,),
    }
    return ChooserDescription(**{**plain, **changes})


def synthetic_weights(described: ChooserDescription, seed: int = 0) -> ChooserWeights:
    """Random weights; the inputs are shifted and scaled as those of real requests are, and one of them is not looked at."""
    random = np.random.default_rng(seed)
    weights = {
        name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in weight_shapes(described).items()
    }
    weights["input_mean_I"] = np.append([sum(span) / 2 for span in RANGES.values()], 3.0).astype(np.float32)
    weights["input_scale_I"] = np.append([4 / (high - low) for low, high in RANGES.values()], 1.0).astype(np.float32)
    weights["input_scale_I"][0] = 0.0
    return weights


def synthetic_chooser(learner: str = "supervised", *, seed: int = 0, **changes: Any) -> ChooserNetwork:
    """A network of random weights over CONFIGS, or those among `changes`."""
    described = synthetic_description(learner, **changes)
    return ChooserNetwork(description=described, weights=synthetic_weights(described, seed))


def chooser_of_scores(
    scores: Mapping[KnobConfig, float], learner: str = "supervised", **changes: Any
) -> ChooserNetwork:
    """A chooser that gives every request these scores: accuracies above 0 and below 1, or preferences."""
    linear = {"members": 1, "hidden_dim": 0, "num_layers": 0}
    described = synthetic_description(learner, configs=tuple(scores), **{**linear, **changes})
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(described).items()}
    own = [math.log(each / (1 - each)) if learner == "supervised" else each for each in scores.values()]
    weights["skip.bias"] += np.array(own, dtype=np.float32)
    return ChooserNetwork(description=described, weights=weights)


def chooser_looking_at(name: str, threshold: float, taken: KnobConfig, configs: Sequence[KnobConfig]) -> ChooserNetwork:
    """A favourite that depends on one number of the request: `taken` above the threshold, none of it below."""
    described = synthetic_description("grpo", configs=tuple(configs), members=1, hidden_dim=0, num_layers=0)
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(described).items()}
    place = REQUEST_VECTOR_NAMES.index(name)
    weights["input_mean_I"][place], weights["input_scale_I"][place] = threshold, 1.0
    weights["skip.weight"][0, place, configs.index(taken)] = 1.0
    return ChooserNetwork(description=described, weights=weights)


def synthetic_bounds(
    configs: Sequence[KnobConfig] = CONFIGS,
    *,
    accuracies: Sequence[float] | None = None,
    log_factors: Sequence[float] | None = None,
    **more: Any,
) -> LatencyBounds:
    """Bounds of exp(log factor) times the prediction for both latency kinds, 1.2 times where none are given."""
    right = np.linspace(0.3, 0.9, len(configs)).tolist() if accuracies is None else accuracies
    spread = [math.log(1.2)] * len(configs) if log_factors is None else log_factors
    known = tuple(
        CalibratedConfig(
            config=config, accuracy=accuracy, accuracy_std=0.1, num_samples=100, expected_output_tokens=5.0
        )
        for config, accuracy in zip(configs, right, strict=True)
    )
    scores = scores_of([[score] * 45 for score in spread])
    return LatencyBounds(configs=known, scores={"prefill": scores, "total": scores}, **more)


def token_linear_of(configs: Sequence[KnobConfig] = CONFIGS, rates: Sequence[float] | None = None) -> TokenLinear:
    """Prefill of `rates` ms a token, 0.001 a block where none are given."""
    given = [0.001 * (config.num_active_blocks or 0) for config in configs] if rates is None else rates
    return TokenLinear(dict(zip(configs, given, strict=True)))


def synthetic_learned(learner: str = "supervised", *, seed: int = 0, **changes: Any) -> LearnedController:
    """A learned controller over CONFIGS: random preferences, latencies that grow with tokens and blocks."""
    return LearnedController(
        chooser=synthetic_chooser(learner, seed=seed, **changes),
        model=token_linear_of(),
        bounds=synthetic_bounds(provenance=(RUN,)),
    )


def seen_request(
    text_tokens: int = 20, low: int = 432, medium: int = 1008, high: int = 1872, **more: Any
) -> RequestFeatures:
    """A request whose picture has been looked at; `more` changes the picture's features or adds a prompt's embedding."""
    plain: dict[str, Any] = {
        "width_px": 640,
        "height_px": 480,
        "brightness": 0.5,
        "contrast": 0.2,
        "edge_density": 0.3,
        "entropy_bits": 3.0,
        "fine_detail": 0.2,
        "medium_detail": 0.3,
        "ink_share": 0.1,
        "stroke_width": 0.05,
        "mark_size": 0.2,
        "mark_count": 4,
    }
    of_request = {name: more.pop(name) for name in ("prompt_embedding", "expected_output_tokens") if name in more}
    return RequestFeatures(
        text_tokens=text_tokens,
        vision_tokens={"low": low, "medium": medium, "high": high},
        picture=PictureFeatures(**{**plain, **more}),
        **of_request,
    )


def write_controller(
    directory: Path,
    learner: str = "supervised",
    *,
    seed: int = 0,
    provenance: tuple[dict[str, object], ...] = (RUN,),
    **changes: Any,
) -> Path:
    """Write the directory of a learned controller, its estimator of random weights included."""
    digest = write_estimator(directory / ESTIMATOR_DIRECTORY, seed=seed, provenance=provenance)
    described = synthetic_description(learner, **{"estimator_sha256": digest, "provenance": provenance, **changes})
    for name, content in chooser_files(described, synthetic_weights(described, seed)).items():
        (directory / name).write_bytes(content)
    return directory


def write_estimator(directory: Path, *, seed: int = 0, provenance: tuple[dict[str, object], ...] = (RUN,)) -> str:
    """Write an estimator of random weights with its bounds; returns the hash of the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    content = save(weights_of(random_model(seed)))
    digest = hashlib.sha256(content).hexdigest()
    (directory / WEIGHTS_FILE).write_bytes(content)
    (directory / DESCRIPTION_FILE).write_bytes(description(provenance=provenance).written(weights_sha256=digest))
    for name, written in bounds_files(synthetic_bounds(provenance=provenance), estimator_sha256=digest).items():
        (directory / name).write_bytes(written)
    return digest
