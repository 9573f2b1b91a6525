"""The asynchronous scheduler with a real model: a step is planned while the one before it executes.

vLLM turns asynchronous scheduling off on a CPU; here it is turned on again after that, which works in one process.
"""

import pytest
from real_engine import ENGINE, SMALL_CACHE, assert_same_answers, mixed_load, serve
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from paceline.vllm_plugin import stock
from paceline.vllm_plugin.relied_on import Executor, LLMEngine, release_devices
from paceline.vllm_plugin.replay import engine_config


@pytest.fixture(scope="module")
def engine(tiny_llm):
    config = engine_config(str(tiny_llm), None, engine_args=ENGINE)
    config.scheduler_config.async_scheduling = True
    built = LLMEngine(
        vllm_config=config, executor_class=Executor.get_class(config), log_stats=False, multiprocess_mode=False
    )
    yield built
    built.engine_core.shutdown()
    release_devices()


@pytest.fixture(scope="module")
def load():
    return mixed_load()


@pytest.fixture(scope="module")
def reference(engine, load, tmp_path_factory):
    return serve(engine, load, tmp_path_factory.mktemp("stock") / "steps.jsonl", build=stock)


@pytest.mark.parametrize("policy", ["fcfs", "srtf", "aging"])
def test_answers_are_those_of_the_stock_scheduler(engine, load, reference, tmp_path, policy):
    ours = serve(engine, load, tmp_path / "steps.jsonl", policy=policy, min_chunk_threshold=20)
    assert isinstance(engine.engine_core.engine_core.scheduler, AsyncScheduler)
    assert engine.engine_core.engine_core.batch_queue_size == 2
    assert_same_answers(ours, reference)


@pytest.mark.parametrize("policy", ["fcfs", "srtf", "aging"])
def test_answers_survive_preemption_with_steps_in_flight(engine, load, reference, tmp_path, policy):
    ours = serve(engine, load, tmp_path / "steps.jsonl", blocks=SMALL_CACHE, policy=policy)
    assert sum(len(step.preempted) for step in ours.steps) > 0
    assert_same_answers(ours, reference)
