"""Paceline's scheduler inside vLLM's, without a model: real queues, real memory, made-up tokens."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from dry_engine import BLOCK_TOKENS, DryLoad, dry_request, dry_scheduler, engine_config, run_dry, update
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import RequestStatus

from paceline.schedule import EncoderBudget
from paceline.vllm_plugin import scheduler, stock
from paceline.vllm_plugin.made_up import MadeUpImage

BUDGET, SEQUENCES = 128, 8
COEFFICIENTS = {
    "base_ms": 2.0,
    "per_decode_token_ms": 0.1,
    "per_decode_context_token_ms": 0.0,
    "per_prefill_token_ms": 0.1,
    "per_prefill_attention_token_ms": 0.0,
}
PLANNER = {
    "plain": {},
    "threshold": {"min_chunk_threshold": 30},
    "least chunk": {"min_chunk_tokens": 48},
    "one partial": {"max_partial_prefills": 1},
    "small chunks": {"max_chunk_tokens": 40},
    "small budget": {"chunk_size": 32},
    "target": {"target_time_ms": 8.0, "step_time": COEFFICIENTS},
}
POLICIES = ("fcfs", "spf", "srtf", "aging")


@pytest.fixture(scope="module")
def config_of(tiny_llm):
    kept = {}

    def config(asynchronous, **paceline):
        if asynchronous not in kept:
            kept[asynchronous] = engine_config(tiny_llm, budget=BUDGET, sequences=SEQUENCES, asynchronous=asynchronous)
        kept[asynchronous].additional_config = {"paceline": paceline}
        return kept[asynchronous]

    return config


loads = st.lists(
    st.builds(
        DryLoad,
        prompt_tokens=st.integers(1, 300),
        output_tokens=st.integers(1, 20),
        step=st.integers(0, 30),
        seed=st.integers(0, 2),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    load=loads,
    policy=st.sampled_from(POLICIES),
    planner=st.sampled_from(sorted(PLANNER)),
    blocks=st.sampled_from([24, 32, 300]),
    in_flight=st.integers(1, 2),
)
def test_every_request_ends_and_every_step_follows_its_plan(config_of, load, policy, planner, blocks, in_flight):
    config = config_of(in_flight > 1, policy=policy, **PLANNER[planner])
    built = dry_scheduler(config, blocks=blocks)
    budget = PLANNER[planner].get("chunk_size", BUDGET)
    run = run_dry(built, load, in_flight=in_flight)
    for number, each in enumerate(load):
        assert run.requests[str(number)].num_output_tokens == each.output_tokens
        assert run.requests[str(number)].is_finished()
    assert sorted(each.request_id for each in run.times) == sorted(run.requests)
    assert not built.waiting and not built.running
    assert (built.max_num_scheduled_tokens, built.max_num_active_reqs) == (budget, SEQUENCES)
    for step in run.steps:
        assert step.decode_tokens + sum(chunk.tokens for chunk in step.chunks.values()) <= budget
        assert step.running <= SEQUENCES


def executed(run):
    """Each executed step with its plan."""
    pairs = [
        (output, plan) for output, plan in zip(run.outputs, run.plans, strict=True) if output.total_num_scheduled_tokens
    ]
    assert len(pairs) == len(run.steps)
    return [(plan, step) for (_, plan), step in zip(pairs, run.steps, strict=True)]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    load=loads, policy=st.sampled_from(POLICIES), planner=st.sampled_from(sorted(PLANNER)), in_flight=st.integers(1, 2)
)
def test_with_memory_enough_each_chunk_is_the_planned_one(config_of, load, policy, planner, in_flight):
    config = config_of(in_flight > 1, policy=policy, **PLANNER[planner])
    # no shared prefixes: a request would find blocks that another one of the same step is about to fill
    distinct = [replace(each, seed=number) for number, each in enumerate(load)]
    run = run_dry(dry_scheduler(config, blocks=1000), distinct, in_flight=in_flight)
    for plan, step in executed(run):
        assert {name: chunk.tokens for name, chunk in step.chunks.items()} == dict(plan.chunks)
        if in_flight == 1:  # with steps in flight a decode that was planned may have ended
            assert step.predicted_ms == plan.predicted_ms
        assert step.preempted == ()
    if in_flight == 1:  # with steps in flight a request may have nothing left to schedule
        assert all(output.total_num_scheduled_tokens for output in run.outputs[: _first_idle_step(run, distinct)])


def _first_idle_step(run, load):
    """The number of the first step before which all that had arrived had been served to its end."""
    begun = {str(number): each.step for number, each in enumerate(load)}
    last = {name: max(_steps_of(run, name)) for name in begun}
    for step in range(len(run.outputs)):
        if all(last[name] < step for name, arrival in begun.items() if arrival <= step):
            return step
    return len(run.outputs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(load=loads)
def test_first_come_first_served_without_limits_is_what_vllm_does(config_of, load):
    distinct = [replace(each, seed=number) for number, each in enumerate(load)]
    ours = run_dry(dry_scheduler(config_of(False), blocks=1000), distinct)
    theirs = run_dry(dry_scheduler(config_of(False), blocks=1000, build=stock), distinct)
    assert [dict(output.num_scheduled_tokens) for output in ours.outputs] == [
        dict(output.num_scheduled_tokens) for output in theirs.outputs
    ]


def test_a_short_prompt_that_arrives_late_passes_a_long_one_that_is_partly_prefilled(config_of):
    load = [DryLoad(600, 4), DryLoad(20, 4, step=2)]
    first_tokens = {}
    for policy in POLICIES:
        run = run_dry(dry_scheduler(config_of(False, policy=policy)), load)
        times = {each.request_id: each.first_token_seconds for each in run.times}
        first_tokens[policy] = "short" if times["1"] < times["0"] else "long"
    assert first_tokens["fcfs"] == "long"
    assert first_tokens["spf"] == first_tokens["srtf"] == "short"


def test_aging_lets_no_prompt_wait_for_ever(config_of):
    crowd = [DryLoad(BUDGET, 1, step=step, seed=step) for step in range(80)]  # each fills a step
    starving = run_dry(dry_scheduler(config_of(False, policy="srtf")), [DryLoad(400, 1, seed=99), *crowd])
    # a step is a second here: (400 - 128) · 0.1 of them after its arrival no new short prompt passes the long one
    weights = {"time_weight": 1.0, "prompt_weight": -0.1}
    aged = run_dry(dry_scheduler(config_of(False, policy="aging", **weights)), [DryLoad(400, 1, seed=99), *crowd])
    last_step = {name: max(_steps_of(run, "0")) for name, run in (("srtf", starving), ("aging", aged))}
    assert last_step["aging"] < 40 < last_step["srtf"]


def _steps_of(run, name):
    return [number for number, output in enumerate(run.outputs) if name in output.num_scheduled_tokens]


def test_small_memory_preempts_partial_prefills_before_decodes_and_resumes_them_first(config_of):
    load = [DryLoad(100, 60, seed=number) for number in range(4)] + [DryLoad(200, 5, step=3, seed=9)]
    built = dry_scheduler(config_of(False, policy="srtf"), blocks=30)
    run = run_dry(built, load)
    preempted = [name for step in run.steps for name in step.preempted]
    assert preempted
    assert sum(each.preemptions for each in run.times) == len(preempted)
    assert all(each.output_tokens == load[int(each.request_id)].output_tokens for each in run.times)


def test_preemption_finds_the_partial_prefill_that_the_policy_puts_last(config_of):
    built = dry_scheduler(config_of(False, policy="srtf", chunk_size=64))
    for number, tokens in enumerate((400, 20, 200)):
        built.add_request(dry_request(number, DryLoad(tokens, 9, seed=number)))
        update(built, built.schedule(), ["1"] if number else [])
    built.schedule()
    assert [request.request_id for request in built.running] == ["1", "2", "0"]  # vLLM takes the last one


def test_a_request_without_room_in_memory_does_not_stop_partial_prefills(config_of):
    # 20 blocks of 16: the long one holds 12 when the short one arrives, which goes first by policy but needs 9
    load = [DryLoad(280, 2, seed=1), DryLoad(130, 2, step=6, seed=2)]
    run = run_dry(dry_scheduler(config_of(False, policy="spf", chunk_size=32), blocks=21), load)
    assert {each.request_id for each in run.times} == {"0", "1"}
    assert min(_steps_of(run, "1")) > max(_steps_of(run, "0"))
    assert all(output.total_num_scheduled_tokens for output in run.outputs[: max(_steps_of(run, "1"))])


def test_a_step_in_which_the_engine_refuses_all_that_was_planned_is_followed_by_one_of_its_own(config_of, monkeypatch):
    built = dry_scheduler(config_of(False, policy="srtf", chunk_size=32))
    refused = []
    allocate = built.kv_cache_manager.allocate_slots

    def allocate_slots(request, *args, **kwargs):
        if request.request_id == "1" and request.status == RequestStatus.WAITING and len(refused) < 3:
            refused.append(request.request_id)
            return None
        return allocate(request, *args, **kwargs)

    monkeypatch.setattr(built.kv_cache_manager, "allocate_slots", allocate_slots)
    run = run_dry(built, [DryLoad(200, 2, seed=1), DryLoad(40, 2, step=1, seed=2)])
    assert len(refused) == 3
    assert {each.request_id for each in run.times} == {"0", "1"}
    # refused in steps 1, 3 and 5, where the plan gave it everything; in between the partial one goes on
    assert _steps_of(run, "0")[:3] == [0, 2, 4]


def test_prefix_cache_hits_are_planned_as_context(config_of):
    load = [DryLoad(160, 2, seed=5), DryLoad(200, 2, step=6, seed=5)]
    run = run_dry(dry_scheduler(config_of(False, policy="srtf")), load)
    later = next(step.chunks["1"] for step in run.steps if "1" in step.chunks)
    assert later.context_tokens == 160 // BLOCK_TOKENS * BLOCK_TOKENS
    assert later.tokens == 200 - later.context_tokens  # one chunk: without the hit it would be two


def test_a_request_whose_grammar_is_compiling_waits_without_holding_up_others(config_of):
    built = dry_scheduler(config_of(False))
    waiting, other = (
        dry_request(name, DryLoad(20, 2, seed=number)) for number, name in enumerate(("grammar", "other"))
    )
    waiting.structured_output_request = SimpleNamespace(grammar=None)
    waiting.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    built.add_request(waiting)
    built.add_request(other)
    output = built.schedule()
    assert dict(output.num_scheduled_tokens) == {"other": 20}
    update(built, output, ["other"])
    waiting.structured_output_request = SimpleNamespace(grammar=object())
    built.structured_output_manager.should_advance = lambda *_: False
    assert built.schedule().num_scheduled_tokens == {"grammar": 20, "other": 1}


def test_a_paused_engine_admits_nothing_and_goes_on_with_what_runs(config_of):
    built = dry_scheduler(config_of(False))
    requests = {name: dry_request(name, DryLoad(300, 2, seed=number)) for number, name in enumerate("ab")}
    built.add_request(requests["a"])
    update(built, built.schedule(), [])
    built.add_request(requests["b"])
    built.set_pause_state(PauseState.PAUSED_NEW)
    assert set(built.schedule().num_scheduled_tokens) == {"a"}
    built.set_pause_state(PauseState.PAUSED_ALL)
    assert built.schedule().num_scheduled_tokens == {}


def test_an_aborted_request_leaves_queue_and_records(config_of):
    built = dry_scheduler(config_of(False, policy="aging"))
    ended = run_dry(built, [DryLoad(40, 3)])
    for name in ("x", "y"):
        built.add_request(dry_request(name, DryLoad(400, 3)))
    built.schedule()
    built.finish_requests(["x", "y"], RequestStatus.FINISHED_ABORTED)
    assert not built.waiting and not built.running
    assert built.recorder._attempts == {}
    assert [each.request_id for each in ended.times] == ["0"]


def test_asynchronous_engines_get_the_asynchronous_base(config_of):
    assert isinstance(dry_scheduler(config_of(True)), AsyncScheduler)
    assert not isinstance(dry_scheduler(config_of(False)), AsyncScheduler)
    assert isinstance(dry_scheduler(config_of(True), build=stock), AsyncScheduler)
    assert not isinstance(dry_scheduler(config_of(False), build=stock), AsyncScheduler)


def test_steps_in_flight_are_timed_without_counting_the_wait_behind_another(config_of):
    run = run_dry(dry_scheduler(config_of(True)), [DryLoad(300, 20), DryLoad(200, 20, seed=1)], in_flight=2)
    ends = [step.started_seconds + step.execute_ms / 1e3 for step in run.steps]
    assert all(end <= after.started_seconds + 1e-9 for end, after in zip(ends, run.steps[1:], strict=False))
    for each in run.times:
        assert each.execution_seconds <= each.completion_seconds - each.first_scheduled_seconds + 1e-9


def image(offset, tokens):
    return MadeUpImage(offset=offset, tokens=tokens, content=f"image {offset}")


def test_an_image_that_must_not_be_split_is_in_one_chunk(config_of, monkeypatch):
    config = config_of(False, policy="srtf")
    monkeypatch.setattr(config.scheduler_config, "disable_chunked_mm_input", True)
    monkeypatch.setattr("paceline.vllm_plugin.relied_on._largest_image_tokens", lambda _: 100)
    built = dry_scheduler(config, encoder=EncoderBudget(compute_embeds=1000, cache_embeds=1000))
    load = [DryLoad(60, 2, seed=3), DryLoad(300, 2, seed=4, images=(image(30, 100), image(160, 90)))]
    run = run_dry(built, load)
    ends = [
        chunk.context_tokens + chunk.tokens for step in run.steps for name, chunk in step.chunks.items() if name == "1"
    ]
    assert len(ends) > 2
    assert not any(30 < end < 130 or 160 < end < 250 for end in ends)


def test_the_factory_is_what_the_command_line_names(config_of):
    assert config_of(False).scheduler_config.get_scheduler_cls() is scheduler
