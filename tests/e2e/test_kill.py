"""`kill -9` at any moment loses at most the sample in flight; the same command finishes the profile, nothing twice."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from paceline.profiles import read_profile

KILLS, SEED = 20, 3407
COMMAND = "profile digits --datasets digits_count --samples 18 --tiers low --top-k 2,4 --blocks 8,12 --warmup 0"
EXPECTED = 18 * 4


@pytest.mark.slow
def test_a_profile_killed_at_twenty_random_moments_holds_every_sample_exactly_once(tmp_path):
    out = tmp_path / "profile"
    script = [sys.executable, str(Path(__file__).with_name("killed_anytime.py")), str(KILLS), str(SEED), str(out)]
    done = subprocess.run([*script, *COMMAND.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["codes"] == [-9] * KILLS + [0, 0], done.stderr[-3000:]
    lines = told["lines"]
    assert all(before <= after for before, after in pairwise(lines))
    assert 0 < lines[KILLS - 1] < EXPECTED, "the kills did not fall into the run"
    assert lines[KILLS] == lines[KILLS + 1] == EXPECTED, "a finished profile measures nothing again"
    samples = read_profile(out).samples
    keys = samples.select("dataset", "sample_id", "tier", "top_k", "num_active_blocks").rows()
    assert len(keys) == EXPECTED and set(Counter(keys).values()) == {1}
    journal = [json.loads(line) for path in out.glob("journal-rank*.jsonl") for line in path.read_text().splitlines()]
    assert len(journal) == EXPECTED
