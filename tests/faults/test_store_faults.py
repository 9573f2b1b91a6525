"""A share of what `make faults` does at length: kills, failing calls, allocations, power cuts and flipped bits."""

import json
import os
import subprocess
import sys
from errno import EIO, ENOSPC
from pathlib import Path

import pytest
from damaged import Damage
from faulty_calls import Calls, failing_at
from flipped_bits import DIGESTED, flips
from nth_allocations import through
from nth_calls import MODES, one
from nth_reads import every as failing_reads
from power_cuts import cuts
from store_work import RUN, sample

from paceline.errors import OutputPathError
from paceline.profiles import ProfileStore, atomic, read_profile

HERE = Path(__file__).parent
# calls that left a traceback, a line that could not be read, or a directory that could not be written again
FOUND = [
    ("profile", "truncate", 1, EIO, "once"),
    ("profile", "lock", 1, EIO, "once"),
    ("profile", "write", 3, ENOSPC, "once"),
    ("profile", "write", 2, ENOSPC, "from there on"),
    ("profile", "rename", 2, ENOSPC, "once"),
    ("profile", "open", 31, EIO, "once"),
]
OTHERS = [
    ("profile", "write", 9, ENOSPC, "after half a write"),
    ("profile", "fsync", 8, EIO, "from there on"),
    ("profile", "open", 20, EIO, "from there on"),
    ("profile", "read", 1, EIO, "from there on"),
    ("table", "rename", 2, EIO, "once"),
    ("artifact", "rename", 2, EIO, "once"),
    ("estimator", "rename", 3, EIO, "once"),
    ("estimator", "write", 2, ENOSPC, "after half a write"),
    ("merge", "read", 2, EIO, "once"),
]


@pytest.mark.parametrize(("kind", "call", "number", "code", "mode"), [*FOUND, *OTHERS])
@pytest.mark.filterwarnings("ignore::paceline.errors.PacelineWarning")
def test_a_failing_call_is_a_sentence_and_costs_nothing_that_was_told(kind, call, number, code, mode) -> None:
    met, problem = one(kind, failing_at(number, code, kind=call, **MODES[mode]))
    assert met and problem is None


def test_kills_at_random_moments_lose_nothing_that_was_told() -> None:
    # forks need a process in which no thread was ever started
    command = [sys.executable, str(HERE / "kills.py"), "--kills", "32", "--seed", "3"]
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | paths)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sum(json.loads(ended.stdout)["kills"].values()) == 32


def test_a_failing_allocation_of_a_reader_leaves_nothing_behind(tmp_path) -> None:
    Damage(tmp_path)
    found = through("trace lines", tmp_path, most=24)
    assert found["complaints"] == [] and sum(found["ended"].values()) > 16
    assert found["ended"]["no memory"] > 12


@pytest.mark.parametrize("name", ["sentinels", "older core-exp", "answers", "journal", "certify-parts", "step log"])
def test_a_file_that_cannot_be_read_is_a_sentence_with_its_name(tmp_path, name) -> None:
    found = failing_reads(tmp_path, (name,))
    assert found["complaints"] == [] and found["ended"]["a sentence"] > 4


@pytest.mark.parametrize("name", DIGESTED)
def test_a_flipped_bit_of_what_holds_a_digest_is_an_error_with_its_name(tmp_path, name) -> None:
    ended, complaints = flips(name, tmp_path, step=37)
    assert complaints == [] and set(ended) == {"an error with the file's name"}


def test_power_cuts_lose_nothing_that_was_told() -> None:
    found = cuts(40, seed=1)
    assert found["complaints"] == [] and sum(found["cuts"].values()) == 40


@pytest.mark.parametrize("kind", ["artifact", "table"])
def test_a_store_that_syncs_nothing_is_found_out_by_power_cuts(kind, monkeypatch) -> None:
    monkeypatch.setattr(atomic, "_sync", lambda path: None)
    assert cuts(20, seed=1, kinds=(kind,))["complaints"]


def test_a_journal_whose_last_line_cannot_be_taken_back_takes_no_more(tmp_path) -> None:
    store = ProfileStore.open_or_create(tmp_path / "store", RUN)
    store.append(sample("whole"))
    with Calls(tmp_path, failing_at(1, ENOSPC, short=True, sticky=True)).watched(), pytest.raises(OutputPathError):
        store.append(sample("torn"))
    with pytest.raises(OutputPathError, match="open it anew"):
        store.append(sample("behind it"))
    store.close()
    with ProfileStore.open_or_create(tmp_path / "store", RUN) as again:
        assert again.torn_bytes > 0
        again.append(sample("behind it"))
    assert read_profile(tmp_path / "store").samples["sample_id"].to_list() == ["whole", "behind it"]
