"""`paceline tune replay --virtual`: vLLM's scheduler in virtual time, beside the simulator and beside a real engine."""

import json
import sys

import pytest

from paceline.cli.main import main
from paceline.schedule import LinearStepTime, read_step_log
from paceline.tune.run_files import read_requests

STEP_TIME = LinearStepTime(
    base_ms=2.0,
    per_decode_token_ms=0.1,
    per_decode_context_token_ms=0.001,
    per_prefill_token_ms=0.05,
    per_prefill_attention_token_ms=0.0001,
)
ARGUMENTS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 8, "enable_prefix_caching": False}


@pytest.fixture
def trace(tmp_path):
    rows = [f"{index * 0.005},{150 if index % 5 == 0 else 5 + index},{20 + index}" for index in range(60)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return path


@pytest.fixture
def step_time(tmp_path):
    path = tmp_path / "step_time.json"
    # receiving a request takes half the time between two arrivals, so that some arrive meanwhile
    whole = {**STEP_TIME.document(), "base_ms": 2.25, "per_request_ms": 2.5}
    path.write_text(json.dumps({**STEP_TIME.document(), "whole_step": whole}))
    return path


@pytest.fixture
def paceline(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["paceline", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, capsys.readouterr()

    return run


def engine_args(**changed):
    return json.dumps({**ARGUMENTS, **changed})


@pytest.mark.parametrize("scheduler", [["--stock"], ["--policy", "srtf", "--min-chunk-tokens", "16"]])
def test_vllm_in_virtual_time_and_the_simulator_leave_the_same_run(
    paceline, tiny_llm, trace, step_time, tmp_path, scheduler
):
    virtual, simulated = tmp_path / "virtual", tmp_path / "simulated"
    flags = ["--chunk-size", "64", "--step-time", step_time]
    blocks = engine_args(num_gpu_blocks_override=45, block_size=16)
    replay = ["tune", "replay", tiny_llm, "--trace", trace, "--virtual", "--engine-args", blocks, *flags]
    code, said = paceline(*replay, *scheduler, "--out", virtual)
    assert code == 0, said.err
    rules = ["--rules", "vllm"] if scheduler == ["--stock"] else scheduler
    engine = ["--max-num-seqs", "8", "--num-blocks", "45", "--engine", "reference"]
    code, said = paceline("simulate", trace, *flags, *engine, *rules, "--out", simulated)
    assert code == 0, said.err
    ours = {each.request_id: each for each in read_requests(simulated)}
    theirs = read_requests(virtual)
    assert len(theirs) == 60 and any(each.preemptions for each in theirs)
    for each in theirs:
        assert each.first_token_seconds == ours[each.request_id].first_token_seconds
        assert each.completion_seconds == ours[each.request_id].completion_seconds
    steps = [
        [(step.chunks, step.decoding, step.used_blocks) for step in read_step_log(run / "steps.jsonl")]
        for run in (virtual, simulated)
    ]
    assert steps[0] == steps[1]


def test_virtual_runs_are_the_same_each_time(paceline, tiny_llm, trace, step_time, tmp_path):
    flags = ["--virtual", "--chunk-size", "64", "--step-time", step_time]
    flags += ["--engine-args", engine_args(num_gpu_blocks_override=100)]
    for name in ("one", "other"):
        code, said = paceline("tune", "replay", tiny_llm, "--trace", trace, *flags, "--out", tmp_path / name)
        assert code == 0, said.err
    one, other = ((tmp_path / name / "requests.jsonl").read_text() for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize(
    ("changed", "given", "words"),
    [
        ({}, True, "num_gpu_blocks_override is None"),
        ({"num_gpu_blocks_override": 100}, False, "--step-time is None"),
        ({"num_gpu_blocks_override": 5, "block_size": 16}, True, "serves nobody, request '0'"),
    ],
)
def test_what_cannot_be_virtual_is_a_sentence(paceline, tiny_llm, trace, step_time, tmp_path, changed, given, words):
    flags = ["--virtual", "--chunk-size", "64", *(["--step-time", step_time] if given else [])]
    code, said = paceline(
        "tune",
        "replay",
        tiny_llm,
        "--trace",
        trace,
        *flags,
        "--engine-args",
        engine_args(**changed),
        "-o",
        tmp_path / "run",
    )
    assert code == 2 and words in " ".join(said.err.split())


def test_a_real_runs_log_gives_its_first_tokens_back(paceline, tiny_llm, trace, tmp_path):
    run, simulated = tmp_path / "run", tmp_path / "simulated"
    replay = ["tune", "replay", tiny_llm, "--trace", trace, "--chunk-size", "64", "--stock", "--out", run]
    code, said = paceline(*replay, "--engine-args", engine_args())
    assert code == 0, said.err
    engine = ["--rules", "vllm", "--chunk-size", "64", "--max-num-seqs", "8", "--engine", "reference"]
    code, said = paceline("simulate", trace, "--step-time", run, *engine, "--out", simulated)
    assert code == 0, said.err
    real = {each.request_id: each for each in read_requests(run)}
    first = min(each.arrival_seconds for each in real.values())
    off_ms = sorted(
        abs(each.first_token_seconds - (real[each.request_id].first_token_seconds - first)) * 1e3
        for each in read_requests(simulated)
    )
    assert off_ms[-1] < 1.0, off_ms
