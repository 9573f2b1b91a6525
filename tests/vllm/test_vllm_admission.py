"""What vLLM would skip is stepped past without a charge, what it would refuse is foreseen, priorities are kept."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from dry_engine import BLOCK_TOKENS, DryLoad, dry_request, dry_scheduler, engine_config, run_dry, update
from vllm.lora.request import LoRARequest
from vllm.v1.request import RequestStatus

from paceline.vllm_plugin import scheduler, stock

BUDGET = 128


@pytest.fixture(scope="module")
def config_of(tiny_llm):
    kept = engine_config(tiny_llm, budget=BUDGET, sequences=8)

    def config(**paceline):
        kept.additional_config = {"paceline": paceline}
        return kept

    return config


def started(built, name, load, **changes):
    request = dry_request(name, load)
    for attribute, value in changes.items():
        setattr(request, attribute, value)
    built.add_request(request)
    return request


def adapter(number):
    return LoRARequest(lora_name=f"adapter {number}", lora_int_id=number, lora_path="/nowhere")


@pytest.mark.parametrize("build", [scheduler, stock])
def test_requests_whose_adapter_has_no_slot_hold_up_nobody(config_of, build):
    built = dry_scheduler(config_of(), build=build)
    built.lora_config = SimpleNamespace(max_loras=1)
    started(built, "runs", DryLoad(20, 50, seed=1), lora_request=adapter(1))
    update(built, built.schedule(), ["runs"])
    for number in range(6):
        started(built, f"blocked {number}", DryLoad(90, 2, seed=10 + number), lora_request=adapter(2))
    started(built, "same adapter", DryLoad(40, 2, seed=2), lora_request=adapter(1))
    started(built, "none", DryLoad(60, 2, seed=3))
    output = built.schedule()
    assert dict(output.num_scheduled_tokens) == {"runs": 1, "same adapter": 40, "none": 60}
    update(built, output, list(output.num_scheduled_tokens))
    assert len(built.deferred_waiting) == 6  # as vLLM counts those that it skips
    built.finish_requests(["runs", "same adapter"], RequestStatus.FINISHED_ABORTED)
    assert "blocked 0" in built.schedule().num_scheduled_tokens


def test_a_partly_prefilled_request_keeps_its_adapters_slot_while_others_go_first(config_of):
    built = dry_scheduler(config_of(policy="srtf"))
    built.lora_config = SimpleNamespace(max_loras=1)
    started(built, "long", DryLoad(600, 2, seed=1), lora_request=adapter(1))
    update(built, built.schedule(), [])
    started(built, "short", DryLoad(BUDGET, 2, seed=2))
    started(built, "other adapter", DryLoad(30, 2, seed=3), lora_request=adapter(2))
    for _ in range(20):  # vLLM asserts that the adapters of a step fit
        step(built)
    assert not built.has_unfinished_requests()


def connector(answers):
    """A connector that knows nothing, finds nothing, or loads a cache between steps, by request."""
    made = Mock()
    made.supports_divergent_local_hybrid_hits = False
    made.get_num_new_matched_tokens.side_effect = lambda request, _: answers.get(request.request_id, (0, False))
    made.has_pending_push_work.return_value = False
    made.has_pending_block_frees.return_value = False
    made.get_loaded_kv_cache_group_ids.return_value = ()
    made.request_finished.return_value = (False, None)
    made.request_finished_all_groups.return_value = (False, None)
    made.take_events.return_value = ()
    return made


def test_a_request_that_a_connector_does_not_know_yet_holds_up_nobody(config_of):
    answers = {"asked": (None, False)}
    built = dry_scheduler(config_of())
    built.connector = connector(answers)
    started(built, "asked", DryLoad(100, 2, seed=1))
    for number in range(3):
        started(built, f"ready {number}", DryLoad(40, 2, seed=2 + number))
    output = built.schedule()
    assert dict(output.num_scheduled_tokens) == {"ready 0": 40, "ready 1": 40, "ready 2": 40}
    update(built, output, list(output.num_scheduled_tokens))
    answers["asked"] = (0, False)
    assert built.schedule().num_scheduled_tokens["asked"] == 100


def test_a_cache_that_loads_between_steps_costs_no_budget(config_of):
    built = dry_scheduler(config_of())
    built.connector = connector({"remote": (96, True)})
    started(built, "remote", DryLoad(120, 2, seed=1))
    started(built, "local", DryLoad(BUDGET - 10, 2, seed=2))
    output = built.schedule()
    assert dict(output.num_scheduled_tokens) == {"local": BUDGET - 10}
    assert built.requests["remote"].status == RequestStatus.WAITING_FOR_REMOTE_KVS
    update(built, output, ["local"])
    output = built.schedule()  # still loading
    assert dict(output.num_scheduled_tokens) == {"local": 1}
    update(built, output, ["local"])
    built.finished_recving_kv_req_ids.add("remote")
    assert dict(built.schedule().num_scheduled_tokens) == {"remote": 24}


def test_output_that_is_still_in_flight_when_its_request_was_preempted_is_waited_for(config_of):
    built = dry_scheduler(config_of())
    started(built, "stale", DryLoad(50, 2, seed=1), num_stale_output_tokens=1)
    started(built, "ready", DryLoad(60, 2, seed=2))
    assert dict(built.schedule().num_scheduled_tokens) == {"ready": 60}


def crowded(config_of):
    """An engine of 40 blocks, 15 of them free, 8 of these cached: one request decodes, a long one is partly prefilled."""
    built = dry_scheduler(config_of(policy="srtf", chunk_size=32), blocks=41)
    run_dry(built, [DryLoad(8 * BLOCK_TOKENS, 1, seed=5)])
    started(built, "long", DryLoad(400, 2, seed=2))
    step(built)
    started(built, "decodes", DryLoad(246, 30, seed=1))
    for _ in range(11):
        step(built)
    assert built.kv_cache_manager.block_pool.get_num_free_blocks() == 15
    return built


def step(built):
    output = built.schedule()
    names = [name for name in output.num_scheduled_tokens if not built.requests[name].is_prefill_chunk]
    update(built, output, names)
    return dict(output.num_scheduled_tokens)


def test_cached_blocks_that_a_request_would_take_are_not_free_for_it(config_of):
    built = crowded(config_of)
    # first by policy, and eight blocks are enough for what it has to compute; but the eight it finds are among the free
    started(built, "hit", DryLoad(16 * BLOCK_TOKENS, 1, seed=5))
    assert [step(built) for _ in range(6)] == [{"decodes": 1, "long": 31}] * 6


def test_the_watermark_is_not_free_either(config_of):
    built = crowded(config_of)
    built.kv_cache_manager.watermark_blocks = 7
    started(built, "short", DryLoad(9 * BLOCK_TOKENS, 1, seed=3))
    assert [step(built) for _ in range(6)] == [{"decodes": 1, "long": 31}] * 6


@pytest.mark.parametrize("policy", ["fcfs", "spf", "srtf", "aging"])
def test_a_lower_priority_number_goes_first_and_is_preempted_last(config_of, policy):
    built = dry_scheduler(config_of(policy=policy))
    for name, priority in (("plain", 0), ("late", 5), ("urgent", -3)):
        started(built, name, DryLoad(100, 9, seed=priority, priority=priority))
    output = built.schedule()
    assert list(output.num_scheduled_tokens) == ["urgent", "plain"]
    update(built, output, ["urgent"])
    update(built, built.schedule(), ["urgent", "plain"])
    built.schedule()
    assert [request.request_id for request in built.running] == ["urgent", "plain", "late"]  # vLLM takes the last


def test_a_budget_that_holds_all_drafts_lets_every_request_decode_in_every_step(tiny_llm):
    config = engine_config(
        tiny_llm,
        budget=128,
        sequences=8,
        paceline={"chunk_size": 32},
        speculative_config={
            "method": "ngram",
            "num_speculative_tokens": 3,
            "prompt_lookup_max": 3,
            "prompt_lookup_min": 2,
        },
    )
    built = dry_scheduler(config)
    names = [str(number) for number in range(8)]
    for number, name in enumerate(names):
        started(built, name, DryLoad(4, 30, seed=number))
    update(built, built.schedule(), names)
    for _ in range(10):
        for name in names:
            built.requests[name].spec_token_ids = [1, 2, 3]
        output = built.schedule()
        assert dict(output.num_scheduled_tokens) == dict.fromkeys(names, 4)
        update(built, output, names)
