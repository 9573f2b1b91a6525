"""`kill -9` at any moment loses at most the sample in flight; the same command finishes the profile, nothing twice."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from paceline.profiles import read_profile

KILLS = 20
KNOBS = ("--datasets", "digits_count", "--samples", "18", "--tiers", "low", "--top-k", "2,4", "--blocks", "8,12")
EXPECTED = 18 * 4


def start(out):
    command = [
        sys.executable,
        "-m",
        "paceline.cli.main",
        "profile",
        "digits",
        *KNOBS,
        "--warmup",
        "0",
        "--out",
        str(out),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def lines(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("journal-rank*.jsonl"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_profile_killed_at_twenty_random_moments_holds_every_sample_exactly_once(tmp_path):
    out, moments = tmp_path / "profile", random.Random(3407)
    for _ in range(KILLS):
        before, wanted, process = lines(out), moments.randint(0, 3), start(out)
        while process.poll() is None and lines(out) < before + wanted:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert lines(out) >= before
    assert 0 < lines(out) < EXPECTED, "the kills did not fall into the run"
    finished = start(out)
    _out, err = finished.communicate()
    assert finished.returncode == 0, err
    samples = read_profile(out).samples
    keys = samples.select("dataset", "sample_id", "tier", "top_k", "num_active_blocks").rows()
    assert len(keys) == EXPECTED and set(Counter(keys).values()) == {1}
    journal = [json.loads(line) for path in out.glob("journal-rank*.jsonl") for line in path.read_text().splitlines()]
    assert len(journal) == EXPECTED
    before = lines(out)
    again = start(out)
    assert again.wait() == 0 and lines(out) == before, "a finished profile measures nothing again"
    again.stderr.close()
