"""Vidur's and vLLM's own schedulers on recorded workloads: steps, first tokens and completions equal to the bit."""

import json

import numpy as np
import pytest

from paceline.schedule import PlannerSettings
from paceline.simulate import RequestColumns, SimulatedEngine, VidurTables, simulate, simulate_replicas

ENGINES = ("fast", "reference")


def _load(expected):
    return RequestColumns(
        arrival_seconds=expected["arrived_at"],
        prompt_tokens=expected["num_prefill_tokens"].astype(np.int64),
        output_tokens=expected["num_decode_tokens"].astype(np.int64),
    )


@pytest.fixture(scope="module")
def vidur(golden_arrays):
    def run(name, computed_by):
        expected = golden_arrays(f"{name}_expected")
        info = json.loads(str(expected["info"]))
        engine = SimulatedEngine(
            rules="vidur",
            planner=PlannerSettings(chunk_size=info["chunk_size"]),
            max_num_seqs=info["batch_size_cap"],
            num_blocks=info["num_blocks"],
            block_size=info["block_size"],
        )
        assert engine.watermark_blocks == info["watermark_blocks"]
        tables = VidurTables.load(golden_arrays.path("tables_8b"))
        return expected, info, simulate(_load(expected), engine, tables, computed_by=computed_by)

    return run


@pytest.mark.parametrize("computed_by", ENGINES)
@pytest.mark.parametrize("name", ["poisson", "pressure"])
def test_vidurs_iterations_are_equal_to_the_bit(vidur, golden_arrays, name, computed_by):
    _, info, run = vidur(name, computed_by)
    iterations = golden_arrays(f"{name}_iterations")
    steps = run.steps
    assert len(steps) == info["iterations"]
    assert np.array_equal(steps.started_seconds, iterations["start"])
    assert np.array_equal(steps.started_seconds + steps.seconds, iterations["end"])
    assert np.array_equal(steps.prefill_tokens, iterations["prefill_tokens"])
    assert np.array_equal(steps.decode_tokens + steps.prefill_tokens, iterations["tokens"])
    assert np.array_equal(steps.decode_tokens + np.diff(steps.chunk_offsets), iterations["requests"])


@pytest.mark.parametrize("computed_by", ENGINES)
@pytest.mark.parametrize("name", ["poisson", "pressure"])
def test_vidurs_metrics_are_equal(vidur, name, computed_by):
    expected, info, run = vidur(name, computed_by)
    arrived = run.load.arrival_seconds
    outputs = run.load.prompt_tokens + run.load.output_tokens - run.restart_prompt_tokens
    assert run.preemptions.sum() == info["restarts"]
    exact = {
        "prefill_e2e_time": run.first_token_seconds - arrived,
        "request_e2e_time": run.completion_seconds - arrived,
        "request_num_restarts": run.preemptions,
        "final_num_prefill_tokens": run.restart_prompt_tokens,
        "final_num_decode_tokens": outputs,
    }
    for metric, values in exact.items():
        assert np.array_equal(values, expected[metric]), metric
    span = run.completion_seconds - run.first_scheduled_seconds
    close = {
        "request_scheduling_delay": run.first_scheduled_seconds - arrived,
        "request_execution_time": run.execution_seconds,
        "request_execution_time_normalized": run.execution_seconds / outputs,
        "request_preemption_time": span - run.execution_seconds,
        "prefill_time_execution_plus_preemption": run.first_token_seconds - run.first_scheduled_seconds,
        "decode_time_execution_plus_preemption_normalized": (run.completion_seconds - run.first_token_seconds)
        / outputs,
    }
    for metric, values in close.items():
        assert np.allclose(values, expected[metric], rtol=0, atol=1e-9), metric


@pytest.mark.parametrize("rules", ["vllm", "paceline"])
@pytest.mark.parametrize("computed_by", ENGINES)
def test_vllms_recorded_steps_are_equal(golden_arrays, computed_by, rules):
    expected = golden_arrays("pressure_vllm_expected")
    info = json.loads(str(expected["info"]))
    engine = SimulatedEngine(
        rules=rules,
        planner=PlannerSettings(chunk_size=info["max_num_batched_tokens"]),
        max_num_seqs=info["max_num_seqs"],
        num_blocks=info["num_gpu_blocks"],
        block_size=info["block_size"],
    )
    tables = VidurTables.load(golden_arrays.path("tables_8b"))
    run = simulate(_load(expected), engine, tables, computed_by=computed_by)
    steps, arrived = run.steps, run.load.arrival_seconds
    assert len(steps) == info["steps"]
    at = expected["step_offsets"]
    for step, decoding in enumerate(steps.decoding()):
        chunks = slice(steps.chunk_offsets[step], steps.chunk_offsets[step + 1])
        served = dict.fromkeys(decoding, 1)
        served |= dict(zip(steps.chunk_request[chunks].tolist(), steps.chunk_tokens[chunks].tolist(), strict=True))
        own = slice(at[step], at[step + 1])
        pairs = zip(expected["step_requests"][own].tolist(), expected["step_tokens"][own].tolist(), strict=True)
        assert served == dict(pairs), step
    assert np.array_equal(run.preemptions, expected["preemptions"])
    assert np.array_equal(run.first_token_seconds - arrived, expected["prefill_e2e_time"])
    assert np.array_equal(run.completion_seconds - arrived, expected["request_e2e_time"])
    assert np.array_equal(run.first_scheduled_seconds - arrived, expected["request_scheduling_delay"])


@pytest.mark.parametrize("computed_by", ENGINES)
@pytest.mark.parametrize("router", ["round_robin", "least_outstanding"])
def test_vidurs_replicas_serve_the_same_requests(golden_arrays, router, computed_by):
    expected = golden_arrays(f"{router}_expected")
    info = json.loads(str(expected["info"]))
    engine = SimulatedEngine(
        rules="vidur",
        planner=PlannerSettings(chunk_size=info["chunk_size"]),
        max_num_seqs=info["batch_size_cap"],
        num_blocks=info["num_blocks"],
        block_size=info["block_size"],
    )
    runs = simulate_replicas(
        _load(expected),
        engine,
        VidurTables.load(golden_arrays.path("tables_8b")),
        replicas=info["replicas"],
        router=router,
        computed_by=computed_by,
    )
    completed = np.empty(info["requests"])
    restarts = np.empty(info["requests"], dtype=np.int64)
    for replica in runs:
        completed[replica.requests] = replica.run.completion_seconds
        restarts[replica.requests] = replica.run.preemptions
    assert restarts.sum() == info["restarts"] > 0
    assert np.array_equal(completed, expected["completed_at"])
    assert np.array_equal(restarts, expected["request_num_restarts"])
