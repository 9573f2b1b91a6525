"""A learned controller's directory: read whole and checked, or refused; nothing is half-loaded."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paceline.control.learned.description import (
    DESCRIPTION_FILE,
    ESTIMATOR_DIRECTORY,
    RETRAIN,
    WEIGHTS_FILE,
    ChooserDescription,
    read_chooser_description,
)
from paceline.errors import ControllerError, EstimatorError
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.records import KnobConfig
from paceline.request_vector import REQUEST_VECTOR_NAMES

NUM_INPUTS = len(REQUEST_VECTOR_NAMES) + 1  # ln(budget_ms) is the last

ChooserWeights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooserArtifact:
    """A learned controller's description and weights, with the latency estimator and the bounds that it was trained with."""

    description: ChooserDescription
    weights: ChooserWeights
    estimator: NetworkEstimator
    bounds: LatencyBounds


def is_chooser_directory(path: Path) -> bool:
    """Return whether a path is a directory with a file of a learned controller in it, readable or not."""
    return any((path / name).exists() for name in (DESCRIPTION_FILE, WEIGHTS_FILE))


def read_chooser(directory: Path) -> ChooserArtifact:
    """Read a learned controller's directory, its estimator included.

    Raises ControllerError, naming the file, for one that is missing, truncated or changed, of another format, version or
    list of inputs, whose weights have other names, shapes or values than a trained network's, and for an estimator that is
    not the one it was trained with.
    """
    description, digest = read_chooser_description(directory / DESCRIPTION_FILE)
    weights = _read_weights(directory / WEIGHTS_FILE, digest)
    _require_weights(weights, description, directory / WEIGHTS_FILE)
    estimator, bounds = _read_estimator(directory / ESTIMATOR_DIRECTORY)
    _require_same_estimator(description, estimator, bounds, directory)
    return ChooserArtifact(description=description, weights=weights, estimator=estimator, bounds=bounds)


def chooser_files(description: ChooserDescription, weights: ChooserWeights) -> dict[str, bytes]:
    """Return the content of both files by name, the description last; it names the weights by their hash.

    Raises ControllerError for weights that are not those of a network of this description.
    """
    _require_weights(weights, description, Path(WEIGHTS_FILE))
    content = save(weights)
    document = description.document(weights_sha256=hashlib.sha256(content).hexdigest())
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return {WEIGHTS_FILE: content, DESCRIPTION_FILE: text.encode()}


def weight_shapes(description: ChooserDescription) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a network of this description."""
    members, hidden, configs = description.members, description.hidden_dim, len(description.configs)
    shapes: dict[str, tuple[int, ...]] = {
        "input_mean_I": (NUM_INPUTS,),
        "input_scale_I": (NUM_INPUTS,),
        "skip.weight": (members, NUM_INPUTS, configs),
        "skip.bias": (members, configs),
    }
    for layer in range(description.num_layers):
        shapes[f"hidden.{layer}.weight"] = (members, hidden if layer else NUM_INPUTS, hidden)
        shapes[f"hidden.{layer}.bias"] = (members, hidden)
    return {**shapes, "head.weight": (members, hidden, configs)} if description.num_layers else shapes


def _read_weights(path: Path, digest: str) -> ChooserWeights:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})", "the weights of a learned controller") from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise _refusal(
            path,
            f"has the SHA-256 {found[:12]}…, not {digest[:12]}…: it is truncated, or belongs to another controller",
            f"the weights that {DESCRIPTION_FILE} beside it describes",
        )
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _refusal(path, f"cannot be read ({error})", "a safetensors file") from error


def _require_weights(weights: ChooserWeights, description: ChooserDescription, path: Path) -> None:
    shapes = weight_shapes(description)
    if set(weights) != set(shapes):
        odd = sorted(set(weights) ^ set(shapes))[0]
        problem = f"tensor {odd} is {'missing' if odd in shapes else 'not of this network'}"
        raise _refusal(path, problem, f"{len(shapes)} tensors by their names")
    for name, shape in shapes.items():
        tensor = weights[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise _refusal(
                path, f"tensor {name} is {tensor.dtype} of shape {tensor.shape}", f"float32 of shape {shape}"
            )
        if not np.isfinite(tensor).all():
            raise _refusal(path, f"tensor {name} holds a value that is no finite number", "finite weights")
    if (weights["input_scale_I"] < 0).any():
        raise _refusal(path, "tensor input_scale_I holds a value below 0", "1 / standard deviation, or 0")


def _read_estimator(directory: Path) -> tuple[NetworkEstimator, LatencyBounds]:
    try:
        return NetworkEstimator.load(directory), load_bounds(directory)
    except EstimatorError as error:
        # the controller holds its own copy: an estimator trained anew would be another one
        raise ControllerError(error.path, error.problem, expected=error.expected, mend=RETRAIN) from error


def _require_same_estimator(
    description: ChooserDescription, estimator: NetworkEstimator, bounds: LatencyBounds, directory: Path
) -> None:
    known = {
        "estimator_sha256": (description.estimator_sha256, estimator.weights_sha256),
        "configs": (_keys(description.configs), _keys(estimator.configs)),
        "configs of the bounds": (_keys(description.configs), _keys(each.config for each in bounds.configs)),
        "split": (description.split, estimator.description.split),
    }
    for name, (ours, theirs) in known.items():
        if ours != theirs:
            problem = f"{name} is {ours!r:.200} here and {theirs!r:.200} in {ESTIMATOR_DIRECTORY}/"
            raise _refusal(directory / DESCRIPTION_FILE, problem, "the estimator that it was trained with")
    if description.latency_kind not in bounds.scores:
        problem = f"latency_kind is {description.latency_kind!r}"
        raise _refusal(directory / DESCRIPTION_FILE, problem, f"one with bounds: {', '.join(bounds.scores)}")


def _keys(configs: Iterable[KnobConfig]) -> list[str]:
    return sorted(config.key for config in configs)


def _refusal(path: Path, problem: str, expected: str) -> ControllerError:
    return ControllerError(path, problem, expected=expected, mend=RETRAIN)
