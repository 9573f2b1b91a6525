"""Results say where they come from; those that were written before they had to stand in
results_lacking.json, which may only become shorter."""

import json
import re
import sys
from pathlib import Path

import provenance
import pytest
from planted_faults import SURVIVORS

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PATHS = sorted(RESULTS.glob("*.json"))
ALSO = {  # other names that older results have
    "command": {"commands", "nothing_helps_command"},
    "device": {"machine", "devices", "processor_count", "cores"},
    "versions": {"python", "torch", "polars"},
    "commit": set(),
}
LACKING: dict[str, list[str]] = json.loads((Path(__file__).parent / "results_lacking.json").read_text())
MOST = 101  # entries of that file: never more


def holds(document, key, depth=3):
    """Is there this key in a document or in one of its parts?"""
    if not isinstance(document, dict):
        return False
    names = {key} | ALSO[key]
    return bool(names & set(document)) or (depth > 0 and any(holds(each, key, depth - 1) for each in document.values()))


@pytest.mark.parametrize("key", ALSO)
def test_results_say_where_they_come_from_but_those_that_are_named(key):
    lacking = {path.stem for path in PATHS if not holds(json.loads(path.read_text()), key)}
    assert lacking <= set(LACKING[key]), f"no {key}: write them with benchmarks/provenance.py"
    assert sum(map(len, LACKING.values())) <= MOST
    assert set(LACKING[key]) <= lacking, f"these have a {key} now: take them from the list"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_results_hold_no_place_and_no_build_of_one_machine(path):
    text = path.read_text()
    assert not re.search(r"glibc|\d+\.\d+\.\d+-[\w-]*(generic|aws|azure|gcp|fc)\b|/(home|root|tmp|work)/", text)


def test_a_run_says_its_command_commit_device_and_versions(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/x.py", "/data/of/mine/trace.csv", "--rounds", "3"])
    told = provenance.provenance("x.py", "pytest")
    assert set(told) == {"command", "commit", "device", "versions"}
    assert told["command"] == "python benchmarks/x.py trace.csv --rounds 3"
    assert set(told["device"]) == {"processor", "cores", "system"} and told["device"]["system"].count(" ") == 1
    assert {"python", "paceline", "numpy", "pytest"} <= set(told["versions"])
    assert provenance.origin("make x")["command"] == "make x"


def test_every_script_that_writes_results_says_where_they_come_from():
    tests = RESULTS.parents[1] / "tests"
    scripts = [*RESULTS.parent.glob("*.py"), *(tests / "faults").glob("*.py"), *(tests / "simtest").glob("*.py")]
    writing = re.compile(
        r"\b(RESULTS|results|out|unfinished|path)\.write_text\(json\.dumps\((document|found|held|table|{)"
    )
    found = {path.name: path.read_text() for path in scripts if writing.search(path.read_text())}
    assert len(found) > 40
    silent = [name for name, text in found.items() if not re.search(r"\b(provenance|_?origin)\(", text)]
    assert silent == ["demo_table.py"], (
        "they take no command, commit, device and versions from benchmarks/provenance.py"
    )


def test_faults_that_no_world_finds_have_the_reason_that_stands():
    rows = json.loads((RESULTS / "simtest_mutants.json").read_text())["rows"]
    assert {row["name"]: row["reason"] for row in rows if row["by"] is None} == SURVIVORS
