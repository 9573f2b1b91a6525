import json
import os
import subprocess
import sys

import pytest

from paceline.cli import main


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


@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_demos_threads_sleep_while_they_wait_unless_told_otherwise(given, used):
    code = (
        "import os, sys; sys.argv = ['paceline', 'demo', '--help']\nfrom paceline.cli import main\n"
        "main.run = lambda words: print(words, os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\nmain.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("]")[1].split() == [used, "False"]
