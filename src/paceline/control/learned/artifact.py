"""A learned controller's directory: read whole and checked, or refused; nothing is half-loaded."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from paceline.control.learned.description import (
    DESCRIPTION_FILE,
    ESTIMATOR_DIRECTORY,
    FILES,
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
    path = directory / WEIGHTS_FILE
    weights = FILES.tensors(path, FILES.content(path, digest, of="a learned controller"))
    _require_weights(weights, description, path)
    estimator, bounds = _read_estimator(directory / ESTIMATOR_DIRECTORY)
    _require_same_estimator(description, estimator, bounds, directory)
    return ChooserArtifact(description=description, weights=weights, estimator=estimator, bounds=bounds)


def chooser_files(description: ChooserDescription, weights: ChooserWeights) -> dict[str, bytes]:
    """Return the content of both files by name, the description last; it names the weights by their hash.

    Raises ControllerError for weights that are not those of a network of this description.
    """
    _require_weights(weights, description, Path(WEIGHTS_FILE))
    content = save(weights)
    digest = hashlib.sha256(content).hexdigest()
    return {WEIGHTS_FILE: content, DESCRIPTION_FILE: description.written(weights_sha256=digest)}


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


def _require_weights(weights: ChooserWeights, description: ChooserDescription, path: Path) -> None:
    FILES.require_tensors(weights, weight_shapes(description), path)
    if (weights["input_scale_I"] < 0).any():
        raise FILES.unfit(path, "tensor input_scale_I holds a value below 0", "1 / standard deviation, or 0")


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
            raise FILES.unfit(directory / DESCRIPTION_FILE, problem, "the estimator that it was trained with")
    if description.latency_kind not in bounds.scores:
        problem = f"latency_kind is {description.latency_kind!r}"
        raise FILES.unfit(directory / DESCRIPTION_FILE, problem, f"one with bounds: {', '.join(bounds.scores)}")


def _keys(configs: Iterable[KnobConfig]) -> list[str]:
    return sorted(config.key for config in configs)
