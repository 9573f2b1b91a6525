import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estimator_samples import CONFIGS, a_config
from learned_controllers import (
    synthetic_bounds,
    synthetic_description,
    synthetic_weights,
    write_controller,
    write_estimator,
)
from safetensors.numpy import save

from paceline.control.learned.artifact import chooser_files, read_chooser
from paceline.control.learned.controller import LearnedController
from paceline.control.learned.description import (
    DESCRIPTION_FILE,
    ESTIMATOR_DIRECTORY,
    LEARNERS,
    WEIGHTS_FILE,
    read_chooser_description,
)
from paceline.control.learned.network import ChooserNetwork
from paceline.control.learned.reward import Reward
from paceline.errors import ControllerError, InvalidValueError, UnknownChoiceError
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.bounds_file import bounds_files
from paceline.request_vector import RANGES, REQUEST_VECTOR_NAMES


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_controller(tmp_path / "out")


def change_document(directory: Path, **changes: Any) -> None:
    path = directory / DESCRIPTION_FILE
    older_than_seals = json.loads(path.read_text()) | {"schema_version": 1}
    path.write_text(json.dumps(older_than_seals | changes))


def change_weights(directory: Path, weights: dict[str, Any]) -> None:
    content = save(weights)
    (directory / WEIGHTS_FILE).write_bytes(content)
    change_document(directory, weights_sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_a_directory_comes_back_as_it_was_written(learner: str, num_layers: int, tmp_path: Path) -> None:
    size = {"num_layers": num_layers, "hidden_dim": 8 if num_layers else 0, "reward": Reward(latency_weight=0.25)}
    write_controller(tmp_path / "out", learner, seed=3, **size)
    artifact = read_chooser(tmp_path / "out")
    described = synthetic_description(learner, estimator_sha256=artifact.estimator.weights_sha256, **size)
    assert artifact.description == described
    own = synthetic_weights(described, 3)
    assert artifact.weights.keys() == own.keys()
    assert all((artifact.weights[name] == own[name]).all() for name in own)
    assert artifact.bounds.configs == synthetic_bounds().configs
    scores = ChooserNetwork.load(tmp_path / "out").scores(tuple(low for low, _ in RANGES.values()), 50.0)
    assert scores.shape == (len(CONFIGS),)
    assert LearnedController.load(tmp_path / "out").provenance == artifact.bounds.provenance


def test_the_description_is_written_last_and_names_the_weights() -> None:
    described = synthetic_description()
    files = chooser_files(described, synthetic_weights(described))
    assert list(files) == [WEIGHTS_FILE, DESCRIPTION_FILE]
    assert json.loads(files[DESCRIPTION_FILE])["weights_sha256"] == hashlib.sha256(files[WEIGHTS_FILE]).hexdigest()
    assert files == chooser_files(described, synthetic_weights(described))


def test_weights_of_another_network_are_not_written() -> None:
    with pytest.raises(ControllerError, match=r"skip.bias is float32 of shape \(2, 12\).* shape \(3, 12\)"):
        chooser_files(
            synthetic_description(members=3),
            synthetic_weights(synthetic_description()) | {"skip.weight": np.zeros((3, 34, 12), np.float32)},
        )


RANGE_OF = {name: list(span) for name, span in RANGES.items()}
WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "format is 'paceline-latency-estimator'": {"format": "paceline-latency-estimator"},
    "schema_version is 3": {"schema_version": 3},
    "request_vector_version is 0": {"request_vector_version": 0},
    "request_vector_names is": {"request_vector_names": list(reversed(REQUEST_VECTOR_NAMES))},
    "learner 'gpro' is unknown.*mean 'grpo'": {"learner": "gpro"},
    "latency kind 'decode' is unknown": {"latency_kind": "decode"},
    "alpha is 1": {"alpha": 1},
    "alpha is True": {"alpha": True},
    "members is 0": {"members": 0},
    "members is '2'": {"members": "2"},
    "num_layers is -1": {"num_layers": -1},
    "num_requests is 0": {"num_requests": 0},
    "hidden_dim is 0": {"hidden_dim": 0},
    "hidden_dim is 8; expected 0 without layers": {"num_layers": 0},
    "configs is 'low_4_8'": {"configs": "low_4_8"},
    r"configs is \['low_4_8', 'low_4_8'\]": {"configs": ["low_4_8", "low_4_8"]},
    r"configs is \[\]": {"configs": []},
    "tier 'hgih' is unknown": {"configs": ["hgih_4_8"]},
    "input_ranges is": {"input_ranges": dict(list(RANGE_OF.items())[1:])},
    "brightness is": {"input_ranges": {**RANGE_OF, "brightness": [1.0, 0.0]}},
    "value is 'x'": {"input_ranges": {**RANGE_OF, "brightness": ["x", 0.0]}},
    "range is": {"input_ranges": {**RANGE_OF, "brightness": [1.0]}},
    "budget_range_ms is .0.0, 5.0": {"budget_range_ms": [0.0, 5.0]},
    "budget_range_ms is .9.0, 5.0": {"budget_range_ms": [9.0, 5.0]},
    "latency_weight is -1": {"reward": {"latency_weight": -1}},
    "unexpected keyword argument 'speed'": {"reward": {"speed": 1}},
    "'calibration_share'": {"split": {"seed": 1}},
    "split is .* in estimator/": {"split": {"seed": 1, "calibration_share": 0.2, "test_share": 0.2}},
    "learning is 'soon'": {"learning": ["soon"]},
    "expected the step in every row": {"learning": [{"train_reward": 0.1}]},
    "value is nan": {"learning": [{"step": 1, "train_reward": float("nan")}]},
    "provenance is 'a run'": {"provenance": ["a run"]},
    "estimator_sha256 is 'none' here": {"estimator_sha256": "none"},
}


@pytest.mark.parametrize("problem", WRONG_FIELDS)
def test_a_wrong_field_is_named_with_the_file_and_the_remedy(problem: str, written: Path) -> None:
    change_document(written, **WRONG_FIELDS[problem])
    with pytest.raises(ControllerError, match=problem) as caught:
        LearnedController.load(written)
    assert caught.value.path == written / DESCRIPTION_FILE
    assert "paceline controller train" in caught.value.mend or "version of paceline" in caught.value.mend


@pytest.mark.parametrize("name", list(json.loads(synthetic_description().written(weights_sha256=""))))
def test_a_missing_field_is_named(name: str, written: Path) -> None:
    path = written / DESCRIPTION_FILE
    document = json.loads(path.read_text())
    del document[name]
    path.write_text(json.dumps(document))
    with pytest.raises(ControllerError, match=name):
        read_chooser_description(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"controller"', "\x00", "[" * 100_000])
def test_a_description_that_is_none_is_refused(text: str, written: Path) -> None:
    (written / DESCRIPTION_FILE).write_text(text)
    with pytest.raises(ControllerError, match=r"controller\.json: is no"):
        LearnedController.load(written)


def test_configurations_swapped_by_hand_are_refused(written: Path) -> None:
    path = written / DESCRIPTION_FILE
    document = json.loads(path.read_text())
    configs = document["configs"]
    document["configs"] = [configs[1], configs[0], *configs[2:]]
    path.write_text(json.dumps(document))
    with pytest.raises(ControllerError, match="was changed after it was written"):
        LearnedController.load(written)


def weights_with(name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    weights = synthetic_weights(synthetic_description())
    return {**weights, name: change(weights[name])}


def weights_without(name: str) -> dict[str, Any]:
    return {key: array for key, array in synthetic_weights(synthetic_description()).items() if key != name}


def with_value(array: Any, value: float) -> Any:
    array.flat[1] = value
    return array


WRONG_WEIGHTS: dict[str, dict[str, Any]] = {
    "skip.weight holds a value that is no finite": weights_with("skip.weight", lambda array: with_value(array, np.nan)),
    "input_mean_I holds a value that is no finite": weights_with(
        "input_mean_I", lambda array: with_value(array, np.inf)
    ),
    "input_scale_I holds a value below 0": weights_with("input_scale_I", lambda array: with_value(array, -1)),
    r"head.weight is float32 of shape \(2, 7, 12\)": weights_with("head.weight", lambda array: array[:, 1:]),
    "hidden.0.bias is float64": weights_with("hidden.0.bias", lambda array: array.astype(np.float64)),
    "tensor hidden.1.weight is not of this network": weights_with("skip.bias", lambda array: array)
    | {"hidden.1.weight": np.zeros((2, 8, 8), np.float32)},
    "tensor head.weight is missing": weights_without("head.weight"),
    "tensor input_mean_I is missing": weights_without("input_mean_I"),
}


@pytest.mark.parametrize("problem", WRONG_WEIGHTS)
def test_weights_that_are_not_this_networks_are_refused(problem: str, written: Path) -> None:
    change_weights(written, {name: np.ascontiguousarray(array) for name, array in WRONG_WEIGHTS[problem].items()})
    with pytest.raises(ControllerError, match=problem) as caught:
        ChooserNetwork.load(written)
    assert caught.value.path == written / WEIGHTS_FILE


FILES = [
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    *(f"{ESTIMATOR_DIRECTORY}/{name}" for name in ("estimator.json", "estimator.safetensors")),
    *(f"{ESTIMATOR_DIRECTORY}/{name}" for name in ("bounds.json", "bounds.safetensors")),
]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, written: Path) -> None:
    (written / name).unlink()
    with pytest.raises(ControllerError, match="cannot be read") as caught:
        LearnedController.load(written)
    assert caught.value.path == written / name


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 7, 100, -1, -2])
def test_a_truncated_file_is_refused(name: str, kept: int, written: Path) -> None:
    path = written / name
    path.write_bytes(path.read_bytes().rstrip()[:kept])
    with pytest.raises(ControllerError) as caught:
        LearnedController.load(written)
    assert caught.value.path == path and "paceline controller train" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_bytes_that_are_something_else_are_refused(name: str, written: Path) -> None:
    (written / name).write_bytes(b"\xff\xfe no such thing")
    with pytest.raises(ControllerError) as caught:
        LearnedController.load(written)
    assert caught.value.path == written / name


def test_bytes_that_are_no_tensors_are_refused_even_with_their_own_hash(written: Path) -> None:
    content = b"no tensors at all"
    (written / WEIGHTS_FILE).write_bytes(content)
    change_document(written, weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ControllerError, match=r"controller\.safetensors: cannot be read"):
        LearnedController.load(written)


def test_the_weights_of_another_controller_are_refused(written: Path, tmp_path: Path) -> None:
    other = write_controller(tmp_path / "other", seed=1)
    (written / WEIGHTS_FILE).write_bytes((other / WEIGHTS_FILE).read_bytes())
    with pytest.raises(ControllerError, match="changed, cut short or taken from elsewhere"):
        LearnedController.load(written)


def test_another_estimator_than_it_was_trained_with_is_refused(written: Path) -> None:
    write_estimator(written / ESTIMATOR_DIRECTORY, seed=1)
    with pytest.raises(ControllerError, match="estimator_sha256 is .* expected the estimator that it was trained with"):
        LearnedController.load(written)


def test_configurations_other_than_the_estimators_are_refused(tmp_path: Path) -> None:
    strange = (*CONFIGS[1:], a_config(top_k=2))
    write_controller(tmp_path / "out", configs=strange)
    with pytest.raises(ControllerError, match="configs is .*low_2_8.* here"):
        LearnedController.load(tmp_path / "out")
    write_controller(tmp_path / "fewer", configs=CONFIGS[1:])
    with pytest.raises(ControllerError, match="configs is"):
        LearnedController.load(tmp_path / "fewer")


def test_bounds_that_cannot_promise_what_it_was_trained_for_are_refused(written: Path) -> None:
    digest = read_chooser(written).description.estimator_sha256
    full = synthetic_bounds()
    totals = LatencyBounds(configs=full.configs, scores={"total": full.scores["total"]})
    fewer = synthetic_bounds(CONFIGS[1:])
    for bounds, problem in ((totals, "latency_kind is 'prefill'"), (fewer, "configs of the bounds is")):
        for name, content in bounds_files(bounds, estimator_sha256=digest).items():
            (written / ESTIMATOR_DIRECTORY / name).write_bytes(content)
        with pytest.raises(ControllerError, match=problem):
            LearnedController.load(written)


def test_an_impossible_description_cannot_be_built() -> None:
    with pytest.raises(UnknownChoiceError, match="learner"):
        synthetic_description("reinforce")
    with pytest.raises(InvalidValueError, match="input_ranges"):
        synthetic_description(input_ranges=dict(reversed(RANGES.items())))
