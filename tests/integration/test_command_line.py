"""The command line as a user meets it: wrong inputs are a sentence and exit code 2, never a traceback."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from transformers import LlamaConfig

from paceline.cli.main import COMMANDS, app_for
from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.records import KnobConfig

RANKING = [7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1]


@pytest.fixture
def table_path(tmp_path):
    entry = TableEntry(
        config=KnobConfig(tier="low", top_k=2, num_active_blocks=8),
        accuracy=0.5,
        latency_ms=10.0,
        num_samples=9,
        accuracy_std=0.1,
        latency_std_ms=1.0,
    )
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("digits_read",),
        num_profiling_results=9,
        provenance=({"model": "digits", "block_ranking": RANKING},),
    )
    path = tmp_path / "table.json"
    path.write_text(json.dumps(LookupTable(entries=[entry], metadata=metadata).document()))
    return path


@pytest.fixture
def paceline(command):
    return command


def said(text):
    return " ".join(text.split())


def refused(outcome, *words):
    code, out, err = outcome
    assert code == 2, (code, out, err)
    assert out == "" and "Traceback" not in err
    for word in words:
        assert word in said(err), err


def run_arguments(table_path, picture, **changes):
    given = {"--table": table_path, "--image": picture, "--prompt": "Read the digits.", "--budget": "200", **changes}
    return ["run", "digits", *(part for pair in given.items() for part in pair)]


@pytest.mark.parametrize("budget", ["0", "-3", "nan"])
def test_run_refuses_a_budget_that_is_not_above_0(paceline, table_path, picture_path, budget):
    refused(paceline(*run_arguments(table_path, picture_path, **{"--budget": budget})), "latency budget", "above 0")


def test_run_refuses_a_missing_picture(paceline, table_path, tmp_path):
    refused(paceline(*run_arguments(table_path, tmp_path / "none.png")), "there is no picture at", "expected a PNG")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 1), ("1x1 pixels", "scale it up")),
        ((10_000, 10_000), ("10000x10000 pixels", "scale it down first")),
        ((20_000, 20_000), ("400000000 pixels", "scale it down first")),
    ],
)
def test_run_refuses_pictures_that_no_tier_carries(paceline, table_path, tmp_path, size, words):
    path = tmp_path / "picture.png"
    Image.new("1", size).save(path)
    refused(paceline(*run_arguments(table_path, path)), *words)


def test_run_refuses_a_missing_or_broken_table(paceline, picture_path, tmp_path):
    refused(paceline(*run_arguments(tmp_path / "none.json", picture_path)), "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"config_table": ')
    refused(paceline(*run_arguments(broken, picture_path)), "broken.json")


def test_profile_refuses_an_unknown_tier_and_names_the_close_one(paceline, tmp_path):
    out = tmp_path / "profile"
    refused(paceline("profile", "digits", "--tiers", "hgih,low", "--out", out), "tier 'hgih' is unknown", "mean 'high'")
    assert not out.exists()


def test_profile_refuses_values_beyond_the_model(paceline, tmp_path):
    out = tmp_path / "profile"
    refused(paceline("profile", "digits", "--top-k", "4,99", "--out", out), "top_k is 99", "1 to 16")
    refused(paceline("profile", "digits", "--blocks", "x", "--out", out), "--blocks is 'x'")
    refused(paceline("profile", "digits", "--samples", "0", "--out", out), "samples is 0")
    refused(paceline("profile", "digits", "--datasets", "digits_reed", "--out", out), "mean 'digits_read'")
    assert not out.exists()


def test_profile_refuses_an_output_that_cannot_be_written(paceline, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    refused(paceline("profile", "digits", "--samples", "1", "--out", file), "cannot write to", "choose another path")
    refused(paceline("profile", "digits", "--samples", "1", "--out", "/proc/nowhere"), "cannot write to /proc/nowhere")
    refused(paceline("demo", "--out", file), "cannot write to")
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]


def test_profile_and_verify_refuse_a_model_without_a_vision_tower(paceline, tmp_path):
    folder, out = tmp_path / "llama", tmp_path / "profile"
    LlamaConfig().save_pretrained(folder)
    refused(paceline("profile", folder, "--out", out), "no vision tower", "expected a vision-language model")
    refused(paceline("verify", folder), "no vision tower")
    assert not out.exists()


def test_run_answers_and_its_json_is_one_document(paceline, table_path, picture_path):
    code, out, err = paceline(*run_arguments(table_path, picture_path), "--json", "--warmup", "0")
    assert code == 0, err
    document = json.loads(out)
    assert document["config"] == {"tier": "low", "top_k": 2, "num_active_blocks": 8}
    assert document["predicted_ms"] == 10.0 and document["measured_ms"] == document["prefill_ms"] > 0
    code, out, _err = paceline(*run_arguments(table_path, picture_path), "--per-step", "--warmup", "0")
    assert code == 0 and "tier low, top_k 2, 8 blocks" in said(out)


def test_run_with_strict_refuses_a_budget_that_nothing_keeps(paceline, table_path, picture_path):
    arguments = run_arguments(table_path, picture_path, **{"--budget": "3"})
    refused(paceline(*arguments, "--strict"), "the fastest takes 10.0 ms")


def test_unknown_commands_and_flags_are_one_sentence_each(paceline):
    for words, told in {
        ("profil",): "No such command 'profil'",
        ("run", "--colour"): "No such option: --colour",
        ("run", "digits"): "Missing option '--prompt'",
        ("demo", "--samples", "[/b]"): "Invalid value for '--samples': ",
        ("table", "[/b]"): "No such command '[/b]'",
    }.items():
        code, out, err = paceline(*words)
        assert code == 2 and out == "" and err.startswith(f"error: {told}") and err.count("\n") == 1, err
        assert "--help` says what it takes" in err


def test_without_arguments_groups_show_their_help(paceline):
    for words in ((), ("table",), ("tune", "threshold")):
        code, out, err = paceline(*words)
        assert code == 2 and "Usage: paceline" in out + err and "error:" not in err


def test_no_memory_left_is_one_sentence(paceline, table_path, monkeypatch):
    def load(_path):
        raise MemoryError

    monkeypatch.setattr(LookupTable, "load", load)
    code, out, err = paceline("table", "show", table_path)
    assert code == 2 and not out and "not enough memory" in said(err) and "Traceback" not in err


@pytest.mark.filterwarnings("always::paceline.errors.PacelineWarning")
def test_a_warning_is_one_readable_line(paceline, table_path, picture_path):
    arguments = run_arguments(table_path, picture_path, **{"--budget": "3"})
    code, _out, err = paceline(*arguments, "--warmup", "0")
    lines = [line for line in err.splitlines() if "warning" in line.lower()]
    assert code == 0 and lines and all(line.startswith("warning: ") for line in lines), err
    assert ".py:" not in err and "PacelineWarning" not in err


def test_names_with_brackets_are_printed_not_read(paceline, table_path, picture_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(paceline("profile", "[bold]", "--out", "[/b]"), "cannot load the model '[bold]'")
    refused(paceline("profile", "digits", "--datasets", "[/b]", "--out", "x"), "dataset '[/b]' is unknown")
    refused(paceline("table", "show", "[/b]"), "[/b] cannot be read")
    refused(paceline(*run_arguments(table_path, "[/b].png")), "there is no picture at [/b].png")
    flags = ("--samples", "1", "--tiers", "low", "--top-k", "2", "--blocks", "8", "--warmup", "0")
    code, out, err = paceline("profile", "digits", "--out", "out[/b]", *flags)
    assert code == 0 and "Profile in out[/b]" in out and "paceline budgets out[/b]" in err
    code, _out, err = paceline("report", "out[/b]", "--output", "out[/b]x.html")
    assert code == 0 and "wrote out[/b]x.html" in err
    code, _out, err = paceline("budgets", "out[/b]", "-o", "[red]x.json")
    assert code == 0 and "wrote [red]x.json" in err


def test_help_lists_every_command_with_its_own_first_line(paceline):
    code, out, _err = paceline("--help")
    assert code == 0
    for name, (module, line) in COMMANDS.items():
        assert name in out and module
        app = app_for([name])
        commands = {command.name: command for command in app.registered_commands}
        own = commands[name].callback.__doc__ if name in commands else app.registered_groups[0].typer_instance.info.help
        assert own.strip().split("\n")[0] == line


FLAGS = {
    "profile": (
        "--out --datasets --samples --split --prompt-template --scorer --tiers --top-k --blocks --strategy --num-configs "
        "--seed --max-new-tokens --warmup --sentinel-every --per-step --device --dtype --revision "
        "--device-map --offload-folder --template-argument --certify --minutes --questions --batch-size --json"
    ),
    "models": "--markdown --json",
    "serve": (
        "--controller --host --port --alpha --certified-only --policy --served-model-name --api-key-file --allow-urls "
        "--grace-seconds --log-prompts --otlp-traces-endpoint --device --dtype --revision --template-argument --trust-remote-code"
    ),
    "verify": (
        "--tiers --top-k --blocks --pairs --out -o --under-load --device --dtype --revision --device-map --offload-folder "
        "--template-argument --json"
    ),
    "run": (
        "--image --system --prompt --budget --table --strict --certified-only --warmup --max-new-tokens --per-step "
        "--temperature --top-p --seed --device --dtype --revision --device-map --offload-folder --template-argument --json"
    ),
    "evaluate": "--estimator --budgets --alpha --latency --seed --datasets --output -o --report --skip-bad --json",
    "demo": "--out --samples --requests --json",
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_what_they_were(name, paceline):
    code, out, _err = paceline(name, "--help")
    assert code == 0
    for flag in FLAGS[name].split():
        assert flag in out


def test_importing_paceline_loads_no_torch():
    check = "import sys, paceline; "
    check += "assert not {'torch', 'polars', 'sklearn', 'transformers'} & set(sys.modules); paceline.LookupTable"
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True)
    table = "import sys; from paceline.cli.main import app_for; app_for(['table']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", table], check=True)


def test_the_version_is_that_of_the_project(paceline):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert paceline("--version") == (0, f"paceline {project['version']}\n", "")


def test_the_version_is_asked_of_the_whole_line_alone(paceline):
    refused(paceline("models", "--version"), "No such option", "--version")
