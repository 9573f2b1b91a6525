"""Logs of an engine without a model: true to what was executed, and never the end of what serves."""

import json
import logging
import shutil
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from dry_engine import DryLoad, dry_request, dry_scheduler, engine_config, run_dry, update
from vllm import SamplingParams
from vllm.v1.request import Request, RequestStatus

from paceline.errors import PacelineWarning
from paceline.schedule.step_log import StepRecord, read_step_log
from paceline.schedule.step_time import LinearStepTime
from paceline.vllm_plugin import scheduler, stock
from paceline.vllm_plugin.recording import EngineRecorder, file_recorder
from paceline.vllm_plugin.settings import LogPaths

COEFFICIENTS = {
    "base_ms": 2.0,
    "per_decode_token_ms": 0.1,
    "per_decode_context_token_ms": 1e-4,
    "per_prefill_token_ms": 0.05,
    "per_prefill_attention_token_ms": 1e-5,
}
STEP = StepRecord(
    step=0,
    started_seconds=0.0,
    execute_ms=1.0,
    plan_us=1.0,
    schedule_us=1.0,
    predicted_ms=None,
    token_budget=8,
    decode_tokens=0,
    decode_context_tokens=0,
    chunks={},
    decoding=(),
    waiting=0,
    running=0,
    preempted=(),
)
TIGHT_BLOCKS = 30
LONG_AND_SHORT = [DryLoad(20 + 60 * (number % 4), 30, step=number // 3, seed=number) for number in range(12)]


@pytest.fixture
def planned(tiny_llm):
    """Builds schedulers with settings; free blocks, and the engine's number in a data-parallel run, may be said."""
    built = []

    def build(*, blocks=200, engine=0, build=scheduler, **settings):
        config = engine_config(tiny_llm, paceline=settings)
        config.parallel_config.data_parallel_index = engine
        built.append(dry_scheduler(config, blocks=blocks, build=build))
        return built[-1]

    yield build
    for each in built:
        each.shutdown()


def serve(built, loads) -> int:
    """Serve loads with the scheduler's own recorder; returns the executed steps."""
    requests = [dry_request(number, load, arrival_time=time.time()) for number, load in enumerate(loads)]
    for request in requests:
        built.add_request(request)
    steps = 0
    while built.has_unfinished_requests():
        output = built.schedule()
        sampled = [name for name in output.num_scheduled_tokens if not built.requests[name].is_prefill_chunk]
        update(built, output, sampled)
        steps += 1
    assert all(request.num_output_tokens == load.output_tokens for request, load in zip(requests, loads, strict=True))
    return steps


def warnings_in(caplog):
    ours = [record for record in caplog.records if record.name.startswith("paceline")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("build", [scheduler, stock])
def test_a_full_disk_ends_the_logs_with_one_warning_each_and_serving_goes_on(planned, build, caplog):
    built = planned(step_log="/dev/full", request_log="/dev/full", build=build)
    assert serve(built, LONG_AND_SHORT) > 10
    assert len(warnings_in(caplog)) == 2
    assert all("/dev/full cannot be written (No space left on device)" in each for each in warnings_in(caplog))


def test_one_log_that_fails_leaves_the_other(planned, tmp_path, caplog):
    built = planned(step_log="/dev/full", request_log=str(tmp_path / "requests.jsonl"))
    serve(built, LONG_AND_SHORT)
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == len(LONG_AND_SHORT)
    assert len(warnings_in(caplog)) == 1


def test_a_directory_that_vanishes_while_serving_ends_the_log_with_one_warning(planned, tmp_path, caplog):
    (tmp_path / "logs").mkdir()
    built = planned(step_log=str(tmp_path / "logs" / "steps.jsonl"))
    serve(built, LONG_AND_SHORT[:2])
    shutil.rmtree(tmp_path / "logs")
    serve(built, LONG_AND_SHORT)
    (sentence,) = warnings_in(caplog)
    assert "was removed while it was written" in sentence and "the engine goes on without it" in sentence


def test_a_directory_that_is_gone_before_the_first_step_ends_the_log_with_one_warning(tmp_path, caplog):
    recorder = file_recorder(LogPaths(step_log=tmp_path / "gone" / "steps.jsonl"))
    recorder._on_step(STEP)
    recorder.close()
    (sentence,) = warnings_in(caplog)
    assert "No such file or directory" in sentence


def test_whatever_else_fails_in_a_recorder_ends_the_logs_and_serving_goes_on(planned, caplog):
    built = planned()

    def fails(_):
        raise RuntimeError("out of ideas")

    built.recorder = EngineRecorder(on_step=fails, may_stop=True)
    serve(built, LONG_AND_SHORT)
    assert built.recorder is None
    assert len(warnings_in(caplog)) == 1
    built.recorder = EngineRecorder(on_step=fails)  # a replay is run for its records
    with pytest.raises(RuntimeError, match="out of ideas"):
        serve(built, LONG_AND_SHORT)


def test_the_prediction_is_of_what_was_executed_also_where_memory_refuses_what_was_planned(planned):
    model = LinearStepTime(**COEFFICIENTS)
    run = run_dry(planned(blocks=TIGHT_BLOCKS, step_time=COEFFICIENTS), LONG_AND_SHORT)
    assert any(step.preempted for step in run.steps)
    assert [step.predicted_ms for step in run.steps] == [
        pytest.approx(model.predict_ms(step.load)) for step in run.steps
    ]


def test_an_engine_that_starts_after_a_kill_goes_on_on_a_fresh_line(planned, tmp_path):
    log, requests = tmp_path / "steps.jsonl", tmp_path / "requests.jsonl"
    settings = {"step_log": str(log), "request_log": str(requests)}
    first = serve(planned(**settings), LONG_AND_SHORT)
    for path in (log, requests):
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 20)
    second = serve(planned(**settings), LONG_AND_SHORT)
    with pytest.warns(PacelineWarning, match=rf"1 torn line is left out \(line {first}\)"):
        records = read_step_log(log)
    assert [record.step for record in records] == [*range(first - 1), *range(second)]
    assert len({record.run for record in records}) == 2
    lines = requests.read_text().splitlines()
    assert len(lines) == 2 * len(LONG_AND_SHORT)
    assert [len(LONG_AND_SHORT) - 1] == [number for number, line in enumerate(lines) if not line.endswith("}")]


def test_data_parallel_engines_say_which_they_are(planned, tmp_path):
    log, requests = tmp_path / "steps.jsonl", tmp_path / "requests.jsonl"
    engines = [planned(step_log=str(log), request_log=str(requests), engine=number) for number in (0, 1)]
    steps = [serve(engine, LONG_AND_SHORT[number:]) for number, engine in enumerate(engines)]
    records = read_step_log(log)
    for number, count in enumerate(steps):
        assert [record.step for record in records if record.engine == number] == list(range(count))
    assert {json.loads(line)["engine"] for line in requests.read_text().splitlines()} == {0, 1}


def turn(prompt_tokens: int, *, output_tokens: int = 3, more: bool = True) -> Request:
    request = dry_request("session", DryLoad(prompt_tokens, output_tokens), arrival_time=time.time())
    return Request(
        request_id="session",
        prompt_token_ids=list(request.prompt_token_ids),
        sampling_params=SamplingParams(max_tokens=output_tokens, ignore_eos=True),
        pooling_params=None,
        arrival_time=time.time(),
        block_hasher=request._block_hasher,
        resumable=more,
    )


@pytest.mark.parametrize("queued_ahead", [False, True])
def test_a_streaming_session_is_a_record_a_turn(planned, queued_ahead):
    built = planned()
    times = []
    built.recorder = EngineRecorder(on_request=times.append)
    sizes = [(40, 3), (25, 1), (10, 3)]
    for _ in range(30):
        while sizes and (queued_ahead or "session" not in built.requests or _waits(built)):
            prompt_tokens, output_tokens = sizes.pop(0)
            built.add_request(turn(prompt_tokens, output_tokens=output_tokens))
        output = built.schedule()
        sampled = [name for name in output.num_scheduled_tokens if not built.requests[name].is_prefill_chunk]
        update(built, output, sampled)
    assert [(each.request_id, each.prompt_tokens, each.output_tokens) for each in times] == [
        ("session", 40, 3),
        ("session#2", 25, 1),
        ("session#3", 10, 3),
    ]
    for before, after in pairwise(times):
        assert after.first_scheduled_seconds >= before.completion_seconds
        assert (after.arrival_seconds >= before.completion_seconds) is not queued_ahead
    built.add_request(turn(1, more=False))  # the session's end
    assert (built.requests, built.recorder._attempts, built.recorder._sessions, built.recorder._arrivals) == ({},) * 4


def _waits(built) -> bool:
    return built.requests["session"].status == RequestStatus.WAITING_FOR_STREAMING_REQ


def test_a_wall_clock_that_is_set_while_a_request_waits_moves_no_arrival(planned, monkeypatch):
    built = planned()
    times = []
    built.recorder = EngineRecorder(on_request=times.append)
    wall = time.time
    request = dry_request("a", replace(LONG_AND_SHORT[0]), arrival_time=wall())
    built.add_request(request)
    monkeypatch.setattr(time, "time", lambda: wall() + 600.0)
    while built.has_unfinished_requests():
        output = built.schedule()
        update(built, output, [name for name in output.num_scheduled_tokens if not request.is_prefill_chunk])
    assert 0 <= times[0].ttft_ms < 300_000
