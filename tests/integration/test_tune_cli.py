"""`paceline tune` as a user meets it, against a host that computes steps with the shared planner (synthetic times)."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

import pytest
from typer.main import get_command

from paceline.cli.main import app_for
from paceline.cli.tune.flags import EngineFlags
from paceline.schedule import (
    DecodeLoad,
    LinearStepTime,
    PlannerSettings,
    PrefillChunk,
    PrefillRequest,
    RequestTimes,
    StepRecord,
    plan_step,
    request_order,
)

STEP_TIME = LinearStepTime(
    base_ms=2.0,
    per_decode_token_ms=0.1,
    per_decode_context_token_ms=0.001,
    per_prefill_token_ms=0.05,
    per_prefill_attention_token_ms=0.0001,
)
try:
    HAS_VLLM = find_spec("vllm.version") is not None  # tests/vllm alone is a `vllm` too, without modules
except ModuleNotFoundError:
    HAS_VLLM = False
STOCK = PlannerSettings(chunk_size=128)


@dataclass
class Serving:
    """One request while it is served."""

    request: object
    queue_number: int
    computed: int = 0
    generated: int = 0
    first_scheduled: float | None = None
    first_token: float | None = None
    executed: float = 0.0
    completed: float | None = None

    @property
    def is_decoding(self):
        return self.generated > 0 and self.completed is None

    def prefill(self):
        return PrefillRequest(
            request_id=self.request.request_id,
            arrival_seconds=self.request.arrival_seconds,
            queue_number=self.queue_number,
            prompt_tokens=self.request.prompt_tokens,
            remaining_tokens=self.request.prompt_tokens - self.computed,
            context_tokens=self.computed,
        )

    def emit(self, now):
        self.generated += 1
        self.first_token = now if self.first_token is None else self.first_token
        if self.generated == self.request.output_tokens:
            self.completed = now

    def times(self):
        return RequestTimes(
            request_id=self.request.request_id,
            arrival_seconds=self.request.arrival_seconds,
            first_scheduled_seconds=self.first_scheduled,
            first_token_seconds=self.first_token,
            completion_seconds=self.completed,
            execution_seconds=self.executed,
            prompt_tokens=self.request.prompt_tokens,
            output_tokens=self.request.output_tokens,
            ttft_budget_ms=self.request.ttft_budget_ms,
        )


@dataclass(frozen=True)
class Result:
    requests: tuple
    steps: tuple
    wall_seconds: float


@dataclass
class PlannedHost:
    """A ReplayHost on a clock of its own: each step takes what STEP_TIME says."""

    settings: PlannerSettings
    steps: list = field(default_factory=list)

    def replay(self, requests, *, on_progress):
        now, states = 0.0, [Serving(request, number) for number, request in enumerate(requests)]
        while any(state.completed is None for state in states):
            here = [state for state in states if state.request.arrival_seconds <= now and state.completed is None]
            if not here:
                now = min(state.request.arrival_seconds for state in states if state.completed is None)
                continue
            now = self.step(here, now)
            on_progress(sum(state.completed is not None for state in states), len(states))
        return Result(tuple(state.times() for state in states), tuple(self.steps), now)

    def step(self, here, now):
        decoding = [state for state in here if state.is_decoding]
        prefilling = {state.request.request_id: state for state in here if not state.generated}
        views = sorted((state.prefill() for state in prefilling.values()), key=self.order)
        context = sum(state.request.prompt_tokens + state.generated for state in decoding)
        plan = plan_step(
            settings=self.settings,
            decodes=DecodeLoad(tokens=len(decoding), context_tokens=context),
            partial=[view for view in views if view.context_tokens],
            waiting=[view for view in views if not view.context_tokens],
            room=64,
            step_time=STEP_TIME,
        )
        record = self.record(now, plan, prefilling, decoding, context)
        self.steps.append(record)
        end = now + record.execute_ms / 1e3
        for name, tokens in plan.chunks.items():
            state = prefilling[name]
            state.first_scheduled = now if state.first_scheduled is None else state.first_scheduled
            state.computed += tokens
        for state in [*decoding, *(prefilling[name] for name in plan.chunks)]:
            state.executed += end - now
            if state.is_decoding or state.computed == state.request.prompt_tokens:
                state.emit(end)
        return end

    def order(self, view):
        return request_order(self.settings.policy, self.settings.weights)(view)

    def record(self, now, plan, prefilling, decoding, context):
        chunks = {
            name: PrefillChunk(tokens=tokens, context_tokens=prefilling[name].computed)
            for name, tokens in plan.chunks.items()
        }
        blank = StepRecord(
            step=len(self.steps),
            started_seconds=now,
            execute_ms=0.0,
            plan_us=0.0,
            schedule_us=0.0,
            predicted_ms=None,
            token_budget=self.settings.chunk_size,
            decode_tokens=len(decoding),
            decode_context_tokens=context,
            chunks=chunks,
            decoding=tuple(state.request.request_id for state in decoding),
            waiting=0,
            running=len(prefilling) + len(decoding),
            preempted=(),
        )
        cells = {name: getattr(blank, name) for name in StepRecord.__dataclass_fields__}
        return StepRecord(**{**cells, "execute_ms": STEP_TIME.predict_ms(blank.load)})


@pytest.fixture
def opened(monkeypatch):
    """Put the planned host in vLLM's place; returns the settings it was opened with."""
    seen = []

    @contextmanager
    def open_host(settings):
        seen.append(settings)
        sys.stdout.write("an engine that prints\n")
        yield PlannedHost(settings or STOCK)

    monkeypatch.setattr(EngineFlags, "opener", lambda self, scheduler, clock="machine": open_host)
    return seen


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 512}}))
    return folder


@pytest.fixture
def trace(tmp_path):
    """Short and long prompts, faster than they can be served (synthetic)."""
    path = tmp_path / "trace.csv"
    rows = [f"{index * 0.01},{300 if index % 4 == 0 else 20},{5 + index % 3}" for index in range(40)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return path


@pytest.fixture
def roomy_trace(tmp_path):
    """Prompts of many lengths, some longer than a step, with pauses in which only answers are computed (synthetic)."""
    path = tmp_path / "roomy.csv"
    rows = [f"{index * 0.1},{1 + index * 37 % 150},{5 + index * 7 % 60}" for index in range(60)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
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


def test_replay_prints_writes_and_feeds_aging(paceline, opened, model, trace, tmp_path):
    run = tmp_path / "run"
    arguments = ["--trace", trace, "--out", run, "--policy", "srtf", "--chunk-size", "64", "--ttft-budget-ms", "30"]
    document = json.loads(done(paceline("tune", "replay", model, *arguments, "--min-chunk-threshold", "6", "--json")))
    assert opened == [PlannerSettings(chunk_size=64, policy="srtf", min_chunk_threshold=6)]
    summary = document["summary"]
    assert summary["requests"] == 40 and 0 < summary["adherence"] < 1
    assert summary["ttft_ms"]["p50"]["value"] < summary["ttft_ms"]["p95"]["value"] < summary["ttft_ms"]["p99"]["value"]
    assert summary["goodput_per_second"] == pytest.approx(summary["adherence"] * summary["requests_per_second"])
    kept = json.loads((run / "run.json").read_text())
    assert kept["scheduler"]["min_chunk_threshold"] == 6 and kept["load"]["synthetic"] is False
    assert {"sha256", "limit", "length_scale", "speed"} < set(kept["load"]) and kept["versions"]["paceline"]
    assert kept["engine_args"] == {"max_num_batched_tokens": 64}

    weights = json.loads(done(paceline("tune", "aging", run, "--json")))
    assert weights["prompt_weight"] == -weights["seconds_per_prefill_token"]["mean"] < 0
    assert "time_weight 1, prompt_weight -" in done(paceline("tune", "aging", run))

    refused(paceline("tune", "step-time", run), "cannot tell what", "at half of what it serves")


def test_a_run_with_room_feeds_step_time(paceline, opened, model, roomy_trace, tmp_path):
    run = tmp_path / "run"
    done(paceline("tune", "replay", model, "--trace", roomy_trace, "--out", run, "--chunk-size", "64"))
    fitted = json.loads(done(paceline("tune", "step-time", run, "--json")))
    assert {name: fitted[name] for name in STEP_TIME.document()} == pytest.approx(
        STEP_TIME.document(), rel=1e-3, abs=1e-6
    )
    assert fitted["held_out"]["relative_error"] < 1e-3
    assert {"decode_only", "mixed"} <= fitted["held_out_by_kind"].keys()
    assert LinearStepTime.load(run / "step_time.json").base_ms == pytest.approx(2.0, rel=1e-3)
    text = done(paceline("tune", "step-time", run))
    assert "held-out error" in text and "of decode only steps" in text

    timed = ["--trace", roomy_trace, "--out", tmp_path / "timed", "--chunk-size", "64", "--target-time-ms", "6"]
    done(paceline("tune", "replay", model, *timed, "--step-time", run / "step_time.json"))
    refused(paceline("tune", "replay", model, *timed[:-4], "-o", tmp_path / "x", "--target-time-ms", "6"), "step-time")


@pytest.mark.parametrize("subcommand", [("replay",), ("threshold", "sweep")])
def test_the_share_of_a_useful_chunk_reaches_the_planner(paceline, opened, model, trace, tmp_path, subcommand):
    step_time = tmp_path / "step_time.json"
    step_time.write_text(json.dumps({"schema_version": 1, **STEP_TIME.document()}))
    flags = ["--trace", trace, "--out", tmp_path / "out", "--chunk-size", "64", "--limit", "8"]
    target = ["--target-time-ms", "30", "--step-time", step_time]
    done(paceline("tune", *subcommand, model, *flags, *target, "--target-base-share", "0.75"))
    assert {each.target_base_share for each in opened} == {0.75}
    flags[3] = tmp_path / "other"
    refused(
        paceline("tune", *subcommand, model, *flags, *target, "--target-base-share", "1.5"), "target_base_share is 1.5"
    )


def test_replay_prints_for_people_and_stock_is_no_settings(paceline, opened, model, trace, tmp_path):
    text = done(paceline("tune", "replay", model, "--trace", trace, "--out", tmp_path / "run", "--stock"))
    assert opened == [None]
    for words in ("TTFT P95 ms (95 % CI)", "TPOT P50 ms", "40 in ", "requests/s", "stock scheduler"):
        assert words in " ".join(text.split())
    assert "goodput" not in text  # no request has a budget
    assert json.loads((tmp_path / "run" / "run.json").read_text())["scheduler"] is None


def test_synthetic_loads_are_labelled(paceline, opened, model, tmp_path):
    arguments = ["--synthetic", "--limit", "20", "--rate", "50", "--prompt-median", "30", "--output-median", "4"]
    text = done(paceline("tune", "replay", model, *arguments, "--out", tmp_path / "run"))
    assert "synthetic load (Poisson arrivals" in " ".join(text.split())
    load = json.loads((tmp_path / "run" / "run.json").read_text())["load"]
    assert (
        load["synthetic"] is True and load["requests"] == 20 and load["drawn_rate"] == 50 and load["load_seed"] == 3407
    )


def test_sweep_then_select(paceline, opened, model, trace, tmp_path):
    out = tmp_path / "sweep"
    arguments = [
        "--trace",
        trace,
        "--out",
        out,
        "--chunk-size",
        "64",
        "--max",
        "15",
        "--step",
        "5",
        "--repetitions",
        "2",
    ]
    document = json.loads(done(paceline("tune", "threshold", "sweep", model, *arguments, "--json")))
    assert document["thresholds"] == [0, 5, 10, 15] and len(document["runs"]) == 2
    assert sorted(each.min_chunk_threshold for each in opened) == [0, 0, 5, 5, 10, 10, 15, 15]
    done(paceline("tune", "threshold", "sweep", model, *arguments))
    assert len(opened) == 8  # nothing was left to run
    choice = json.loads(done(paceline("tune", "threshold", "select", "--root", out, "--json")))
    assert choice["recommended"] in (0, 5, 10, 15) and choice["runs"] == 2 and choice["left_out"] == []
    assert choice["thresholds"]["0"]["score"] == pytest.approx(1.0)
    text = done(paceline("tune", "threshold", "select", "--root", out))
    assert f"Recommended min_chunk_threshold: {choice['recommended']}" in text
    assert choice["recommended"] == 0 and "too few to tell a difference from noise" in " ".join(text.split())
    arguments[-1] = "5"
    done(paceline("tune", "threshold", "sweep", model, *arguments))
    assert len(opened) == 20  # three repetitions more
    choice = json.loads(done(paceline("tune", "threshold", "select", "--root", out, "--json")))
    low, high = choice["thresholds"]["5"]["score_ci"]
    assert choice["runs"] == 5 and low < choice["thresholds"]["5"]["score"] < high
    text = done(paceline("tune", "threshold", "select", "--root", out))
    assert f"Why: {choice['reason'][:30]}" in text and f"{low:.3f}" in text and f"{high:.3f}" in text
    assert "by chance or not" in done(paceline("tune", "threshold", "select", "--root", out, "--rule", "reference"))


@pytest.mark.parametrize("dash", ["-", "_"])
def test_select_takes_every_flag_in_both_spellings(paceline, opened, model, trace, tmp_path, dash):
    out = tmp_path / "sweep"
    arguments = ["--trace", trace, "--out", out, "--chunk-size", "64", "--repetitions", "1", "--limit", "12"]
    done(paceline("tune", "threshold", "sweep", model, *arguments))
    weights = {"w_request": 0, "w_prefill": 0, "w_prefill_exec_norm": 0, "w_request_exec_norm": 0, "w_decode": 2}
    flags = [part for name, value in weights.items() for part in (f"--{name.replace('_', dash)}", value)]
    flags += ["--baseline", "10", f"--run{dash}agg", "max"]
    choice = json.loads(done(paceline("tune", "threshold", "select", "--root", out, *flags, "--json")))
    assert choice["thresholds"]["10"]["score"] == pytest.approx(2.0)
    assert choice["thresholds"]["0"]["score"] == pytest.approx(2 * choice["thresholds"]["0"]["decode_ratio"])


def test_select_tells_on_standard_error_what_it_left_out(paceline, opened, model, trace, tmp_path):
    out = tmp_path / "sweep"
    arguments = ["--trace", trace, "--out", out, "--chunk-size", "64", "--repetitions", "1", "--limit", "12"]
    done(paceline("tune", "threshold", "sweep", model, *arguments))
    for missing in out.glob("*/0/**/prefill_e2e_time.csv"):
        missing.unlink()
    code, out_text, err = paceline("tune", "threshold", "select", "--root", out, "--json")
    assert code == 0 and "left out" in err and "has no threshold 0 to compare with" in err
    assert json.loads(out_text)["recommended"] == 0 and json.loads(out_text)["thresholds"] == {}
    code, out_text, err = paceline("tune", "threshold", "select", "--root", out, "--rule", "reference", "--json")
    assert code == 0 and "left out" in err and "its smallest, 10, takes its place" in err
    assert list(json.loads(out_text)["thresholds"]) == ["10"]
    assert "Recommended min_chunk_threshold: 0" in done(paceline("tune", "threshold", "select", "--root", out))


WRONG = {
    "no load": ([], "one of --trace FILE and --synthetic"),
    "two loads": (["--trace", "TRACE", "--synthetic"], "one of --trace FILE and --synthetic"),
    "no such trace": (["--trace", "none.csv"], "none.csv: cannot be read"),
    "broken trace": (["--trace", "BROKEN"], "line 2, column 'ContextTokens': is 'x'"),
    "beyond the context": (["--trace", "TRACE", "--length-scale", "3"], "at most 512 tokens"),
    "asked context": (["--trace", "TRACE", "--max-model-len", "100"], "at most 100 tokens"),
    "unknown policy": (["--trace", "TRACE", "--policy", "sptf"], "policy 'sptf' is unknown"),
    "target alone": (["--trace", "TRACE", "--target-time-ms", "6"], "step-time"),
    "speed and rate": (["--trace", "TRACE", "--speed", "2", "--rate", "2"], "both set the arrivals"),
    "engine arguments": (["--trace", "TRACE", "--engine-args", "[1]"], "a JSON object"),
}


@pytest.mark.parametrize("subcommand", [("replay",), ("threshold", "sweep")])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_a_sentence_before_an_engine_starts(paceline, opened, model, trace, tmp_path, subcommand, name):
    broken = tmp_path / "broken.csv"
    broken.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,x,1\n")
    flags, words = WRONG[name]
    named = {"TRACE": trace, "BROKEN": broken}
    out = tmp_path / "out"
    refused(paceline("tune", *subcommand, model, "--out", out, *(named.get(flag, flag) for flag in flags)), words)
    assert opened == [] and not (out / "run.json").exists()


def test_thresholds_of_30_percent_and_runs_without_files_are_refused(paceline, opened, model, trace, tmp_path):
    sweep = ("tune", "threshold", "sweep", model, "--trace", trace, "--out", tmp_path / "out", "--chunk-size", "100")
    refused(paceline(*sweep, "--max", "30"), "min_chunk_threshold is 30", "below 30 % of chunk_size")
    replay = ("tune", "replay", model, "--trace", trace, "--chunk-size", "100")
    refused(paceline(*replay, "-o", tmp_path / "out", "--min-chunk-threshold", "30"), "min_chunk_threshold is 30")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    refused(paceline(*replay, "-o", tmp_path / "taken"), "exists already and is never overwritten")
    for command in ("aging", "step-time"):
        refused(paceline("tune", command, model), str(model))
    refused(paceline("tune", "threshold", "select", "--root", model), "no run to compare")
    refused(paceline("tune", "threshold", "select", "--root", tmp_path / "none"), "No such file")
    refused(
        paceline("tune", "replay", "some/hub-id", "--trace", trace, "-o", tmp_path / "out"), "--max-model-len is None"
    )
    assert opened == []


LOAD = "--trace --synthetic --limit --length-scale --speed --rate --ttft-budget-ms --prompt-median --output-median"
SCHEDULER = (
    "--policy --time-weight --prompt-weight --chunk-size --min-chunk-tokens --max-chunk-tokens --max-partial-prefills "
    "--target-time-ms --target-base-share --step-time"
)
RUNS = f"--max-model-len --engine-args --seed {LOAD} {SCHEDULER} --out -o --json"
SELECT = "--w-request --w-prefill --w-prefill-exec-norm --w-request-exec-norm --w-decode --run-agg"
FLAGS = {
    "replay": f"{RUNS} --min-chunk-threshold --stock --virtual --processor-time",
    "threshold sweep": f"{RUNS} --max --step --repetitions --simulate",
    "threshold select": f"--root --baseline {SELECT} {SELECT.replace('-', '_').replace('__', '--')} --rule --json",
    "aging": "--statistic --short-request-factor --simulate --step-time --chunk-size --max-num-seqs --num-blocks --json",
    "step-time": "--output -o --json",
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_what_they_were(name):
    command = get_command(app_for(["tune"])).commands["tune"]
    for word in name.split():
        command = command.commands[word]
    flags = {flag for each in command.params if each.param_type_name == "option" for flag in each.opts}
    assert flags - {"--help"} == set(FLAGS[name].split())


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed here")
@pytest.mark.parametrize("subcommand", [("replay",), ("threshold", "sweep")])
def test_without_vllm_the_extra_is_named(paceline, model, trace, tmp_path, subcommand):
    outcome = paceline("tune", *subcommand, model, "--trace", trace, "--out", tmp_path / "out")
    refused(outcome, "vllm is not installed; run: pip install 'paceline[vllm]'")
    assert not (tmp_path / "out").exists()


def test_select_and_aging_load_neither_torch_nor_vllm():
    check = "import sys; from paceline.cli.main import app_for; app_for(['tune']); "
    check += "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.fixture
def step_time(tmp_path):
    path = tmp_path / "step_time.json"
    path.write_text(json.dumps(STEP_TIME.document()))
    return path


def test_a_simulated_sweep_needs_no_model_and_is_the_same_each_time(paceline, trace, step_time, tmp_path):
    flags = ["--trace", trace, "--chunk-size", "64", "--max", "15", "--step", "5", "--repetitions", "2"]
    engine = ["--engine-args", '{"max_num_seqs": 8, "num_gpu_blocks_override": 60}', "--step-time", step_time]
    for name in ("one", "other"):
        done(paceline("tune", "threshold", "sweep", "--simulate", *flags, *engine, "--out", tmp_path / name))
    swept = json.loads((tmp_path / "one" / "sweep.json").read_text())
    assert swept["simulated"] is True and swept["model"] is None
    choices = [
        json.loads(done(paceline("tune", "threshold", "select", "--root", tmp_path / name, "--json")))
        for name in ("one", "other")
    ]
    assert choices[0]["thresholds"] == choices[1]["thresholds"] and choices[0]["runs"] == 2
    scores = {each["score"] for each in choices[0]["thresholds"].values()}
    assert len(scores) > 1  # thresholds reach the simulated planner


def test_a_simulated_sweep_is_refused_without_its_clock(paceline, trace, model, step_time, tmp_path):
    sweep = ["tune", "threshold", "sweep", "--trace", trace, "--out", tmp_path / "out", "--chunk-size", "64"]
    refused(paceline(*sweep), "MODEL is None", "--simulate")
    refused(paceline(*sweep, "--simulate", "--engine-args", '{"max_num_seqs": 8}'), "--step-time is None")
    flags = ["--simulate", "--step-time", step_time, "--engine-args"]
    refused(paceline(*sweep, *flags, '{"max_num_seqs": "many"}'), "max_num_seqs is 'many'")
    refused(paceline(*sweep, *flags, '{"max_num_seqs": 200}'), "chunk_size is 64")
    few = '{"max_num_seqs": 8, "num_gpu_blocks_override": 5}'
    refused(paceline(*sweep, *flags, few), "request 0 can never be admitted")


def test_replay_says_whether_it_was_virtual(paceline, opened, model, trace, tmp_path):
    done(paceline("tune", "replay", model, "--trace", trace, "--out", tmp_path / "run", "--virtual"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["virtual"] is True


def test_aging_of_a_trace_is_that_of_its_simulated_run_and_is_tried_on_it(paceline, trace, step_time, tmp_path):
    flags = ["--step-time", step_time, "--chunk-size", "64", "--max-num-seqs", "8"]
    found = json.loads(done(paceline("tune", "aging", trace, "--simulate", *flags, "--json")))
    run = tmp_path / "run"
    done(paceline("simulate", trace, *flags, "--policy", "fcfs", "--out", run))
    of_run = json.loads(done(paceline("tune", "aging", run, "--json")))
    tried = found.pop("simulated")
    assert set(found) == set(of_run)
    for name in ("time_weight", "prompt_weight", "token_weighted_mean"):
        assert found[name] == pytest.approx(of_run[name], rel=1e-9)
    assert [each["name"] for each in tried][:3] == ["fcfs", "aging, mean", "aging, mean, alternative"]
    assert len(tried) == 9 and tried[0]["time_weight"] is None
    by_hand = [
        "--policy",
        "aging",
        "--time-weight",
        tried[1]["time_weight"],
        "--prompt-weight",
        tried[1]["prompt_weight"],
    ]
    alone = json.loads(done(paceline("simulate", trace, *flags, *by_hand, "--json")))["summary"]
    assert tried[1]["ttft_ms"]["p95"] == pytest.approx(alone["ttft_ms"]["p95"]["value"], rel=1e-9)
    shown = " ".join(done(paceline("tune", "aging", trace, "--simulate", *flags)).split())
    assert "Aging weights from the mean" in shown and "simulated" in shown


def test_aging_that_cannot_be_simulated_is_a_sentence(paceline, trace, step_time, tmp_path):
    refused(paceline("tune", "aging", trace, "--simulate"), "--step-time is None; expected what a step takes")
    refused(paceline("tune", "aging", tmp_path, "--step-time", step_time), "none without --simulate")
    wrong = ["--simulate", "--step-time", step_time, "--statistic", "medain"]
    refused(paceline("tune", "aging", trace, *wrong), "statistic 'medain' is unknown")
