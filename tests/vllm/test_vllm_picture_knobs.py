"""Pictures: tier, experts and blocks of every request in one engine, beside transformers under the same knobs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_vllm_models import save_for_vllm

from paceline.errors import ModelError, OutputPathError
from paceline.models.loading import EMBEDDED
from paceline.vllm_plugin.checkpoints import write_for_vllm

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def digits_for_vllm(tmp_path_factory):
    return write_for_vllm(EMBEDDED["digits"], tmp_path_factory.mktemp("digits") / "for_vllm")


def test_every_request_has_its_own_tier_experts_and_blocks(digits_for_vllm):
    paths = [HERE / "torchvision_standin", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "picture_knobs.py"), str(digits_for_vllm)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["requests"]) == 54 and found["steps"]["mixed"] > 0
    assert all(each["prompt"] and each["tokens"] for each in found["requests"])
    assert max(each["off"] for each in found["requests"]) < 1e-4
    assert sum(each["cached"] for each in found["requests"]) > 0


def test_a_conversion_that_fails_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("paceline.vllm_plugin.checkpoints.save_file", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_for_vllm(EMBEDDED["digits"], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_converted_once_and_only_of_its_kind(digits_for_vllm, tmp_path):
    assert json.loads((digits_for_vllm / "config.json").read_text())["text_config"]["norm_topk_prob"] is True
    with pytest.raises(OutputPathError, match="never overwritten"):
        write_for_vllm(EMBEDDED["digits"], digits_for_vllm)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ModelError, match="'llava'; expected qwen3_vl_moe"):
        write_for_vllm(tmp_path, tmp_path / "out")
    with pytest.raises(ModelError, match="cannot be read"):
        write_for_vllm(tmp_path / "nothing", tmp_path / "out")


@pytest.fixture(scope="module")
def tiny_moe_saved(tmp_path_factory):
    return save_for_vllm("qwen3_vl_moe", tmp_path_factory.mktemp("tiny") / "saved")


def test_a_checkpoint_that_vllm_loads_as_it_is_is_not_turned_around(digits_for_vllm, tmp_path):
    """As published, and as this function wrote it: turned around it would load where shapes are square, and answer wrongly."""
    with pytest.raises(ModelError, match="as vLLM loads them; .*serve it as it is"):
        write_for_vllm(digits_for_vllm, tmp_path / "twice")
    assert not list(tmp_path.iterdir())


def test_a_square_tensor_says_nothing_and_its_neighbour_does(tiny_moe_saved, tmp_path):
    converted = write_for_vllm(tiny_moe_saved, tmp_path / "once")
    with pytest.raises(ModelError, match="as vLLM loads them"):
        write_for_vllm(converted, tmp_path / "twice")
    config = json.loads((tiny_moe_saved / "config.json").read_text())
    config["text_config"]["moe_intermediate_size"] += 1
    (converted / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"experts.* has the shape \[.*config.json"):
        write_for_vllm(converted, tmp_path / "other")
