"""What an engine is told, and what it is refused, before it serves anything."""

import json
from types import SimpleNamespace

import pytest
from vllm.version import __version__ as vllm_version

from paceline.errors import EngineError, InvalidValueError, OutputPathError, StepTimeError, UnknownChoiceError
from paceline.schedule.policies import PolicyWeights
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import LinearStepTime
from paceline.vllm_plugin import relied_on
from paceline.vllm_plugin.relied_on import EngineLimits, read_limits, require_attributes, require_version
from paceline.vllm_plugin.replay import engine_config
from paceline.vllm_plugin.settings import planner_config, read_settings

LIMITS = EngineLimits(step_tokens=2048, running_requests=64)
COEFFICIENTS = {
    "base_ms": 5.0,
    "per_decode_token_ms": 0.1,
    "per_decode_context_token_ms": 0.0,
    "per_prefill_token_ms": 0.05,
    "per_prefill_attention_token_ms": 0.0,
}


def read(**cells):
    return read_settings({"paceline": cells}, LIMITS)


def test_without_settings_the_planner_is_vllms_own_behaviour():
    for additional_config in ({}, {"paceline": {}}, {"other": 1}, None):
        assert read_settings(additional_config, LIMITS).planner == PlannerSettings(chunk_size=2048)


def test_every_key_arrives(tmp_path):
    found = read(
        policy="aging",
        chunk_size=512,
        min_chunk_threshold=50,
        min_chunk_tokens=64,
        target_time_ms=40,
        target_base_share=0.25,
        max_partial_prefills=2,
        max_chunk_tokens=256,
        time_weight=2,
        prompt_weight=-0.5,
        step_time=COEFFICIENTS,
        step_log=str(tmp_path / "steps.jsonl"),
        request_log=str(tmp_path / "requests.jsonl"),
    )
    assert found.planner == PlannerSettings(
        policy="aging",
        weights=PolicyWeights(time_weight=2, prompt_weight=-0.5),
        chunk_size=512,
        min_chunk_threshold=50,
        min_chunk_tokens=64,
        target_time_ms=40,
        target_base_share=0.25,
        max_partial_prefills=2,
        max_chunk_tokens=256,
    )
    assert found.step_time == LinearStepTime(**COEFFICIENTS)
    assert (found.logs.step_log, found.logs.request_log) == (tmp_path / "steps.jsonl", tmp_path / "requests.jsonl")


def test_settings_survive_the_way_through_vllms_config():
    settings = PlannerSettings(
        chunk_size=256, policy="srtf", min_chunk_tokens=16, target_time_ms=30.0, target_base_share=0.25
    )
    model = LinearStepTime(**COEFFICIENTS)
    text = json.dumps(planner_config(settings, step_time=model))
    found = read_settings(json.loads(text), LIMITS)
    assert (found.planner, found.step_time) == (settings, model)


@pytest.mark.parametrize(
    ("cells", "error", "words"),
    [
        ({"polcy": "srtf"}, UnknownChoiceError, ["'polcy'", "did you mean 'policy'"]),
        ({"policy": "sjf"}, UnknownChoiceError, ["'sjf'", "srtf"]),
        ({"policy": 3}, UnknownChoiceError, ["policy 3"]),
        ({"chunk_size": "512"}, InvalidValueError, ["chunk_size", "whole number"]),
        ({"chunk_size": 0}, InvalidValueError, ["chunk_size"]),
        ({"chunk_size": 4096}, InvalidValueError, ["2048", "--max-num-batched-tokens"]),
        ({"chunk_size": 32}, InvalidValueError, ["64", "--max-num-seqs"]),
        ({"chunk_size": 100, "min_chunk_threshold": 30}, InvalidValueError, ["min_chunk_threshold", "30 %"]),
        ({"min_chunk_threshold": -1}, InvalidValueError, ["min_chunk_threshold"]),
        ({"min_chunk_tokens": 3000}, InvalidValueError, ["min_chunk_tokens", "2048"]),
        ({"max_partial_prefills": 0}, InvalidValueError, ["max_partial_prefills"]),
        ({"time_weight": "1"}, InvalidValueError, ["time_weight", "a number"]),
        ({"time_weight": 0}, InvalidValueError, ["time_weight"]),
        ({"prompt_weight": 1}, InvalidValueError, ["prompt_weight"]),
        ({"target_time_ms": True}, InvalidValueError, ["target_time_ms", "a number"]),
        ({"target_time_ms": 30}, InvalidValueError, ["target_time_ms", "step-time"]),
        ({"target_base_share": "half"}, InvalidValueError, ["target_base_share", "a number"]),
        ({"target_base_share": 1.5}, InvalidValueError, ["target_base_share", "at most 1"]),
        ({"target_time_ms": 1, "step_time": COEFFICIENTS}, InvalidValueError, ["target_time_ms", "at least"]),
        ({"step_time": 3}, InvalidValueError, ["step_time"]),
        ({"step_time": {"base_ms": 1}}, InvalidValueError, ["step_time", "per_prefill_token_ms"]),
        ({"step_time": {**COEFFICIENTS, "base_ms": "5"}}, InvalidValueError, ["base_ms", "a number"]),
        ({"step_time": "/nowhere/step_time.json"}, StepTimeError, ["/nowhere/step_time.json"]),
        ({"step_log": 1}, InvalidValueError, ["step_log", "path"]),
        ({"step_log": "/nowhere/steps.jsonl"}, OutputPathError, ["/nowhere/steps.jsonl"]),
        ({"request_log": ""}, InvalidValueError, ["request_log"]),
    ],
)
def test_what_cannot_work_is_refused_with_the_key_and_the_remedy(cells, error, words):
    with pytest.raises(error) as raised:
        read(**cells)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_the_section_must_be_an_object():
    with pytest.raises(InvalidValueError, match="an object"):
        read_settings({"paceline": "srtf"}, LIMITS)


def test_a_budget_smaller_than_an_image_that_must_not_be_split_is_refused():
    limits = EngineLimits(step_tokens=2048, running_requests=64, whole_image_tokens=600)
    with pytest.raises(InvalidValueError, match="chunk_size is 512; expected at least 600.*image"):
        read_settings({"paceline": {"chunk_size": 512}}, limits)
    with pytest.raises(InvalidValueError, match="max_chunk_tokens is 512; expected at least 600.*image"):
        read_settings({"paceline": {"max_chunk_tokens": 512}}, limits)
    assert read_settings({"paceline": {"chunk_size": 600}}, limits).planner.indivisible_tokens == 600


def test_a_budget_holds_the_drafts_of_every_running_request():
    drafting = EngineLimits(step_tokens=2048, running_requests=64, decode_tokens=4)
    with pytest.raises(
        InvalidValueError, match="chunk_size is 255; expected at least 256, a token and 3 drafts for every"
    ):
        read_settings({"paceline": {"chunk_size": 255}}, drafting)
    assert read_settings({"paceline": {"chunk_size": 256}}, drafting).planner.chunk_size == 256
    # an engine whose own budget is smaller is not made to refuse itself
    crowded = EngineLimits(step_tokens=128, running_requests=64, decode_tokens=4)
    assert read_settings({}, crowded).planner.chunk_size == 128


def vllm_config(*, model=None, scheduler=None, cache=None, drafts=0):
    """The parts of vLLM's configuration that are read, as it has them for a plain language model."""
    return SimpleNamespace(
        num_speculative_tokens=drafts,
        model_config=SimpleNamespace(
            **{
                "runner_type": "generate",
                "is_diffusion": False,
                "is_mm_prefix_lm": False,
                "supports_multimodal_inputs": False,
                **(model or {}),
            }
        ),
        scheduler_config=SimpleNamespace(
            **{
                "policy": "fcfs",
                "enable_chunked_prefill": True,
                "long_prefill_token_threshold": 0,
                "disable_chunked_mm_input": False,
                "max_num_scheduled_tokens": None,
                "max_num_batched_tokens": 2048,
                "max_num_active_seqs": None,
                "max_num_seqs": 64,
                **(scheduler or {}),
            }
        ),
        cache_config=SimpleNamespace(**{"mamba_cache_mode": "none", **(cache or {})}),
    )


def test_limits_are_the_engines():
    assert read_limits(vllm_config()) == LIMITS
    narrower = vllm_config(scheduler={"max_num_scheduled_tokens": 1000, "max_num_active_seqs": 8})
    assert read_limits(narrower) == EngineLimits(step_tokens=1000, running_requests=8)
    assert read_limits(vllm_config(drafts=3)).decode_tokens == 4


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": {"runner_type": "pooling"}}, ["'pooling'", "generates text"]),
        ({"scheduler": {"policy": "priority"}}, ["--scheduling-policy", "'priority'", "fcfs"]),
        ({"scheduler": {"enable_chunked_prefill": False}}, ["chunked prefill is off"]),
        ({"scheduler": {"long_prefill_token_threshold": 99}}, ["99", "max_chunk_tokens"]),
        ({"model": {"is_mm_prefix_lm": True}}, ["both directions", "--disable-chunked-mm-input"]),
        ({"cache": {"mamba_cache_mode": "align"}}, ["Mamba", "'align'"]),
    ],
)
def test_an_engine_that_cannot_be_planned_is_refused(parts, words):
    with pytest.raises(EngineError) as raised:
        read_limits(vllm_config(**parts))
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_an_engine_of_whole_images_says_how_large_they_are(monkeypatch):
    monkeypatch.setattr(relied_on, "_largest_image_tokens", lambda _: 256)
    whole = vllm_config(model={"is_mm_prefix_lm": True}, scheduler={"disable_chunked_mm_input": True})
    assert read_limits(whole).whole_image_tokens == 256


def test_the_installed_version_is_supported_and_others_are_named():
    require_version(vllm_version)
    for version in ("0.31.2", "0.33.0", "1.0", "dev"):
        with pytest.raises(EngineError, match=rf"vLLM {version} is not supported.*0\.32\.x.*pip install"):
            require_version(version)


def test_a_missing_attribute_is_named():
    with pytest.raises(EngineError, match=r"lacks .*Scheduler\.kv_cache_manager\.watermark_blocks.*0\.32\.0"):
        require_attributes(SimpleNamespace(waiting=[], kv_cache_manager=object()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_num_batched_token": 64}, ["'max_num_batched_token'", "did you mean 'max_num_batched_tokens'"]),
        ({"max_model_len": 10**9}, ["refuses", "max_model_len"]),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 8192}, ["chunked prefill is off"]),
    ],
)
def test_engine_arguments_are_refused_before_a_weight_is_loaded(tiny_llm, arguments, words):
    settings = PlannerSettings(chunk_size=64)
    with pytest.raises(EngineError) as raised:
        engine_config(str(tiny_llm), settings, engine_args={"max_num_seqs": 8, **arguments})
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(EngineError, match="vLLM refuses these engine arguments"):
        engine_config(str(tmp_path), None, engine_args={})


def test_settings_that_do_not_fit_the_engine_are_refused_before_a_weight_is_loaded(tiny_llm):
    arguments = {"max_num_batched_tokens": 64, "max_num_seqs": 8, "max_model_len": 512}
    with pytest.raises(InvalidValueError, match="chunk_size is 128; expected at most 64"):
        engine_config(str(tiny_llm), PlannerSettings(chunk_size=128), engine_args=arguments)
