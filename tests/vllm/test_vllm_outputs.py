"""Whatever the scheduler does, a request's greedy answer is the stock scheduler's: tokens and log-probabilities."""

import json

import pytest
from real_engine import (
    BUDGET,
    COUNT,
    ENGINE,
    LARGE_CACHE,
    SMALL_CACHE,
    TOLERANCE,
    assert_same_answers,
    mixed_load,
    serve,
)
from scheduler_swap import with_scheduler
from vllm import SamplingParams

from paceline.vllm_plugin import scheduler, stock
from paceline.vllm_plugin.replay import OfflineVllm

COEFFICIENTS = {
    "base_ms": 2.0,
    "per_decode_token_ms": 0.1,
    "per_decode_context_token_ms": 0.0,
    "per_prefill_token_ms": 0.1,
    "per_prefill_attention_token_ms": 0.0,
}
SETTINGS = {
    "fcfs": {"policy": "fcfs"},
    "spf": {"policy": "spf"},
    "srtf": {"policy": "srtf"},
    "aging": {"policy": "aging", "time_weight": 1.0, "prompt_weight": -0.01},
    "threshold": {"policy": "srtf", "min_chunk_threshold": 30},
    "least chunk": {"policy": "aging", "min_chunk_tokens": 48},
    "one partial": {"policy": "srtf", "max_partial_prefills": 1},
    "small chunks": {"policy": "fcfs", "max_chunk_tokens": 40},
    "small budget": {"policy": "spf", "chunk_size": 40},
    "target": {"policy": "srtf", "target_time_ms": 8.0, "step_time": COEFFICIENTS},
    "all at once": {
        "policy": "aging",
        "chunk_size": 100,
        "min_chunk_threshold": 20,
        "min_chunk_tokens": 32,
        "max_partial_prefills": 2,
        "max_chunk_tokens": 64,
        "target_time_ms": 11.0,
        "step_time": COEFFICIENTS,
    },
}


@pytest.fixture(scope="module")
def engine(tiny_llm):
    with OfflineVllm.open(str(tiny_llm), None, engine_args=ENGINE, seed=1) as host:
        yield host.engine


@pytest.fixture(scope="module")
def load():
    return mixed_load()


@pytest.fixture(scope="module")
def reference(engine, load, tmp_path_factory):
    log = tmp_path_factory.mktemp("stock") / "steps.jsonl"
    return serve(engine, load, log, build=stock)


def test_the_reference_says_something(reference):
    assert len(reference.answers) == COUNT
    for tokens, logprobs, _ in reference.answers.values():
        assert len(set(tokens)) > len(tokens) // 2  # no text that repeats itself
        assert max(logprobs) - min(logprobs) > 10 * TOLERANCE


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_those_of_the_stock_scheduler(engine, load, reference, tmp_path, name):
    ours = serve(engine, load, tmp_path / "steps.jsonl", **SETTINGS[name])
    assert_same_answers(ours, reference)
    chunks = [chunk for step in ours.steps for chunk in step.chunks.values()]
    assert sum(1 for chunk in chunks if chunk.context_tokens) > 10  # prompts really were computed in parts
    assert any(step.chunks and step.decode_tokens for step in ours.steps)
    budget = SETTINGS[name].get("chunk_size", BUDGET)
    assert max(step.decode_tokens + sum(each.tokens for each in step.chunks.values()) for step in ours.steps) <= budget


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_survive_preemption(engine, load, reference, tmp_path, name):
    ours = serve(engine, load, tmp_path / "steps.jsonl", blocks=SMALL_CACHE, **SETTINGS[name])
    assert sum(len(step.preempted) for step in ours.steps) > 0
    assert_same_answers(ours, reference)


def test_stock_is_preempted_too_and_answers_the_same(engine, load, reference, tmp_path):
    theirs = serve(engine, load, tmp_path / "steps.jsonl", build=stock, blocks=SMALL_CACHE)
    assert sum(len(step.preempted) for step in theirs.steps) > 0
    assert_same_answers(theirs, reference)


@pytest.mark.parametrize("policy", ["fcfs", "aging"])
def test_the_prefix_cache_is_used(engine, reference, load, tmp_path, policy):
    ours = serve(engine, load, tmp_path / "steps.jsonl", policy=policy)
    first = {}
    for step in ours.steps:
        for name, chunk in step.chunks.items():
            first.setdefault(name, chunk)
    hits = [name for name, chunk in first.items() if chunk.context_tokens]
    assert len(hits) >= 4  # those that begin alike
    assert all(int(name) % 3 == 0 for name in hits)
    assert_same_answers(ours, reference)


def test_every_prompt_token_is_computed_once(engine, load, tmp_path):
    ours = serve(engine, load, tmp_path / "steps.jsonl", policy="srtf", min_chunk_threshold=20)
    covered = {}
    for step in ours.steps:
        for name, chunk in step.chunks.items():
            assert chunk.context_tokens == covered.get(name, chunk.context_tokens)  # after the last one, or a cache hit
            covered[name] = chunk.context_tokens + chunk.tokens
    assert covered == {str(number): len(prompt) for number, (_, prompt, _) in enumerate(load)}


def test_the_step_log_is_json_lines_that_add_up(engine, load, tmp_path):
    log = tmp_path / "steps.jsonl"
    serve(engine, load, log, policy="srtf", target_time_ms=8.0, step_time=COEFFICIENTS)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    for line in lines:
        assert line["execute_ms"] > 0 and line["plan_us"] > 0 and line["predicted_ms"] > 0
        assert line["prefill_tokens"] == sum(tokens for tokens, _ in line["chunks"].values())
        assert line["decode_tokens"] == len(line["decoding"])
    decoded = sum(line["decode_tokens"] for line in lines)
    assert decoded == sum(length - 1 for _, _, length in load)


def test_a_full_disk_does_not_end_an_engine(engine, caplog):
    full = {"paceline": {"step_log": "/dev/full", "request_log": "/dev/full"}}
    with_scheduler(engine, scheduler, full, blocks=LARGE_CACHE)
    parameters = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, detokenize=False)
    for number in range(3):
        engine.add_request(str(number), {"prompt_token_ids": [3, 4, 5 + number]}, parameters)
    answered = 0
    while engine.has_unfinished_requests():
        answered += sum(output.finished for output in engine.step())
    assert answered == 3
    assert sum("/dev/full cannot be written" in record.getMessage() for record in caplog.records) == 2
