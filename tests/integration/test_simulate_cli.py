"""`paceline simulate` as a user meets it: a run's files, a summary, a sweep's front, sentences. Times are synthetic."""

import json

import numpy as np
import pytest

from paceline.schedule import LinearStepTime, read_step_log
from paceline.tune.run_files import read_requests

STEP_TIME = LinearStepTime(
    base_ms=2.0,
    per_decode_token_ms=0.1,
    per_decode_context_token_ms=0.001,
    per_prefill_token_ms=0.05,
    per_prefill_attention_token_ms=0.0001,
)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    rows = [f"{index * 0.02},{300 if index % 4 == 0 else 20},{5 + index % 30}" for index in range(60)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return path


@pytest.fixture
def step_time(tmp_path):
    path = tmp_path / "step_time.json"
    path.write_text(json.dumps(STEP_TIME.document()))
    return path


def done(outcome):
    code, out, err = outcome
    assert code == 0, err
    return out


def refused(outcome, *words):
    code, out, err = outcome
    assert code == 2 and out == "" and "Traceback" not in err
    for word in words:
        assert word in err


def test_a_run_leaves_the_files_of_a_run_and_feeds_the_tuners(paceline, trace, step_time, tmp_path):
    run = tmp_path / "run"
    flags = ["--step-time", step_time, "--chunk-size", "64", "--max-num-seqs", "8", "--ttft-budget-ms", "20"]
    document = json.loads(done(paceline("simulate", trace, *flags, "--policy", "srtf", "--out", run, "--json")))
    summary = document["summary"]
    assert summary["requests"] == 60 and 0 < summary["adherence"] < 1 and document["simulated"] is True
    kept = json.loads((run / "run.json").read_text())
    assert kept["scheduler"]["policy"] == "srtf" and kept["engine"]["rules"] == "paceline"
    requests, steps = read_requests(run), read_step_log(run / "steps.jsonl")
    assert {each.request_id for each in requests} == {str(index) for index in range(60)}
    assert sum(step.load.prefill_tokens for step in steps) == sum(each.prompt_tokens for each in requests)
    line = json.loads((run / "requests.jsonl").read_text().splitlines()[0])
    assert line["scheduled_seconds"] == line["first_scheduled_seconds"] and line["restarts"] == 0
    assert json.loads(done(paceline("tune", "aging", run, "--json")))["requests"] == 60
    reference = json.loads(
        done(paceline("simulate", trace, *flags, "--policy", "srtf", "--engine", "reference", "--json"))
    )
    assert reference["summary"]["ttft_ms"] == summary["ttft_ms"]


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_document_has_the_figures_that_simulators_print(paceline, trace, step_time, tmp_path, replicas):
    run = tmp_path / "run"
    flags = ["--step-time", step_time, "--chunk-size", "64", "--max-num-seqs", "8", "--replicas", replicas, "--json"]
    document = json.loads(done(paceline("simulate", trace, *flags, "--ttft-budget-ms", "20", "--out", run)))
    requests, summary = read_requests(run), document["summary"]
    assert (document["rules"], document["policy"], document["requests"]) == ("paceline", "fcfs", 60)
    assert document["steps"] == len(read_step_log(run / "steps.jsonl")) and document["loop_seconds"] > 0
    assert document["simulated_seconds"] == summary["duration_seconds"]
    for name in ("preemptions", "requests_per_second", "goodput_per_second"):
        assert document[name] == summary[name]
    whole = [1e3 * (each.completion_seconds - each.arrival_seconds) for each in requests]
    told = {"ttft_ms": [each.ttft_ms for each in requests], "tpot_ms": [each.tpot_ms for each in requests]}
    for name, values in (*told.items(), ("e2e_ms", whole)):
        assert document[name]["mean"] == pytest.approx(np.mean(values))
        for percent in (50, 90, 95, 99):
            assert document[name][f"p{percent}"] == pytest.approx(np.percentile(values, percent))
    assert "loop_seconds" not in (run / "run.json").read_text()  # the same on any machine
    without = json.loads(done(paceline("simulate", trace, *flags)))
    assert without["steps"] == document["steps"] and without["goodput_per_second"] is None


def test_answers_of_one_token_have_no_time_a_token(paceline, step_time, tmp_path):
    path = tmp_path / "short.csv"
    path.write_text("arrival,prompt_tokens,output_tokens\n0,20,1\n1,30,1\n")
    document = json.loads(done(paceline("simulate", path, "--step-time", step_time, "--json")))
    assert document["tpot_ms"] is None and document["e2e_ms"] == document["ttft_ms"]


def test_the_log_of_a_run_gives_its_times_back(paceline, trace, step_time, tmp_path):
    run, again = tmp_path / "run", tmp_path / "again"
    flags = ["--chunk-size", "64", "--rules", "vllm", "--max-num-seqs", "8", "--num-blocks", "60"]
    done(paceline("simulate", trace, *flags, "--step-time", step_time, "--out", run))
    done(paceline("simulate", trace, *flags, "--step-time", run, "--out", again))
    for one, other in zip(read_requests(run), read_requests(again), strict=True):
        assert one.prefill_e2e_time == pytest.approx(other.prefill_e2e_time, abs=1e-9)
    refused(
        paceline("simulate", trace, *flags, "--step-time", run / "steps.jsonl", "--length-scale", "2"),
        "the step log ends after",
        "paceline tune step-time",
    )


def test_a_sweep_prints_what_nothing_beats(paceline, trace, step_time):
    flags = ["--step-time", step_time, "--max-num-seqs", "8", "--num-blocks", "60", "--workers", "1"]
    grid = ["--sweep", "policy=fcfs,srtf", "chunk_size=16,64,256", "min_chunk_tokens=0,8"]
    document = json.loads(done(paceline("simulate", trace, *flags, *grid, "--json")))
    assert len(document["settings"]) == 12 and 1 <= len(document["front"]) < 12
    best = min(document["settings"], key=lambda each: each["ttft_p95_ms"])
    assert best["ttft_p95_ms"] == document["front"][0]["ttft_p95_ms"]
    alone = json.loads(done(paceline("simulate", trace, *flags, "--policy", "srtf", "--chunk-size", "64", "--json")))[
        "summary"
    ]
    same = next(each for each in document["settings"] if list(each["changes"].values()) == ["srtf", 64, 0])
    assert same["ttft_p95_ms"] == pytest.approx(alone["ttft_ms"]["p95"]["value"])
    text = " ".join(done(paceline("simulate", trace, *flags, *grid)).split())
    assert "of 12 settings that no other beats" in text


def test_replicas_share_a_load(paceline, trace, step_time, tmp_path):
    flags = ["--step-time", step_time, "--chunk-size", "64", "--max-num-seqs", "8"]
    run = tmp_path / "run"
    done(paceline("simulate", trace, *flags, "--replicas", "3", "--out", run))
    assert {step.engine for step in read_step_log(run / "steps.jsonl")} == {0, 1, 2}
    assert len(read_requests(run)) == 60
    least = ["--replicas", "2", "--router", "least_outstanding", "--json"]
    fast, reference = (
        json.loads(done(paceline("simulate", trace, *flags, *least, "--engine", engine)))["summary"]
        for engine in ("fast", "reference")
    )
    assert fast == reference


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rules", "vidur", "--policy", "srtf"], "settings of rules 'paceline'"),
        (["--rules", "sarathi"], "expected vidur, vllm or paceline"),
        (["--chunk-size", "64"], "chunk_size is 64; expected at least 128"),
        (["--num-blocks", "10"], "request 0 can never be admitted"),
        (["--target-time-ms", "20", "--step-time", "TABLES"], "cannot be read"),
        (["--sweep", "polcy=fcfs"], "did you mean 'policy'"),
        (["--sweep", "chunk_size=many"], "--sweep chunk_size is 'many'; expected a whole number"),
        (["--sweep", "policy=fcfs", "--replicas", "2"], "expected one engine and no --out"),
        (["--limit", "0"], "limit is 0"),
        (["--device-memory", "80GiB"], "--model-config is None"),
        (["--model-config", "CONFIG"], "--device-memory is None; expected --device-memory, and no --num-blocks"),
        (["--model-config", "CONFIG", "--device-memory", "much"], "expected a number with B, KB, MB"),
        (["--model-config", "CONFIG", "--device-memory", "1GiB"], "a readable config.json"),
        (["--model-config", "CONFIG", "--device-memory", "1GiB", "--kv-dtype", "int8"], "kv dtype 'int8' is unknown"),
    ],
)
def test_what_cannot_be_simulated_is_a_sentence(paceline, trace, step_time, flags, words):
    refused(paceline("simulate", trace, "--step-time", step_time, *flags), words)


def test_a_trace_or_a_synthetic_load_is_needed(paceline, step_time):
    refused(paceline("simulate", "--step-time", step_time), "--synthetic")
    text = " ".join(done(paceline("simulate", "--synthetic", "--limit", "20", "--step-time", step_time)).split())
    assert "simulated, synthetic load" in text


def test_blocks_follow_from_a_model_and_a_devices_memory(paceline, trace, step_time, tmp_path):
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = [
        "--step-time",
        step_time,
        "--chunk-size",
        "64",
        "--max-num-seqs",
        "8",
        "--model-config",
        tmp_path,
        "--json",
    ]
    block = 2 * 2 * 2 * 32 * 2 * 16  # layers, keys and values, heads, their size, bytes, tokens

    def blocks(*more):
        return json.loads(done(paceline("simulate", trace, *flags, *more)))["engine"]["num_blocks"]

    assert blocks("--device-memory", f"{1000 * block}B", "--memory-utilization", "0.5") == 500
    (tmp_path / "model.safetensors").write_bytes(b"0" * (100 * block))
    assert blocks("--device-memory", f"{1000 * block}B", "--memory-utilization", "0.5") == 400
    assert blocks("--device-memory", f"{1000 * block}B", "--other-memory", f"{300 * block}B") == 600
    assert blocks("--device-memory", f"{1000 * block}B", "--other-memory", "0", "--kv-dtype", "float32") == 450
    assert blocks("--device-memory", "64 MiB", "--tensor-parallel", "2", "--other-memory", "0") == 64 * 2**20 * 9 // (
        10 * block // 2
    )
