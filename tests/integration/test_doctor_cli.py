import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from paceline.cli import main
from paceline.runtime import compute_as_measured


@pytest.mark.filterwarnings("ignore")
def test_the_doctor_prints_one_document(capsys):
    assert main.run(["doctor", "--seconds", "0.2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["works"] and document["noise"]["runs"] >= 20
    assert {each["extra"] for each in document["packages"]} >= {None, "data", "report", "simulate", "vllm"}
    assert document["noise"]["verdict"] in ("quiet", "uneven", "noisy")
    assert document["threads"]["cores"] >= 1 and document["versions"]["python"]


def test_the_doctor_prints_for_people_too(capsys):
    assert main.run(["doctor", "--seconds", "0"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out and "threads" in out and "noise" not in out.split("Packages")[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_lines_for_the_shell(shell, capsys):
    assert main.run(["completion", shell]) == 0
    assert "_PACELINE_COMPLETE" in capsys.readouterr().out


def test_a_shell_that_is_not_known_is_named(capsys):
    assert main.run(["completion", "bsh"]) == 2
    assert "did you mean 'bash'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [
        ("paceline ta", 1, ["table"]),
        ("paceline table ", 2, ["build", "show"]),
        ("paceline budgets --lat", 2, ["--latency"]),
    ],
)
def test_a_line_is_completed_without_loading_other_commands(line, word, expected):
    asked = {"_PACELINE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(word)}
    code = "import sys; from paceline.cli.main import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize(
    ("given", "used"),
    [({}, ["1", "PASSIVE"]), ({"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "4"}, ["4", "ACTIVE"])],
)
def test_the_demo_computes_with_one_thread_unless_told_otherwise(given, used):
    code = (
        "import os, sys; sys.argv = ['paceline', 'demo', '--help']\nfrom paceline.cli import main\n"
        "said = lambda: (os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
        "main.run = lambda words: print(*said())\nmain.main()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*used, "False"]


@pytest.mark.parametrize(
    ("told", "already", "expected"), [([3], None, 3), ([3], "2", None), ([3, 4], None, None), ([], None, None)]
)
def test_a_question_is_answered_with_the_threads_that_its_controller_was_measured_with(
    told, already, expected, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if already:
        monkeypatch.setenv("OMP_NUM_THREADS", already)
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    controller = SimpleNamespace(provenance=tuple({"settings": {"torch_threads": each}} for each in told))
    assert compute_as_measured(controller) == expected
    assert set_to == ([] if expected is None else [expected])
