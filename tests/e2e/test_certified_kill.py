"""`kill -9` of a certified run at any moment: parts and plan stay, nothing is measured twice, the certificate is the same."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from paceline.control import LookupTable
from paceline.profiles import read_profile

COMMAND = (
    "profile digits --datasets digits_exist --tiers low --top-k 8 --blocks 10,16 --max-new-tokens 6 --warmup 0 "
    "--certify 0.3,0.3 --questions 64 --batch-size 11"
)
PARTS, PLAN, ANSWERS, SAMPLES = "certify-parts.json", "certify-plan.json", "answers-rank0.jsonl", "journal-rank0.jsonl"
# as the parts are put in place; in the choosing part; as the plan is; while certifying answers are given, and requests timed
MOMENTS = [(PARTS, 1), (SAMPLES, 9), (PLAN, 1), (ANSWERS, 13), (ANSWERS, 14), (SAMPLES, 5)]
NOTHING_FASTER = "certificate is 'without a configuration'"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    for _ in range(3):
        folder = tmp_path_factory.mktemp("killed")
        script = [sys.executable, str(Path(__file__).with_name("killed_at.py")), json.dumps(MOMENTS)]
        done = subprocess.run(
            [*script, str(folder / "whole"), str(folder / "profile"), *COMMAND.split()],
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        if NOTHING_FASTER not in done.stderr:  # beside other work ten blocks may seem to take as long as sixteen
            break
    told = json.loads(done.stdout)
    assert told["codes"] == [-9] * len(MOMENTS) + [0, 0], done.stderr[-3000:]
    return folder, told["files"]


def whole_lines(files, name):
    text = files.get(name, "")
    return text[: text.rfind("\n") + 1].splitlines()


@pytest.mark.slow
def test_parts_and_plan_are_written_once(killed):
    _folder, files = killed
    assert PARTS not in files[0] and PLAN not in files[2], "each was killed as it was put in place"
    for name, first in ((PARTS, 1), (PLAN, 3)):
        assert len({each[name] for each in files[first:]}) == 1


def test_what_was_measured_stays_and_nothing_is_measured_twice(killed):
    folder, files = killed
    for name, key in ((SAMPLES, ("sample_id", "num_active_blocks")), (ANSWERS, ("sample_id", "config"))):
        for before, after in pairwise(files):
            held = whole_lines(before, name)
            assert whole_lines(after, name)[: len(held)] == held
        measured = [tuple(json.loads(line)[field] for field in key) for line in whole_lines(files[-1], name)]
        assert measured and len(set(measured)) == len(measured)
    assert read_profile(folder / "profile").samples.height == read_profile(folder / "whole").samples.height


def decided(folder):
    """Return what answers decide; milliseconds are those of each run's own moments."""
    table = LookupTable.load(folder / "table.json").certificate
    asked = [(each.config, each.asked, each.broken, each.mended, each.requests) for each in table.claims]
    return asked, table.epsilon, table.delta, table.rule, table.mix, table.seed, table.choosing_questions


def sequence(folder):
    plan = json.loads((folder / PLAN).read_text())
    tests = [(each["config"], each["rule"], each["questions"]) for each in plan["sequence"]]
    return tests, plan["epsilon"], plan["delta"], plan["requests"], plan["parts_sha256"], plan["answers_sha256"]


def test_the_plan_and_the_certificate_are_those_of_a_run_that_nobody_killed(killed):
    folder, _files = killed
    assert (folder / "profile" / PARTS).read_text() == (folder / "whole" / PARTS).read_text()
    assert sequence(folder / "profile") == sequence(folder / "whole")
    assert decided(folder / "profile") == decided(folder / "whole")
