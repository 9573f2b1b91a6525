"""A small estimator with bounds, of made-up numbers, and its directory written as `paceline estimator train` writes one."""

import hashlib
from pathlib import Path

import numpy as np
from latency_models import bounds_of
from safetensors.numpy import save

from paceline.estimate.artifact import weight_shapes
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.description import DECODE_DEFINITIONS, DESCRIPTION_FILE, WEIGHTS_FILE, EstimatorDescription
from paceline.estimate.features import FEATURES
from paceline.fit.artifact_directory import replaced_artifact
from paceline.fit.conformal import save_bounds


def grid_description(num_rows: int = 100) -> EstimatorDescription:
    configs = tuple(each.config for each in bounds_of([[0.1, 0.2]] * 4).configs)
    return EstimatorDescription(
        hidden_dim=4,
        num_layers=1,
        feature_ranges=dict.fromkeys(FEATURES, (0.0, 100.0)),
        typical_text_tokens=20,
        typical_vision_tokens={"low": 90, "high": 190},
        configs=configs,
        decode_definition=DECODE_DEFINITIONS[0],
        split={"seed": 1, "calibration_share": 0.2, "test_share": 0.2, "by_picture": False},
        training={"epochs": 1},
        datasets=("synthetic",),
        num_rows=num_rows,
        num_decode_rows=50,
        provenance=({"model": "synthetic"},),
    )


def grid_weights(seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    return save(
        {name: np.abs(random.normal(size=shape)).astype(np.float32) for name, shape in weight_shapes(4, 1).items()}
    )


def grid_bounds() -> LatencyBounds:
    return bounds_of([[0.1, 0.2, 0.3]] * 4)


def write_grid_estimator(directory: Path, version: int) -> None:
    """Put version `version` at `directory`, in the steps of `train_artifact` behind its training: all of it or nothing."""
    with replaced_artifact(directory, DESCRIPTION_FILE) as (new, _kept):
        weights = grid_weights(version)
        described = grid_description(100 + version).written(weights_sha256=hashlib.sha256(weights).hexdigest())
        (new / WEIGHTS_FILE).write_bytes(weights)
        (new / DESCRIPTION_FILE).write_bytes(described)
        save_bounds(grid_bounds(), new)
