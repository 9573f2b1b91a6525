"""vLLM's compile-cache key: nothing of Paceline's settings is in it, everything else of additional_config is."""

import copy
import json
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dry_engine import engine_config as vllm_config

from paceline.errors import EngineError
from paceline.schedule.settings import PlannerSettings
from paceline.vllm_plugin.compile_key import VllmConfig, leave_settings_out
from paceline.vllm_plugin.replay import engine_config

ROOT = Path(__file__).parents[2]
LIMITS = {"max_num_batched_tokens": 128, "max_num_seqs": 8, "max_model_len": 512}


@pytest.fixture(scope="module")
def config(tiny_llm):
    leave_settings_out()
    return vllm_config(tiny_llm)


def key(config, additional_config):
    config.additional_config = additional_config
    return config.compute_hash()


def test_no_setting_and_no_log_changes_the_key(config, tmp_path):
    without = key(config, {})
    for settings in (
        {},
        {"policy": "srtf"},
        {"policy": "aging", "min_chunk_threshold": 10, "min_chunk_tokens": 64},
        {"step_log": str(tmp_path / "steps.jsonl")},
    ):
        given = {"paceline": settings}
        assert key(config, given) == without
        assert config.additional_config == given  # what the scheduler reads is still there


def test_every_other_key_of_the_user_counts(config):
    plain = key(config, {})
    theirs = key(config, {"gdn_prefill_backend": "triton"})
    assert theirs != plain
    assert key(config, {"gdn_prefill_backend": "triton", "paceline": {"policy": "spf"}}) == theirs
    assert key(config, {"gdn_prefill_backend": "other", "paceline": {"policy": "spf"}}) not in (plain, theirs)


def test_a_configuration_that_went_to_another_process_has_the_same_key(config):
    config.additional_config = {"paceline": {"policy": "srtf"}}
    sent = pickle.loads(pickle.dumps(config))
    assert sent.additional_config == config.additional_config
    assert sent.compute_hash() == config.compute_hash() == key(copy.deepcopy(config), {})


def test_an_object_with_a_hash_of_its_own_keeps_it(config):
    class Hashed:
        def __init__(self, name):
            self.name = name

        def compute_hash(self):
            return self.name

    keys = {key(config, Hashed("one")), key(config, Hashed("two")), key(config, {})}
    assert len(keys) == 3


def test_to_install_it_twice_wraps_once():
    leave_settings_out()
    once = VllmConfig.compute_hash
    leave_settings_out()
    assert VllmConfig.compute_hash is once


def test_vllm_installs_it_itself_by_the_entry_point(tiny_llm, tmp_path):
    """A process that knows nothing of Paceline but its metadata, as `pip install` leaves them."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    metadata = tmp_path / "paceline-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: paceline\nVersion: 0.1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    program = """
import json, sys
from vllm import EngineArgs
found = {}
for policy in ("spf", "srtf"):
    config = EngineArgs(model=sys.argv[1], skip_tokenizer_init=True, dtype="float32", max_model_len=512,
                        additional_config={"paceline": {"policy": policy}}).create_engine_config()
    found[policy] = [config.compute_hash(), type(config).compute_hash.__wrapped__(config)]
loaded = [name for name in sys.modules if name.startswith("paceline")]
print(json.dumps({"keys": found, "loaded": loaded}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    environment.pop("VLLM_PLUGINS", None)
    run = subprocess.run(
        [sys.executable, "-c", program, str(tiny_llm)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    (spf, spf_before), (srtf, srtf_before) = found["keys"].values()
    assert spf == srtf and spf_before != srtf_before
    # what every process of vLLM pays: no scheduler, no planner
    module = "paceline.vllm_plugin"
    assert sorted(found["loaded"]) == ["paceline", "paceline.errors", module, f"{module}.compile_key"]


def test_replayed_settings_join_what_the_engine_arguments_say(tiny_llm):
    theirs = {"gdn_prefill_backend": "triton"}
    arguments = {**LIMITS, "additional_config": theirs}
    keys = set()
    for threshold in (0, 10, 20):
        settings = PlannerSettings(chunk_size=128, policy="srtf", min_chunk_threshold=threshold)
        config = engine_config(str(tiny_llm), settings, engine_args=arguments)
        assert config.additional_config["gdn_prefill_backend"] == "triton"
        assert config.additional_config["paceline"]["min_chunk_threshold"] == threshold
        keys.add(config.compute_hash())
    keys.add(engine_config(str(tiny_llm), None, engine_args=arguments).compute_hash())  # the stock scheduler's, too
    assert len(keys) == 1
    assert theirs == {"gdn_prefill_backend": "triton"}


@pytest.mark.parametrize(
    ("additional_config", "words"),
    [({"paceline": {"policy": "spf"}}, "expected none: the settings are given beside"), ("spf", "expected an object")],
)
def test_settings_in_two_places_are_refused(tiny_llm, additional_config, words):
    with pytest.raises(EngineError, match=words):
        arguments = {**LIMITS, "additional_config": additional_config}
        engine_config(str(tiny_llm), PlannerSettings(chunk_size=128), engine_args=arguments)
    assert json.dumps(additional_config)
