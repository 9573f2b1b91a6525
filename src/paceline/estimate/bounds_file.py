"""The files of calibrated bounds, beside the estimator that they belong to: `bounds.json` and `bounds.safetensors`.

Every field is checked when read, and nothing is half-loaded: the description names the hash of the scores and of the
estimator's weights, so a file that was cut short or taken from another artifact is refused.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.numpy import save

from paceline.errors import EstimatorError, PacelineError
from paceline.estimate.bounds import CalibratedConfig, ConformalScores, LatencyBounds
from paceline.estimate.described_files import ArtifactFiles
from paceline.estimate.description import WEIGHTS_FILE
from paceline.estimate.json_fields import UnfitFieldError, typed, typed_fields
from paceline.json_document import require_regular
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind

DESCRIPTION, SCORES = "bounds.json", "bounds.safetensors"
FORMAT = "paceline latency bounds"
MEND = "train the estimator again with `paceline estimator train`, which calibrates its bounds"
FILES = ArtifactFiles(
    described="bounds",
    refusal=EstimatorError,
    made_by=MEND,
    again=MEND,
    own={"format": (FORMAT, MEND)},
    fields={
        "estimator_sha256": "text",
        "scores_sha256": "text",
        "latency_kinds": "a list",
        "configs": "a list",
        "provenance": "a list",
    },
)
CONFIG_FIELDS = {
    "config": "text",
    "accuracy": "a number",
    "accuracy_std": "a number",
    "num_samples": "a whole number",
    "expected_output_tokens": "a number",
}
ARRAYS = {"scores_N": np.float64, "requests_N": np.int32, "counts_C": np.int64}
EXPECTED = "expected_C"  # files of older versions lack it: their bounds are tested in the order of predictions


def bounds_files(bounds: LatencyBounds, *, estimator_sha256: str) -> dict[str, bytes]:
    """Return the content of both files by name, the description last; it names the estimator's weights by their hash."""
    scores = save(
        {
            f"{kind}.{name}": getattr(each, name).astype(dtype)
            for kind, each in bounds.scores.items()
            for name, dtype in ARRAYS.items()
        }
        | {f"{kind}.{EXPECTED}": expected_C for kind, expected_C in bounds.expected.items()}
    )
    document = {
        "format": FORMAT,
        "estimator_sha256": estimator_sha256,
        "scores_sha256": hashlib.sha256(scores).hexdigest(),
        "latency_kinds": list(bounds.scores),
        "configs": [
            {"config": each.config.key} | {name: getattr(each, name) for name in CONFIG_FIELDS if name != "config"}
            for each in bounds.configs
        ],
        "provenance": list(bounds.provenance),
    }
    return {SCORES: scores, DESCRIPTION: FILES.written(document)}


def load_bounds(directory: Path | str) -> LatencyBounds:
    """Read the bounds of an artifact; raises EstimatorError with the file and field that cannot be trusted."""
    directory = Path(directory)
    path = directory / DESCRIPTION
    document = FILES.read(path)
    scores = FILES.content(directory / SCORES, document["scores_sha256"], of="these bounds")
    FILES.content(directory / WEIGHTS_FILE, document["estimator_sha256"], of="the estimator that these bounds are of")
    arrays, kinds = FILES.tensors(directory / SCORES, scores), _kinds(document["latency_kinds"], directory / SCORES)
    try:
        found = LatencyBounds(
            configs=tuple(_config(cells, f"configs[{index}]") for index, cells in enumerate(document["configs"])),
            scores={kind: _kind_scores(arrays, kind, directory / SCORES) for kind in kinds},
            expected=_expected(arrays, kinds, directory / SCORES),
            provenance=tuple(
                typed(run, "an object", f"provenance[{index}]") for index, run in enumerate(document["provenance"])
            ),
        )
    except EstimatorError:
        raise
    except UnfitFieldError as error:
        raise FILES.unfit(path, error.problem, error.expected) from error
    except PacelineError as error:
        raise FILES.unfit(path, str(error), "what `paceline estimator train` writes") from error
    FILES.require_seal(path)
    return found


def file_sha256(path: Path) -> str:
    """Return the hash of a file of the artifact; raises EstimatorError when it cannot be read."""
    try:
        require_regular(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FILES.unfit(path, f"cannot be read ({error.strerror})", "a file of an estimator with bounds") from error


def _kinds(kinds: list[object], path: Path) -> list[LatencyKind]:
    unknown = [kind for kind in kinds if kind not in LATENCY_KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise FILES.unfit(path, f"latency_kinds is {kinds!r:.60}", "some of ttft, prefill and total")
    return cast("list[LatencyKind]", kinds)


def _kind_scores(arrays: Mapping[str, Any], kind: str, path: Path) -> ConformalScores:
    return ConformalScores(**{name: _array(arrays, f"{kind}.{name}", dtype, path) for name, dtype in ARRAYS.items()})


def _expected(arrays: Mapping[str, Any], kinds: list[LatencyKind], path: Path) -> dict[LatencyKind, Any]:
    told: list[LatencyKind] = [kind for kind in kinds if f"{kind}.{EXPECTED}" in arrays]
    return {kind: _array(arrays, f"{kind}.{EXPECTED}", np.float64, path) for kind in told}


def _array(arrays: Mapping[str, Any], name: str, dtype: type, path: Path) -> Any:
    found = arrays.get(name)
    if found is None or found.dtype != dtype:
        held = "missing" if found is None else f"of {found.dtype}"
        raise FILES.unfit(path, f"{name} is {held}", f"an array of {np.dtype(dtype)}")
    return found


def _config(cells: object, place: str) -> CalibratedConfig:
    fields = typed_fields(cells, CONFIG_FIELDS, place=place, prefix=f"{place}.")
    return CalibratedConfig(config=KnobConfig.from_key(fields.pop("config")), **fields)
