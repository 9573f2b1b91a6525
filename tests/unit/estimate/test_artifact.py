import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estimator_samples import description, random_model, weights_of
from safetensors.numpy import save

from paceline.errors import EstimatorError, InvalidValueError
from paceline.estimate import NetworkEstimator
from paceline.estimate.artifact import WORK_WEIGHT
from paceline.estimate.description import DESCRIPTION_FILE, WEIGHTS_FILE, EstimatorDescription, read_description
from paceline.estimate.features import feature_rows
from paceline.estimate.work_terms import TERM_NAMES, TERMS
from paceline.json_document import SEAL, sealed
from paceline.records import RequestFeatures


def write(
    directory: Path,
    weights: dict[str, Any] | None = None,
    of: EstimatorDescription | None = None,
    **changes: Any,
) -> Path:
    content = save(weights_of(random_model()) if weights is None else weights)
    document = json.loads((of or description()).written(weights_sha256=hashlib.sha256(content).hexdigest())) | changes
    directory.mkdir(exist_ok=True)
    (directory / WEIGHTS_FILE).write_bytes(content)
    (directory / DESCRIPTION_FILE).write_text(json.dumps(document))
    return directory


def test_an_artifact_comes_back_as_it_was_written(tmp_path: Path) -> None:
    network = NetworkEstimator.load(write(tmp_path / "out"))
    assert network.description == description()
    assert read_description(tmp_path / "out" / DESCRIPTION_FILE)[1] == network.weights_sha256
    assert network.provenance == ({"model": "synthetic"},)


def structured(**changes: Any) -> dict[str, Any]:
    """Weights that correct what work costs, with some of them replaced."""
    work = np.random.default_rng(0).random((len(TERMS), 2)).astype(np.float32)
    return {**weights_of(random_model()), WORK_WEIGHT: work, **changes}


def test_an_estimator_of_work_comes_back_as_it_was_written(tmp_path: Path) -> None:
    weights, described = structured(), description(work_terms=TERM_NAMES)
    network = NetworkEstimator.load(write(tmp_path / "out", weights, of=described))
    assert network.description == described
    same = NetworkEstimator(description=described, weights=weights)
    request = RequestFeatures(text_tokens=20, vision_tokens={"low": 300, "medium": 900, "high": 2000})
    found, expected = network.estimate(request), same.estimate(request)
    np.testing.assert_array_equal(found.prefill_ms_C, expected.prefill_ms_C)
    prefill, decode = network.estimate_one(request, network.configs[4])
    assert prefill == pytest.approx(found.prefill_ms_C[4], rel=1e-4)
    assert decode == pytest.approx(found.decode_per_token_ms_C[4], rel=1e-4)
    row = feature_rows(request, [network.configs[4]])
    assert network.estimate_rows(row)[0][0] == pytest.approx(prefill, rel=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_files_older_than_work_are_read_as_they_were(version: int, tmp_path: Path) -> None:
    weights = weights_of(random_model())
    new = NetworkEstimator.load(write(tmp_path / "new", weights))
    path = write(tmp_path / "old", weights) / DESCRIPTION_FILE
    document = json.loads(path.read_text()) | {"schema_version": version}
    del document["work_terms"], document[SEAL]
    path.write_text(json.dumps(document if version == 1 else sealed(document)))
    old = NetworkEstimator.load(tmp_path / "old")
    assert old.description == new.description and old.description.work_terms == ()
    request = RequestFeatures(text_tokens=20, vision_tokens={"low": 300, "medium": 900, "high": 2000})
    np.testing.assert_array_equal(old.estimate(request).prefill_ms_C, new.estimate(request).prefill_ms_C)


def test_work_that_takes_less_than_no_time_and_work_without_weights_are_refused(tmp_path: Path) -> None:
    described = description(work_terms=TERM_NAMES)
    below = structured(**{WORK_WEIGHT: np.full((len(TERMS), 2), -1, np.float32)})
    with pytest.raises(EstimatorError, match="has a weight below 0"):
        NetworkEstimator.load(write(tmp_path / "below", below, of=described))
    with pytest.raises(EstimatorError, match="tensor work_weight_TK is missing"):
        NetworkEstimator.load(write(tmp_path / "none", of=described))
    with pytest.raises(EstimatorError, match="tensor work_weight_TK is not of this network"):
        NetworkEstimator.load(write(tmp_path / "more", structured()))


WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "format is 'lookup table'": {"format": "lookup table"},
    "schema_version is 4": {"schema_version": 4},
    "work_terms is 'one'": {"work_terms": "one"},
    r"work_terms is \['one'\]": {"work_terms": ["one"]},
    "schema_version is True": {"schema_version": True},
    "feature_order is": {"feature_order": ["text_tokens", "vision_tokens", "tier_idx", "top_k", "num_active_blocks"]},
    "hidden_dim is '32'": {"hidden_dim": "32"},
    "hidden_dim is True": {"hidden_dim": True},
    "hidden_dim is 0": {"hidden_dim": 0},
    "configs is 'low_4_8'": {"configs": "low_4_8"},
    r"configs is \['low_4_8', 'low_4_8'\]": {"configs": ["low_4_8", "low_4_8"]},
    "configuration key is 'low'": {"configs": ["low"]},
    "tier 'hgih' is unknown": {"configs": ["hgih_4_8"]},
    "typical_vision_tokens is": {"typical_vision_tokens": {"low": 432}},
    "feature_ranges": {"feature_ranges": {"vision_tokens": [0, 1]}},
    "feature_ranges.top_k is": {"feature_ranges": {**description().feature_ranges, "top_k": [8, 4]}},
    "value is 'x'": {"feature_ranges": {**description().feature_ranges, "top_k": ["x", 4]}},
    "decode_definition is 'soon'": {"decode_definition": "soon"},
    "num_decode_rows is 101": {"num_decode_rows": 101},
    "provenance is": {"provenance": ["a run"]},
    "'seed'": {"split": {}},
}


@pytest.mark.parametrize("problem", WRONG_FIELDS)
def test_a_wrong_field_is_named_with_the_file_and_the_remedy(problem: str, tmp_path: Path) -> None:
    write(tmp_path / "out", **WRONG_FIELDS[problem])
    with pytest.raises(EstimatorError, match=problem) as caught:
        NetworkEstimator.load(tmp_path / "out")
    assert str(tmp_path / "out" / DESCRIPTION_FILE) in str(caught.value)
    assert "paceline estimator train" in str(caught.value) or "version of paceline" in str(caught.value)


@pytest.mark.parametrize("name", list(json.loads(description().written(weights_sha256=""))))
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "out") / DESCRIPTION_FILE
    document = json.loads(path.read_text())
    del document[name]
    path.write_text(json.dumps(document))
    with pytest.raises(EstimatorError, match=name):
        NetworkEstimator.load(tmp_path / "out")


def changed(name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    weights = weights_of(random_model())
    weights[name] = change(weights[name])
    return weights


def with_value(array: Any, value: float) -> Any:
    array.flat[1] = value
    return array


WRONG_WEIGHTS: dict[str, Callable[[], dict[str, Any]]] = {
    "encoder.0.weight holds a value that is no finite": lambda: changed(
        "encoder.0.weight", lambda array: with_value(array, np.nan)
    ),
    "target_scale_K holds a value that is no finite": lambda: changed(
        "target_scale_K", lambda array: with_value(array, np.inf)
    ),
    r"decode_head.weight is float32 of shape \(1, 31\)": lambda: changed(
        "decode_head.weight", lambda array: np.ascontiguousarray(array[:, 1:])
    ),
    "decode_head.bias is float64": lambda: changed("decode_head.bias", lambda array: array.astype(np.float64)),
    "tensor encoder.6.weight is not of this network": lambda: {
        **weights_of(random_model()),
        "encoder.6.weight": np.zeros((32, 32), np.float32),
    },
    "tensor encoder.0.bias is missing": lambda: {
        name: array for name, array in weights_of(random_model()).items() if name != "encoder.0.bias"
    },
}


@pytest.mark.parametrize("problem", WRONG_WEIGHTS)
def test_weights_that_are_not_this_networks_are_refused(problem: str, tmp_path: Path) -> None:
    write(tmp_path / "out", WRONG_WEIGHTS[problem]())
    with pytest.raises(EstimatorError, match=problem) as caught:
        NetworkEstimator.load(tmp_path / "out")
    assert str(tmp_path / "out" / WEIGHTS_FILE) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / "out") / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(EstimatorError, match="changed, cut short or taken from elsewhere"):
        NetworkEstimator.load(tmp_path / "out")


def test_the_weights_of_another_estimator_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    other = write(tmp_path / "other", weights_of(random_model(seed=1)))
    (tmp_path / "out" / WEIGHTS_FILE).write_bytes((other / WEIGHTS_FILE).read_bytes())
    with pytest.raises(EstimatorError, match="SHA-256"):
        NetworkEstimator.load(tmp_path / "out")


def test_bytes_that_are_no_tensors_are_refused_even_with_their_own_hash(tmp_path: Path) -> None:
    content = b"no tensors at all"
    write(tmp_path / "out", schema_version=1, weights_sha256=hashlib.sha256(content).hexdigest())
    (tmp_path / "out" / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(EstimatorError, match="cannot be read"):
        NetworkEstimator.load(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"estimator"', "\x00"])
def test_a_description_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "out") / DESCRIPTION_FILE
    path.write_text(text)
    with pytest.raises(EstimatorError, match=r"estimator\.json: is no"):
        NetworkEstimator.load(tmp_path / "out")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EstimatorError, match=r"estimator\.json: cannot be read"):
        NetworkEstimator.load(tmp_path)
    (write(tmp_path / "out") / WEIGHTS_FILE).unlink()
    with pytest.raises(EstimatorError, match=r"estimator\.safetensors: cannot be read"):
        NetworkEstimator.load(tmp_path / "out")


def test_an_impossible_description_cannot_be_built() -> None:
    with pytest.raises(InvalidValueError, match="configs"):
        description(configs=())
