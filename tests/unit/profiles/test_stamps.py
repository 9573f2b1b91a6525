"""A compaction stands for its journals only while they are, byte for byte, those that were compacted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.errors import ProfileConflictError, ProfileDataError
from paceline.profiles import ProfileStore, merge_profiles, read_profile, stamps
from paceline.profiles.native import COMPACTION
from paceline.profiles.parquet import read_note, write_parquet
from paceline.records import ProfileSample, Provenance

Build = Callable[..., ProfileSample]
Run = Callable[..., Provenance]


@pytest.fixture
def store(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> Path:
    with ProfileStore.open_or_create(tmp_path / "store", synthetic_run()) as opened:
        for name in "abc":
            opened.append(synthetic_sample(sample_id=name))
        opened.compact()
    return tmp_path / "store"


def settle(store: Path, monkeypatch: pytest.MonkeyPatch, synthetic_run: Run) -> None:
    """Compact again as if the journals had been left alone for long."""
    monkeypatch.setattr(stamps, "SURELY_LATER_NS", -1)
    with ProfileStore.open_or_create(store, synthetic_run()) as opened:
        opened.compact()
    monkeypatch.undo()


def put_in(journal: Path, old: bytes, new: bytes, *, keep_times: bool = False) -> None:
    """Change bytes of a journal in place, its length kept."""
    assert len(old) == len(new)
    status = journal.stat()
    content = journal.read_bytes()
    assert old in content
    with journal.open("r+b") as file:
        file.write(content.replace(old, new))
    if keep_times:
        os.utime(journal, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("keep_times", [False, True])
def test_an_edit_of_equal_length_is_read(
    store: Path, monkeypatch: pytest.MonkeyPatch, synthetic_run: Run, settled: bool, keep_times: bool
) -> None:
    if settled:
        settle(store, monkeypatch, synthetic_run)
    put_in(store / "journal-rank0.jsonl", b'"T_total":133.0', b'"T_total":144.0', keep_times=keep_times)
    assert read_profile(store).samples["T_total"].to_list() == [144.0] * 3


def test_damage_of_equal_length_is_named(store: Path) -> None:
    put_in(store / "journal-rank0.jsonl", b'"T_total":133.0', b'"T_total":1x3.0')
    with pytest.raises(ProfileDataError, match="line 1: is not JSON"):
        read_profile(store)


def read_without_journals(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with monkeypatch.context() as patched:
        patched.setattr("paceline.profiles.native.read_journal", None)  # calling it would end in a TypeError
        return read_profile(store).samples["sample_id"].to_list()


def test_a_settled_journal_is_neither_read_nor_hashed(
    store: Path, monkeypatch: pytest.MonkeyPatch, synthetic_run: Run
) -> None:
    settle(store, monkeypatch, synthetic_run)
    with monkeypatch.context() as patched:
        patched.setattr("hashlib.file_digest", None)
        assert read_without_journals(store, monkeypatch) == ["a", "b", "c"]


def test_a_state_taken_at_once_after_a_write_is_not_relied_on(store: Path) -> None:
    note = read_note(store / COMPACTION)
    assert note is not None and [stamp.state for stamp in note.stamps.values()] == [None]


def test_a_state_that_moved_while_reading_is_not_relied_on(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "SURELY_LATER_NS", -1)
    journal = store / "journal-rank0.jsonl"
    before = journal.stat()
    assert stamps.settled_state(before, journal.stat()) is not None
    journal.open("ab").close()
    journal.write_bytes(journal.read_bytes() + b"\n")
    assert stamps.settled_state(before, journal.stat()) is None


@pytest.mark.parametrize("clock_ns", [0, 1])
def test_a_clock_set_back_makes_a_state_unsettled(store: Path, monkeypatch: pytest.MonkeyPatch, clock_ns: int) -> None:
    monkeypatch.setattr("time.time_ns", lambda: clock_ns)
    status = (store / "journal-rank0.jsonl").stat()
    assert stamps.settled_state(status, status) is None


def test_a_copied_store_is_hashed_and_its_compaction_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthetic_run: Run
) -> None:
    settle(store, monkeypatch, synthetic_run)
    copy = shutil.copytree(store, tmp_path / "copy")
    assert read_without_journals(copy, monkeypatch) == ["a", "b", "c"]


def test_the_compaction_of_another_store_of_equal_sizes_is_not_read(
    store: Path, tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    with ProfileStore.open_or_create(tmp_path / "other", synthetic_run()) as other:
        for name in "xyz":
            other.append(synthetic_sample(sample_id=name))
        other.compact()
    shutil.copy(tmp_path / "other" / COMPACTION, store / COMPACTION)
    assert read_profile(store).samples["sample_id"].to_list() == ["a", "b", "c"]


def test_a_compaction_without_stamps_gives_way_to_the_journals(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = read_note(store / COMPACTION)
    assert note is not None
    older = type(note)(description=note.description, journal_bytes=note.journal_bytes)
    write_parquet(read_profile(store).samples.head(1), store / COMPACTION, older)
    assert read_profile(store).samples.height == 3


def test_a_damaged_page_of_the_compaction_gives_way_to_the_journals(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray((store / COMPACTION).read_bytes())
    content[4:400] = bytes(396)
    (store / COMPACTION).write_bytes(content)
    assert read_profile(store).samples["sample_id"].to_list() == ["a", "b", "c"]
    assert "the journals are read instead" in caplog.text


def test_a_merged_store_stands_for_its_journal(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_profiles([store], tmp_path / "merged")
    assert read_without_journals(tmp_path / "merged", monkeypatch) == ["a", "b", "c"]
    put_in(tmp_path / "merged" / "journal-rank0.jsonl", b'"T_total":133.0', b'"T_total":144.0')
    assert read_profile(tmp_path / "merged").samples["T_total"].to_list() == [144.0] * 3


@pytest.mark.parametrize("left", ["journal-rank0.jsonl", COMPACTION])
def test_samples_without_a_description_take_no_run_in(store: Path, synthetic_run: Run, left: str) -> None:
    for path in store.iterdir():
        if path.name != left:
            path.unlink()
    with pytest.raises(ProfileDataError, match=rf"holds {left} but no profile\.json"):
        ProfileStore.open_or_create(store, synthetic_run(model="another"))
    with pytest.raises(ProfileDataError, match=rf"holds {left} but no profile\.json"):
        read_profile(store)


def test_an_imported_store_takes_no_run_in(store: Path, tmp_path: Path, synthetic_run: Run) -> None:
    shutil.copy(store / COMPACTION, tmp_path / "plain.parquet")
    merge_profiles([tmp_path / "plain.parquet"], tmp_path / "again")
    with pytest.raises(ProfileConflictError, match="whose model is"):
        ProfileStore.open_or_create(tmp_path / "again", synthetic_run(model="another"))
