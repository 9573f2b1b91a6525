"""`paceline tune` against a real engine, on a tiny random model and a generated trace."""

import json
import sys

import pytest

from paceline.cli.main import main
from paceline.schedule import read_step_log
from paceline.tune.run_files import read_requests

ENGINE = json.dumps({"dtype": "float32", "enforce_eager": True, "max_num_seqs": 8})
# in steps of 64 tokens and 8 requests at once: at most 144 steps with prefill, at least 320 with decodes
PROMPTS = [150 if index % 5 == 0 else 5 + index for index in range(60)]
ANSWERS = [20 + index for index in range(60)]


@pytest.fixture
def trace(tmp_path):
    rows = [f"{index * 0.005},{prompt},{ANSWERS[index]}" for index, prompt in enumerate(PROMPTS)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return path


@pytest.fixture
def printed(monkeypatch, capsys):
    """Run a command of the line and return its JSON document."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["paceline", *map(str, arguments), "--json"])
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


def test_replay_then_aging_and_step_time(printed, tiny_llm, trace, tmp_path):
    run = tmp_path / "run"
    flags = ["--chunk-size", "64", "--policy", "srtf", "--engine-args", ENGINE, "--ttft-budget-ms", "60000"]
    document = printed("tune", "replay", tiny_llm, "--trace", trace, "--out", run, *flags)
    assert document["summary"]["adherence"] == 1.0
    requests = {request.request_id: request for request in read_requests(run)}
    assert [requests[str(index)].prompt_tokens for index in range(60)] == PROMPTS
    assert [requests[str(index)].output_tokens for index in range(60)] == ANSWERS
    steps = read_step_log(run / "steps.jsonl")
    computed = {name: 0 for name in requests}
    for step in steps:
        assert step.decode_tokens + step.load.prefill_tokens <= 64
        for name, chunk in step.chunks.items():
            computed[name] += chunk.tokens
    assert [computed[str(index)] for index in range(60)] == PROMPTS  # nothing lost, nothing computed twice
    assert max(len([step for step in steps if str(index) in step.chunks]) for index in range(60)) > 1
    weights = printed("tune", "aging", run)
    assert weights["prompt_weight"] < 0 < weights["alternative"]["time_weight"]
    fitted = printed("tune", "step-time", run)
    assert fitted["base_ms"] >= 0 and fitted["held_out"]["n"] > 0


def test_sweep_then_select(printed, tiny_llm, trace, tmp_path):
    flags = ["--chunk-size", "64", "--max", "10", "--repetitions", "1", "--limit", "12", "--engine-args", ENGINE]
    swept = printed("tune", "threshold", "sweep", tiny_llm, "--trace", trace, "--out", tmp_path / "out", *flags)
    assert swept["thresholds"] == [0, 10]
    choice = printed("tune", "threshold", "select", "--root", tmp_path / "out")
    assert set(choice["thresholds"]) == {"0", "10"} and choice["left_out"] == []
