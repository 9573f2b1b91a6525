"""An estimator's directory: read whole and checked, or refused; nothing is half-loaded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paceline.estimate.description import (
    DESCRIPTION_FILE,
    FILES,
    WEIGHTS_FILE,
    EstimatorDescription,
    read_description,
)
from paceline.estimate.features import FEATURES
from paceline.estimate.work_terms import TERMS

WORK_WEIGHT = "work_weight_TK"
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorArtifact:
    """A description, the weights it belongs to by name, and the hash of the file that holds them."""

    description: EstimatorDescription
    weights: Weights
    weights_sha256: str


def read_artifact(directory: Path) -> EstimatorArtifact:
    """Read an estimator's directory.

    Raises EstimatorError, naming the file, for one that is missing, truncated or changed, of another format, feature
    order or schema version, or whose weights have other names, shapes or values than a trained network's.
    """
    description, digest = read_description(directory / DESCRIPTION_FILE)
    path = directory / WEIGHTS_FILE
    weights = FILES.tensors(path, FILES.content(path, digest, of="an estimator"))
    shapes = weight_shapes(description.hidden_dim, description.num_layers, structured=bool(description.work_terms))
    FILES.require_tensors(weights, shapes, path)
    if description.work_terms and (weights[WORK_WEIGHT] < 0).any():
        raise FILES.unfit(path, f"tensor {WORK_WEIGHT} has a weight below 0", "work that takes no less than no time")
    return EstimatorArtifact(description=description, weights=weights, weights_sha256=digest)


def weight_shapes(hidden_dim: int, num_layers: int, *, structured: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a network of this size, and of the work that it corrects."""
    shapes: dict[str, tuple[int, ...]] = {
        "feature_mean_F": (len(FEATURES),),
        "feature_scale_F": (len(FEATURES),),
        "target_scale_K": (2,),
        "prefill_head.weight": (1, hidden_dim),
        "prefill_head.bias": (1,),
        "decode_head.weight": (1, hidden_dim),
        "decode_head.bias": (1,),
    }
    if structured:
        shapes[WORK_WEIGHT] = (len(TERMS), 2)
    for layer in range(num_layers):
        linear, norm = f"encoder.{3 * layer}", f"encoder.{3 * layer + 1}"
        shapes[f"{linear}.weight"] = (hidden_dim, hidden_dim if layer else len(FEATURES))
        shapes[f"{linear}.bias"] = shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (hidden_dim,)
    return shapes
