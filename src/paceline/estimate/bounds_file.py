"""The files of calibrated bounds, beside the estimator that they belong to: `bounds.json` and `bounds.safetensors`.

Every field is checked when read, and nothing is half-loaded: the description names the hash of the scores and of the
estimator's weights, so a file that was cut short or taken from another artifact is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paceline.errors import EstimatorError, PacelineError
from paceline.estimate.bounds import CalibratedConfig, ConformalScores, LatencyBounds
from paceline.estimate.description import WEIGHTS_FILE
from paceline.estimate.json_fields import UnfitFieldError, typed, typed_fields
from paceline.json_document import parsed_json
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind

DESCRIPTION, SCORES = "bounds.json", "bounds.safetensors"
FORMAT = "paceline latency bounds"
SCHEMA_VERSION = 1
MEND = "train the estimator again with `paceline estimator train`, which calibrates its bounds"
FIELDS = {
    "format": "text",
    "schema_version": "a whole number",
    "estimator_sha256": "text",
    "scores_sha256": "text",
    "latency_kinds": "a list",
    "configs": "a list",
    "provenance": "a list",
}
CONFIG_FIELDS = {
    "config": "text",
    "accuracy": "a number",
    "accuracy_std": "a number",
    "num_samples": "a whole number",
    "expected_output_tokens": "a number",
}
ARRAYS = {"scores_N": np.float64, "requests_N": np.int32, "counts_C": np.int64}


def bounds_files(bounds: LatencyBounds, *, estimator_sha256: str) -> dict[str, bytes]:
    """Return the content of both files by name, the description last; it names the estimator's weights by their hash."""
    scores = save(
        {
            f"{kind}.{name}": getattr(each, name).astype(dtype)
            for kind, each in bounds.scores.items()
            for name, dtype in ARRAYS.items()
        }
    )
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "estimator_sha256": estimator_sha256,
        "scores_sha256": hashlib.sha256(scores).hexdigest(),
        "latency_kinds": list(bounds.scores),
        "configs": [
            {"config": each.config.key} | {name: getattr(each, name) for name in CONFIG_FIELDS if name != "config"}
            for each in bounds.configs
        ],
        "provenance": list(bounds.provenance),
    }
    description = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return {SCORES: scores, DESCRIPTION: description.encode()}


def load_bounds(directory: Path | str) -> LatencyBounds:
    """Read the bounds of an artifact; raises EstimatorError with the file and field that cannot be trusted."""
    directory = Path(directory)
    path = directory / DESCRIPTION
    document = _description(path)
    scores = _content(directory / SCORES)
    _require_hash(directory / SCORES, scores, document["scores_sha256"])
    weights = _content(directory / WEIGHTS_FILE)
    _require_hash(directory / WEIGHTS_FILE, weights, document["estimator_sha256"])
    try:
        return LatencyBounds(
            configs=tuple(_config(cells, f"configs[{index}]") for index, cells in enumerate(document["configs"])),
            scores=_scores(scores, document["latency_kinds"], directory / SCORES),
            provenance=tuple(
                typed(run, "an object", f"provenance[{index}]") for index, run in enumerate(document["provenance"])
            ),
        )
    except EstimatorError:
        raise
    except UnfitFieldError as error:
        raise _error(path, error.problem, error.expected) from error
    except PacelineError as error:
        raise _error(path, str(error), "what `paceline estimator train` writes") from error


def file_sha256(path: Path) -> str:
    """Return the hash of a file of the artifact; raises EstimatorError when it cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def _description(path: Path) -> dict[str, Any]:
    try:
        document = parsed_json(_content(path))
    except ValueError as error:
        raise _error(path, f"is not a JSON document ({error})", "the description of bounds") from error
    fields = _document_fields(document, path)
    if fields["format"] != FORMAT:
        raise _error(path, f"format is {fields['format']!r:.60}", repr(FORMAT))
    if fields["schema_version"] != SCHEMA_VERSION:
        problem = f"schema_version is {fields['schema_version']}"
        mend = f"read it with the version of paceline that wrote it, or {MEND}"
        raise EstimatorError(path, problem, expected=str(SCHEMA_VERSION), mend=mend)
    return fields


def _document_fields(document: object, path: Path) -> dict[str, Any]:
    try:
        return typed_fields(document, FIELDS, place="the document")
    except UnfitFieldError as error:
        raise _error(path, error.problem, error.expected) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror})", "a file of an estimator with bounds") from error


def _require_hash(path: Path, content: bytes, expected: str) -> None:
    if hashlib.sha256(content).hexdigest() != expected:
        raise _error(
            path, "was changed, cut short or taken from another estimator", f"the file that {DESCRIPTION} names"
        )


def _scores(content: bytes, kinds: list[object], path: Path) -> dict[LatencyKind, ConformalScores]:
    unknown = [kind for kind in kinds if kind not in LATENCY_KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise _error(path, f"latency_kinds is {kinds!r:.60}", "some of ttft, prefill and total")
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _error(path, f"cannot be read ({error})", "a safetensors file") from error
    return {cast(LatencyKind, kind): _kind_scores(arrays, str(kind), path) for kind in kinds}


def _kind_scores(arrays: Mapping[str, Any], kind: str, path: Path) -> ConformalScores:
    for name, dtype in ARRAYS.items():
        found = arrays.get(f"{kind}.{name}")
        if found is None or found.dtype != dtype:
            held = "missing" if found is None else f"of {found.dtype}"
            raise _error(path, f"{kind}.{name} is {held}", f"an array of {np.dtype(dtype)}")
    return ConformalScores(**{name: arrays[f"{kind}.{name}"] for name in ARRAYS})


def _config(cells: object, place: str) -> CalibratedConfig:
    fields = typed_fields(cells, CONFIG_FIELDS, place=place, prefix=f"{place}.")
    return CalibratedConfig(config=KnobConfig.from_key(fields.pop("config")), **fields)


def _error(path: Path, problem: str, expected: str) -> EstimatorError:
    return EstimatorError(path, problem, expected=expected, mend=MEND)
