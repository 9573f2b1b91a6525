"""The simulator's steps equal those of vLLM's own scheduler class in virtual time, stock and ours, under every setting."""

from dataclasses import replace
from random import Random

import pytest
from random_loads import Engines, Load
from simulated_loads import STEP_TIME, random_case

from paceline.simulate import LinearCost, simulate, step_records
from paceline.simulate.simulation import REFERENCE
from paceline.vllm_plugin import scheduler, stock
from paceline.vllm_plugin.made_up import made_up_request
from paceline.vllm_plugin.settings import planner_config
from paceline.vllm_plugin.virtual import VirtualClock, VirtualEngine, virtual_scheduler

LOADS = 360
MOST_STEPS = 20_000


@pytest.fixture(scope="module")
def engines(tiny_llm):
    made = Engines(str(tiny_llm))
    for config in made._configs.values():
        config.cache_config.enable_prefix_caching = False  # a resumed request computes its tokens again
    return made


def as_vllm_has_it(case):
    """The case with what the virtual engine is made with: blocks of 16, no watermark, a linear step time."""
    tokens = max(request.prompt_tokens + request.output_tokens for request in case.requests)
    blocks = max(case.engine.num_blocks * case.engine.block_size // 16, 2 + -(-tokens // 16))
    engine = replace(case.engine, block_size=16, watermark=0.0, num_blocks=blocks)
    return replace(case, engine=engine, cost=LinearCost(STEP_TIME))


def served_by_vllm(case, engines):
    engine, is_ours = case.engine, case.engine.rules == "paceline"
    load = Load(
        number=0,
        requests=(),
        step_tokens=engine.planner.chunk_size,
        running=engine.max_num_seqs,
        blocks=engine.num_blocks,
        encoder=None,
    )
    paceline = planner_config(engine.planner, step_time=STEP_TIME)["paceline"] if is_ours else None
    clock = VirtualClock()
    built = virtual_scheduler(
        engines.configured(load, paceline), blocks=engine.num_blocks, clock=clock, build=scheduler if is_ours else stock
    )
    virtual = VirtualEngine(scheduler=built, clock=clock, step_time=STEP_TIME)
    coming = list(case.requests)
    for _ in range(MOST_STEPS):
        if virtual.is_idle and coming:
            clock.seconds = max(clock.seconds, coming[0].arrival_seconds)
        while coming and coming[0].arrival_seconds <= clock.seconds:
            request = coming.pop(0)
            made = made_up_request(
                request.request_id,
                Random(request.request_id).choices(range(1, 500), k=request.prompt_tokens),
                output_tokens=request.output_tokens,
                block_tokens=16,
                arrival_time=request.arrival_seconds,
                ttft_budget_ms=request.ttft_budget_ms,
            )
            virtual.add(made, arrival_seconds=request.arrival_seconds)
        if virtual.is_idle:
            return virtual
        virtual.step()
    raise AssertionError("never ends")


def test_every_step_is_vllms(engines):
    preempted = resumed_policies = 0
    for number in range(LOADS):
        case = as_vllm_has_it(random_case(number, rules=("paceline", "paceline", "paceline", "paceline", "vllm")))
        virtual = served_by_vllm(case, engines)
        run = simulate(case.load, case.engine, case.cost, computed_by=REFERENCE)
        names = [request.request_id for request in case.requests]
        steps = step_records(run.steps, names, token_budget=case.engine.planner.chunk_size)
        for ours, theirs in zip(steps, virtual.steps, strict=True):
            at = f"case {number}, step {theirs.step}"
            assert ours.chunks == theirs.chunks, at
            assert ours.decoding == theirs.decoding, at
            assert ours.started_seconds == theirs.started_seconds, at
            assert ours.execute_ms == pytest.approx(theirs.execute_ms, rel=1e-12), at
            assert (ours.waiting, ours.running) == (theirs.waiting, theirs.running), at
            assert set(theirs.preempted) <= set(ours.preempted), at
        times = {each.request_id: each for each in virtual.finished}
        for ours in run.request_times(case.requests):
            theirs = times[ours.request_id]
            assert ours.first_token_seconds == theirs.first_token_seconds
            assert ours.completion_seconds == theirs.completion_seconds
            assert ours.first_scheduled_seconds == theirs.first_scheduled_seconds
            assert ours.execution_seconds == pytest.approx(theirs.execution_seconds, rel=1e-9)
            assert ours.preemptions == theirs.preemptions
        preempted += int(run.preemptions.sum())
        resumed_policies += case.engine.planner.policy != "fcfs" and bool(run.preemptions.sum())
    assert preempted > 500 and resumed_policies > 50
