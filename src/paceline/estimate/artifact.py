"""An estimator's directory: read whole and checked, or refused; nothing is half-loaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from paceline.errors import EstimatorError
from paceline.estimate.description import (
    DESCRIPTION_FILE,
    RETRAIN,
    WEIGHTS_FILE,
    EstimatorDescription,
    read_description,
)
from paceline.estimate.features import FEATURES

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
    content = _read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise EstimatorError(
            path,
            f"has the SHA-256 {found[:12]}…, not {digest[:12]}…: it is truncated, or belongs to another estimator",
            expected=f"the weights that {DESCRIPTION_FILE} beside it describes",
            mend=RETRAIN,
        )
    try:
        weights = load_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read ({error})"
        raise EstimatorError(path, problem, expected="a safetensors file", mend=RETRAIN) from error
    _require_weights(weights, description, path)
    return EstimatorArtifact(description=description, weights=weights, weights_sha256=digest)


def weight_shapes(hidden_dim: int, num_layers: int) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a network of this size."""
    shapes: dict[str, tuple[int, ...]] = {
        "feature_mean_F": (len(FEATURES),),
        "feature_scale_F": (len(FEATURES),),
        "target_scale_K": (2,),
        "prefill_head.weight": (1, hidden_dim),
        "prefill_head.bias": (1,),
        "decode_head.weight": (1, hidden_dim),
        "decode_head.bias": (1,),
    }
    for layer in range(num_layers):
        linear, norm = f"encoder.{3 * layer}", f"encoder.{3 * layer + 1}"
        shapes[f"{linear}.weight"] = (hidden_dim, hidden_dim if layer else len(FEATURES))
        shapes[f"{linear}.bias"] = shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (hidden_dim,)
    return shapes


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise EstimatorError(path, problem, expected="the weights of an estimator", mend=RETRAIN) from error


def _require_weights(weights: Weights, description: EstimatorDescription, path: Path) -> None:
    shapes = weight_shapes(description.hidden_dim, description.num_layers)
    if set(weights) != set(shapes):
        odd = sorted(set(weights) ^ set(shapes))[0]
        problem = f"tensor {odd} is {'missing' if odd in shapes else 'not of this network'}"
        raise EstimatorError(path, problem, expected=f"{len(shapes)} tensors by their names", mend=RETRAIN)
    for name, shape in shapes.items():
        tensor = weights[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            problem = f"tensor {name} is {tensor.dtype} of shape {tensor.shape}"
            raise EstimatorError(path, problem, expected=f"float32 of shape {shape}", mend=RETRAIN)
        if not np.isfinite(tensor).all():
            problem = f"tensor {name} holds a value that is no finite number"
            raise EstimatorError(path, problem, expected="finite weights", mend=RETRAIN)
