"""What a power cut may take: nothing that was said to be written. The order of syncs and renames is what is tested."""

import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from paceline.fit.artifact_directory import replaced_artifact
from paceline.profiles import ProfileStore, read_profile, write_core_exp
from paceline.profiles.atomic import keep_old, make_directory, new_directory, write_atomically
from paceline.records import ProfileSample, Provenance

Build = Callable[..., ProfileSample]
Run = Callable[..., Provenance]
Calls = list[tuple[str, Path]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Generator[Calls]:
    """Every fsync, by the path of its descriptor, and every rename, by its target, in their order."""
    recorded: Calls = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def recorded_fsync(descriptor: int) -> None:
        recorded.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    for name, call in (("replace", replace), ("rename", rename)):
        monkeypatch.setattr(
            os, name, lambda old, new, call=call: (call(old, new), recorded.append(("rename", Path(new))))[0]
        )
    yield recorded


def test_a_file_is_synced_before_its_rename_and_its_directory_after(tmp_path: Path, calls: Calls) -> None:
    write_atomically(tmp_path / "table.json", b"content")
    assert [kind for kind, _path in calls] == ["sync", "rename", "sync"]
    assert calls[0][1].parent == tmp_path and calls[1:] == [("rename", tmp_path / "table.json"), ("sync", tmp_path)]


def test_a_directory_is_synced_with_all_that_is_in_it_before_its_rename(tmp_path: Path, calls: Calls) -> None:
    with new_directory(tmp_path / "above" / "new") as directory:
        (directory / "inner").mkdir()
        (directory / "inner" / "file").write_bytes(b"content")
    renamed = calls.index(("rename", tmp_path / "above" / "new"))
    below = {path.relative_to(directory) for kind, path in calls[:renamed] if path.is_relative_to(directory)}
    assert below == {Path(), Path("inner"), Path("inner/file")}
    assert ("sync", tmp_path) in calls[:renamed], "the directory made above it"
    assert calls[renamed + 1 :] == [("sync", tmp_path / "above")]


def test_a_kept_artifact_and_its_successor_are_named_on_the_disk(tmp_path: Path, calls: Calls) -> None:
    for _ in range(2):
        with replaced_artifact(tmp_path / "artifact", "artifact.json") as (directory, kept):
            (directory / "artifact.json").write_text("{}")
    assert kept is not None and (kept / "artifact.json").read_text() == "{}"
    renamed = calls.index(("rename", kept))
    assert calls[renamed + 1] == ("sync", tmp_path), "what is kept is on the disk before anything takes its place"
    assert calls[-1] == ("sync", tmp_path) and len(calls) > renamed + 2, "and then what took it"


def test_an_old_file_that_is_kept_is_on_the_disk(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "table.json").write_text("old")
    kept = keep_old(tmp_path / "table.json")
    assert kept is not None and calls[1:] == [("rename", kept), ("sync", tmp_path)]
    assert calls[0][0] == "sync" and calls[0][1].parent == tmp_path


def test_every_directory_that_is_made_is_synced_into_the_one_above(tmp_path: Path, calls: Calls) -> None:
    assert make_directory(tmp_path / "a" / "b")
    assert calls == [("sync", tmp_path), ("sync", tmp_path / "a")]
    assert not make_directory(tmp_path / "a" / "b") and len(calls) == 2


def test_a_journal_is_named_on_the_disk_before_its_first_sample(
    tmp_path: Path, calls: Calls, synthetic_sample: Build, synthetic_run: Run
) -> None:
    store_path = tmp_path / "store"
    with ProfileStore.open_or_create(store_path, synthetic_run()) as store:
        assert calls[0] == ("sync", tmp_path), "the store's own directory"
        described = calls.index(("rename", store_path / "profile.json"))
        assert ("sync", store_path) in calls[described + 2 :], "after the description's own, the journal's"
        before = len(calls)
        store.append(synthetic_sample())
        assert calls[before:] == [("sync", store_path / "journal-rank0.jsonl")]
        store.append_sentinel({"prefill_ms": 1.0})
        assert calls[before + 1 :] == [("sync", store_path), ("sync", store_path / "sentinels-rank0.jsonl")]
        store.compact()
    assert calls[-2:] == [("rename", store_path / "samples.parquet"), ("sync", store_path)]
    write_core_exp(read_profile(store_path).samples, tmp_path / "exported")
    assert calls[-2:] == [("rename", tmp_path / "exported"), ("sync", tmp_path)]
