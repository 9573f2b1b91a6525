import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SAYS = {"knobs.py": "restored bit for bit: True", "within_budget.py": "budget"}


@pytest.fixture(scope="module")
def running():
    """Every example, begun at once: they wait for each other's imports at most."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return {path: subprocess.Popen([sys.executable, str(path)], **pipes) for path in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_stays_short(example, running):
    assert len(example.read_text().splitlines()) < 60
    out, err = running[example].communicate()
    assert running[example].returncode == 0, err
    assert SAYS[example.name] in out
