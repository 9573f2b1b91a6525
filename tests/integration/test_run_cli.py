"""`paceline run` under a learned controller: its directory, and what it says of a refusal."""

import json

import pytest
from learned_controllers import write_controller

RUN = {"model": "digits", "block_ranking": [7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1]}


def run_arguments(controller, picture, *more, budget="1000000"):
    asked = ["--image", picture, "--prompt", "Read the digits.", "--budget", budget, "--max-new-tokens", "2"]
    return ["run", "digits", "--controller", controller, *asked, "--warmup", "0", "--json", *more]


@pytest.mark.parametrize("learner", ["supervised", "grpo"])
def test_a_learned_controller_answers(paceline, tmp_path, picture_path, learner):
    path = write_controller(tmp_path / "controller", learner, provenance=(RUN,))
    code, out, err = paceline(*run_arguments(path, picture_path))
    assert code == 0, err
    document = json.loads(out)
    assert document["promised"] and document["refused"] is False
    assert document["predicted_ms"] < document["bound_ms"] < 1e6
    assert document["latency_kind"] == "prefill" and document["measured_ms"] == document["prefill_ms"]


def test_a_damaged_controller_is_a_sentence(paceline, tmp_path, picture_path):
    path = write_controller(tmp_path / "controller", provenance=(RUN,))
    weights = path / "controller.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, out, err = paceline(*run_arguments(path, picture_path))
    assert (code, out) == (2, "") and "Traceback" not in err
    assert "cut short" in err and "paceline controller train" in err


def test_a_controller_of_another_model_is_refused(paceline, tmp_path, picture_path):
    code, _out, err = paceline(*run_arguments(write_controller(tmp_path / "controller"), picture_path))
    assert code == 2 and "measured on synthetic, not on digits" in err
