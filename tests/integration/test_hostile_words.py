"""Every option of every command is given words that nobody should give: a sentence and exit code 2, or the right thing."""

import io
import json
import os
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from evaluated_controllers import synthetic_samples_with_vectors
from typer.main import get_command

import paceline.checkout
import paceline.cli.demo
import paceline.cli.profile
import paceline.cli.verify
import paceline.runtime
from paceline.cli import main
from paceline.cli.tune.flags import EngineFlags
from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.demo import BOUND, TABLE, DemoRequest, DemoResult, make_writable
from paceline.fit import save_table
from paceline.fit.conformal import split_for
from paceline.fit.estimator.artifact import train_artifact
from paceline.fit.estimator.settings import EstimatorSettings
from paceline.fit.learned import artifact as learned_artifact
from paceline.fit.learned.artifact import ControllerSettings, train_controller
from paceline.fit.learned.settings import SupervisedSettings
from paceline.measure.verify import KnobCheck, Verification
from paceline.models.loading import load_model
from paceline.profiles import import_profile, read_profile, write_core_exp
from paceline.records import KnobConfig, StageTimes
from paceline.runtime import AdaptiveAnswer
from paceline.schedule import RequestTimes

pytestmark = pytest.mark.filterwarnings("always::paceline.errors.PacelineWarning")

WORDS = (
    "",
    " ",
    "[/b]",
    "[bold]x",
    "../[up",
    "a\nb",
    "\x1b[31m",
    "\u202e",
    "\udcff",
    "-1",
    "0",
    "3",
    "nan",
    "1e999",
    "9" * 23,
    "x" * 5000,
    "null",
    '{"a": [1]}',
    "%s{0}",
)
NUMBERS = (
    "",
    "[/b]",
    "-1",
    "0",
    "nan",
    "1e999",
    "9" * 23,
)  # where a number is asked for, words are told from it in one place
COUNT = 160
RANKING = [7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1]
SMALL = KnobConfig(tier="low", top_k=2, num_active_blocks=8)
QUICK = EstimatorSettings(hidden_dim=8, num_layers=1, num_epochs=20, batch_size=4096, learning_rate=3e-2)
SHORT = {"num_steps": 4, "round_steps": 2, "batch_size": 8}


def table():
    entry = TableEntry(config=SMALL, accuracy=0.5, latency_ms=10.0, num_samples=9, accuracy_std=0.1, latency_std_ms=1.0)
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("digits_read",),
        num_profiling_results=9,
        provenance=({"model": "digits", "block_ranking": RANKING},),
    )
    return LookupTable(entries=[entry], metadata=metadata)


@dataclass(frozen=True)
class Replayed:
    requests: tuple
    steps: tuple = ()
    wall_seconds: float = 1.0


class InstantHost:
    """A ReplayHost that answers every request at once (synthetic times)."""

    def replay(self, requests, *, on_progress):
        on_progress(len(requests), len(requests))
        return Replayed(tuple(self._times(request) for request in requests))

    def _times(self, request):
        arrival = request.arrival_seconds
        return RequestTimes(
            request_id=request.request_id,
            arrival_seconds=arrival,
            first_scheduled_seconds=arrival,
            first_token_seconds=arrival + 0.01,
            completion_seconds=arrival + 0.02,
            execution_seconds=0.02,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            ttft_budget_ms=request.ttft_budget_ms,
        )


@contextmanager
def instant_host(_settings):
    yield InstantHost()


@pytest.fixture(scope="module")
def home(tmp_path_factory, questions):
    """A folder with one of everything that a command reads; all of it synthetic but the model."""
    home = tmp_path_factory.mktemp("home")
    samples = synthetic_samples_with_vectors(COUNT)
    samples.write_parquet(home / "samples.parquet")
    import_profile(home / "samples.parquet", home / "store")
    write_core_exp(samples.head(40), home / "core-exp")
    profile = read_profile(home / "samples.parquet")
    train_artifact(profile, home / "estimator", split=split_for(COUNT, alpha=0.05), settings=QUICK)
    save_table(table(), home / "table.json")
    questions[0].picture.save(home / "picture.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_artifact, "SupervisedSettings", partial(SupervisedSettings, **SHORT))
        train_controller(profile, home / "estimator", home / "controller", settings=ControllerSettings())
    (home / "model").mkdir()
    (home / "model" / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 512}}))
    rows = [f"{index * 0.01},{20 + index},{5 + index % 3}" for index in range(4)]
    (home / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return home


def answer(config):
    times = StageTimes(
        preprocess_ms=1.0,
        before_vision_ms=0.0,
        vision_ms=5.0,
        vision_to_decoder_ms=0.0,
        llm_prefill_ms=5.0,
        first_token_to_decode_ms=0.0,
        decode_ms=0.0,
        after_last_step_ms=0.0,
        total_ms=10.0,
        output_tokens=1,
    )
    return AdaptiveAnswer(
        text="[/b] \x1b[31m",
        config=config,
        budget_ms=20.0,
        latency_kind="ttft",
        predicted_ms=10.0,
        bound_ms=15.0,
        measured_ms=11.0,
        promised=True,
        refused=False,
        within_budget=True,
        outside=("[/b]",),
        vision_tokens=16,
        text_tokens=8,
        times=times,
        waited_ms=0.0,
        features_us=1.0,
        decision_us=1.0,
    )


def demonstrated(questions, out, **_):
    """What the demo hands to its printing, without two minutes of profiling."""
    make_writable(out)
    budgets_ms = (10.0, 20.0, 30.0, 40.0, 50.0)
    requests = tuple(
        DemoRequest(
            question=questions[0],
            controller=name,
            answer=replace(answer(SMALL), budget_ms=budget_ms),
            correct=False,
        )
        for name in (BOUND, TABLE)
        for budget_ms in budgets_ms
    )
    run = SimpleNamespace(samples_total=1, configurations=(SMALL,), block_ranking=tuple(RANKING), sets=())
    return DemoResult(out=out, profile=run, table=table(), budgets_ms=budgets_ms, requests=requests)


def verified(*_, **__):
    check = KnobCheck(works=True, moves_latency=False, detail="[/b]")
    return Verification(
        model="[bold]",
        knobs={"tier": check, "top_k": None},
        cache_max_abs_diff=0.0,
        restore_max_abs_diff=0.0,
        stage_closure=0.0,
        other_share=0.0,
        mean_total_ms=10.0,
        hook_overhead=0.0,
        hook_overhead_interval=None,
        pairs=10,
        lacking={"top_k": "[/b] dense"},
        unsupported_modes=("[bold]manual",),
    )


@pytest.fixture
def quick(monkeypatch, tmp_path, digits, questions):
    """The heavy parts made light: one loaded model, no demo, no verification, an engine that answers at once."""

    def load(name, *, device="auto", dtype="auto", template_arguments=None, trust_remote_code=None, **more):
        usual = name == "digits" and device in ("auto", "cpu") and dtype in ("auto", "float32")
        if usual and not template_arguments and trust_remote_code is None:
            return digits
        asked = {"template_arguments": template_arguments, "trust_remote_code": trust_remote_code, **more}
        return load_model(name, device=device, dtype=dtype, **asked)

    for module in (paceline.cli.profile, paceline.cli.verify, paceline.runtime):
        monkeypatch.setattr(module, "load_model", load)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(paceline.checkout, "_git", lambda *_: None)  # a process each time
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is expected here
    monkeypatch.setattr(paceline.cli.demo, "run_demo", partial(demonstrated, questions))
    monkeypatch.setattr(paceline.cli.verify, "verify_model", verified)
    monkeypatch.setattr(EngineFlags, "opener", lambda *_, **__: instant_host)
    monkeypatch.setattr(learned_artifact, "SupervisedSettings", partial(SupervisedSettings, **SHORT))
    monkeypatch.setattr(main, "app_for", lambda arguments: command_of(arguments[0]))
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return below


@cache
def command_of(name):
    return get_command(main.app_for([name]))


def leaves(command, path):
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [leaf for name, each in command.commands.items() for leaf in leaves(each, (*path, name))]


LEAVES = [leaf for name in main.COMMANDS for leaf in leaves(command_of(name).commands[name], (name,))]
SMALLEST = {"--tiers": "low", "--top-k": "2", "--blocks": "8"}
USUAL = {  # what makes a command run, and quickly: its arguments, then its options; OUT is a new path each time
    "demo": ([], {"--out": "OUT"}),
    "doctor": ([], {"--seconds": "0"}),
    "profile": (
        ["digits"],
        {
            "--out": "OUT",
            "--samples": "1",
            "--datasets": "digits_read",
            "--warmup": "0",
            "--max-new-tokens": "1",
            **SMALLEST,
        },
    ),
    "verify": (["digits"], {"--out": "OUT", **SMALLEST}),
    "budgets": (["HOME/store"], {}),
    "report": (["HOME/store"], {"--output": "OUT"}),
    "table build": (["HOME/store"], {"--output-file": "OUT"}),
    "table show": (["HOME/table.json"], {}),
    "estimator train": (["HOME/samples.parquet"], {"--out": "OUT", "--num-epochs": "1", "--batch-size": "4096"}),
    "estimator eval": (["HOME/estimator", "HOME/samples.parquet"], {}),
    "estimator predict": (["HOME/estimator"], {}),
    "estimator feasible": (["HOME/estimator"], {"--budget": "20"}),
    "controller train": (["HOME/samples.parquet"], {"--estimator": "HOME/estimator", "--out": "OUT"}),
    "controller eval": (["HOME/controller", "HOME/samples.parquet"], {"--budgets": "20"}),
    "evaluate": (["HOME/samples.parquet"], {"--estimator": "HOME/estimator", "--budgets": "20"}),
    "tune replay": (["HOME/model"], {"--out": "OUT", "--trace": "HOME/trace.csv"}),
    "tune threshold sweep": (
        ["HOME/model"],
        {"--out": "OUT", "--trace": "HOME/trace.csv", "--repetitions": "1", "--max": "0"},
    ),
    "tune threshold select": ([], {"--root": "HOME/sweep"}),
    "tune aging": (["HOME/run"], {}),
    "tune step-time": (["HOME/run"], {}),
    "run": (
        ["digits"],
        {
            "--image": "HOME/picture.png",
            "--prompt": "Read the digits.",
            "--budget": "200",
            "--controller": "HOME/table.json",
            "--warmup": "0",
            "--max-new-tokens": "1",
        },
    ),
    "import": (["HOME/core-exp"], {"--out": "OUT"}),
    "export": (["HOME/store"], {"--out": "OUT"}),
    "merge": (["HOME/core-exp"], {"--out": "OUT"}),
}


def takes_a_number(option):
    annotation = str(getattr(getattr(option, "type_descriptor", None), "annotation", str))
    return "int" in annotation or "float" in annotation


def lines_of(path, command, home):
    """Yield what is being tried and a whole command line for every word in every place that takes one."""
    given, options = USUAL.get(" ".join(path), ([], {}))
    fresh = iter(range(10**6))

    def line(positional, named):
        words = [*path, *positional, *(part for pair in named.items() for part in pair)]
        return [word.replace("HOME", str(home)).replace("OUT", f"out{next(fresh)}") for word in words]

    yield "as usual", line(given, options)
    places = [each for each in command.params if each.param_type_name == "argument"]
    for position in range(len(places)):
        for word in WORDS:
            yield f"{places[position].name} {word!r}", line([*given[:position], word, *given[position + 1 :]], options)
    for option in command.params:
        if option.param_type_name == "option" and not option.is_flag:
            flag = option.opts[0]
            others = {name: value for name, value in options.items() if name not in option.opts}
            for word in NUMBERS if takes_a_number(option) else WORDS:
                yield f"{flag} {word!r}", [*line(given, others), flag, word]


def run(arguments):
    """Return exit code, standard output and standard error of one command line; streams are as strict as a terminal's."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors) for errors in ("strict", "replace"))
    with redirect_stdout(out), redirect_stderr(err):
        code = main.run(arguments)
    for stream in (out, err):
        stream.seek(0)
    return code, out.read(), err.read()


def complaint(arguments):
    """Return what is wrong with the outcome of a command line; None when nothing is."""
    try:
        code, out, err = run(arguments)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    sentences = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 0:
        return f"exit code 0 with {sentences}" if sentences else None
    if code != 2:
        return f"exit code {code}: {err}"
    if len(sentences) != 1 or err.splitlines()[-1] != sentences[0]:
        return f"not one sentence at the end: {err}"
    return f"refused after printing {out[:200]!r}: {err}" if out else None


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_no_word_ends_a_command_in_a_traceback(path, command, home, quick):
    if path[0] == "tune" and not (home / "sweep").exists():
        for words in (("replay", "run"), ("threshold", "sweep", "sweep")):
            made = ["tune", *words[:-1], str(home / "model"), "--trace", str(home / "trace.csv")]
            most = ["--max", "0"] if "sweep" in words else []
            assert run([*made, *most, "--out", str(home / words[-1])])[0] == 0
    wrong = []
    for label, arguments in lines_of(path, command, home):
        problem = complaint(arguments)
        if problem is not None:
            wrong.append(f"{label[:80]}: {problem}")
    assert not wrong, "\n".join(wrong)
