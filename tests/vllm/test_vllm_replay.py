"""Replaying a trace with an offline engine: honest times, whole answers, a step log that adds up."""

import time

import pytest

from paceline.errors import InvalidValueError
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.trace_request import TraceRequest
from paceline.vllm_plugin.clocks import ProcessorClock
from paceline.vllm_plugin.replay import OfflineVllm

ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 8,
    "block_size": 32,
}
TRACE = [
    TraceRequest(
        request_id=f"request {number}",
        arrival_seconds=0.5 + 0.05 * number,
        prompt_tokens=10 + 40 * (number % 3),
        output_tokens=1 + 5 * number,
        ttft_budget_ms=1e6 if number % 2 else None,
    )
    for number in range(8)
]
SETTINGS = {"stock": None, "planned": PlannerSettings(chunk_size=64, policy="srtf", min_chunk_threshold=10)}


@pytest.fixture(scope="module", params=SETTINGS)
def host(request, tiny_llm):
    with OfflineVllm.open(str(tiny_llm), SETTINGS[request.param], engine_args=ENGINE, seed=5) as opened:
        yield opened


def test_every_request_is_served_and_timed_from_its_arrival(host):
    moved = []
    result = host.replay(list(reversed(TRACE)), on_progress=lambda done, total: moved.append((done, total)))
    times = {each.request_id: each for each in result.requests}
    first = TRACE[0]
    for each in TRACE:
        found = times[each.request_id]
        assert (found.prompt_tokens, found.output_tokens) == (each.prompt_tokens, each.output_tokens)
        assert found.ttft_budget_ms == each.ttft_budget_ms
        apart = found.arrival_seconds - times[first.request_id].arrival_seconds
        assert apart == pytest.approx(each.arrival_seconds - first.arrival_seconds, abs=2e-3)
        assert found.execution_seconds <= found.completion_seconds - found.first_scheduled_seconds + 1e-6
        assert found.execution_seconds > 0
    assert moved[-1] == (len(TRACE), len(TRACE))
    last = max(each.completion_seconds for each in result.requests)
    assert result.wall_seconds == pytest.approx(last - times[first.request_id].arrival_seconds, abs=0.5)


def test_the_steps_compute_every_token_and_carry_the_traces_ids(host):
    result = host.replay(TRACE, on_progress=lambda *_: None)
    prefilled, decoded = {}, {}
    for step in result.steps:
        for name, chunk in step.chunks.items():
            prefilled[name] = prefilled.get(name, 0) + chunk.tokens
        for name in step.decoding:
            decoded[name] = decoded.get(name, 0) + 1
    assert prefilled == {each.request_id: each.prompt_tokens for each in TRACE}  # no prefix is left from before
    assert decoded == {each.request_id: each.output_tokens - 1 for each in TRACE if each.output_tokens > 1}
    assert [step.step for step in result.steps] == list(range(len(result.steps)))


def test_execution_adds_up_to_the_steps_a_request_was_in(host):
    result = host.replay(TRACE, on_progress=lambda *_: None)
    for each in result.requests:
        within = [step for step in result.steps if each.request_id in step.chunks or each.request_id in step.decoding]
        assert each.execution_seconds == pytest.approx(sum(step.execute_ms for step in within) / 1e3)


def test_processor_time_skips_what_nobody_computes(tiny_llm):
    arguments = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 4, "num_gpu_blocks_override": 200}
    requests = [
        TraceRequest(request_id=str(index), arrival_seconds=100.0 * index, prompt_tokens=20, output_tokens=3)
        for index in range(4)
    ]
    settings = PlannerSettings(chunk_size=64, policy="aging")
    opened = OfflineVllm.open(str(tiny_llm), settings, engine_args=arguments, seed=1, clock=ProcessorClock())
    with opened as engine:
        started = time.monotonic()
        result = engine.replay(requests, on_progress=lambda _done, _total: None)
        assert time.monotonic() - started < 200
    assert 300 <= result.wall_seconds < 400
    first = result.requests[0].arrival_seconds
    assert [each.arrival_seconds - first for each in result.requests] == pytest.approx([0, 100, 200, 300])
    for each in result.requests:
        assert 0 < each.ttft_ms < 50_000
    spent_ms = sum(step.execute_ms for step in result.steps)
    assert 0 < spent_ms < 100_000


def test_processor_time_is_refused_where_the_model_runs_elsewhere(tiny_llm):
    arguments = {"dtype": "float32", "distributed_executor_backend": "mp"}
    opened = OfflineVllm.open(str(tiny_llm), None, engine_args=arguments, seed=1, clock=ProcessorClock())
    with pytest.raises(InvalidValueError, match="VLLM_ENABLE_V1_MULTIPROCESSING=0"), opened:
        pass


def test_a_request_longer_than_the_context_is_refused_before_any_is_served(host):
    too_long = TraceRequest(request_id="long", arrival_seconds=0.0, prompt_tokens=500, output_tokens=13)
    with pytest.raises(InvalidValueError, match="'long' is 513; expected at most 512"):
        host.replay([*TRACE, too_long], on_progress=lambda *_: None)
