"""Whoever follows a remedy that an error of the store names ends with a store that can be read."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.errors import OutputPathError, PacelineError, ProfileConflictError, ProfileDataError
from paceline.profiles import ProfileStore, description, journal, merge_profiles, native, parquet, read_profile
from paceline.profiles.native import COMPACTION
from paceline.records import ProfileSample, Provenance

Build = Callable[..., ProfileSample]
Run = Callable[..., Provenance]
Step = Callable[[Path], object]
JOURNAL = "journal-rank0.jsonl"


def lines_of(store: Path) -> list[bytes]:
    return (store / JOURNAL).read_bytes().splitlines(keepends=True)


def write_lines(store: Path, lines: list[bytes]) -> None:
    (store / JOURNAL).write_bytes(b"".join(lines))


def change_second(old: bytes, new: bytes) -> Step:
    def change(store: Path) -> None:
        lines = lines_of(store)
        assert old in lines[1]
        write_lines(store, [lines[0], lines[1].replace(old, new), *lines[2:]])

    return change


def delete_second(store: Path) -> None:
    lines = lines_of(store)
    write_lines(store, [lines[0], *lines[2:]])


def delete_compaction(store: Path) -> None:
    (store / COMPACTION).unlink(missing_ok=True)


def repeat_second(store: Path) -> None:
    lines = lines_of(store)
    write_lines(store, [*lines, lines[1]])


def delete_last(store: Path) -> None:
    write_lines(store, lines_of(store)[:-1])


def skip_bad(store: Path) -> None:
    assert read_profile(store, skip_bad=True).samples.height == 2


def skip_repeated(store: Path) -> None:
    assert read_profile(store, skip_bad=True).samples.height == 3


def damage_compaction(store: Path) -> None:
    (store / COMPACTION).write_bytes(b"PAR1 damaged")


def without_journal(store: Path) -> None:
    (store / JOURNAL).unlink()


def from_copy(name: str) -> Step:
    return lambda store: shutil.copy(store.with_name("copy") / name, store / name)


def merged_compaction(store: Path) -> None:
    merge_profiles([store / COMPACTION], store.with_name("new"))
    shutil.rmtree(store)
    store.with_name("new").rename(store)


def damage_description(store: Path) -> None:
    (store / "profile.json").write_text("{")


def damage_ranking(store: Path) -> None:
    path = store / "profile.json"
    document = json.loads(path.read_text())
    document["provenance"][0]["block_ranking"] = [3, 3, 2]
    path.write_text(json.dumps(document))


def delete_description(store: Path) -> None:
    (store / "profile.json").unlink()


def newer_description(store: Path) -> None:
    path = store / "profile.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


def start_anew(store: Path) -> None:
    shutil.rmtree(store)
    shutil.copytree(store.with_name("copy"), store)  # stands for a new run into a new directory


def read_by_its_own_name(store: Path) -> None:
    read_profile(store / COMPACTION)


WRONG_FIELD = change_second(b'"T_total":133.0', b'"T_total":"no!"')
MENDED_FIELD = change_second(b'"T_total":"no!"', b'"T_total":133.0')
SHORTER_FIELD = change_second(b'"T_total":"no!"', b'"T_total":133')
# the damage, how the store is read then, words of the error, and every remedy that it names
WALKS: list[tuple[str, list[Step], Step, str, list[list[Step]]]] = [
    (
        "a field",
        [WRONG_FIELD],
        read_profile,
        journal.LINE_MENDING,
        [[MENDED_FIELD], [SHORTER_FIELD, delete_compaction], [delete_second, delete_compaction], [skip_bad]],
    ),
    (
        "not JSON",
        [change_second(b'"accuracy"', b"xaccuracyx")],
        read_profile,
        journal.LINE_MENDING,
        [[change_second(b"xaccuracyx", b'"accuracy"')], [delete_second, delete_compaction], [skip_bad]],
    ),
    (
        "a deleted line alone",
        [WRONG_FIELD, delete_second],
        read_profile,
        "delete samples.parquet where lines were deleted on purpose",
        [[from_copy(JOURNAL)], [merged_compaction], [delete_compaction]],
    ),
    (
        "a lost journal",
        [without_journal],
        read_profile,
        "restore the journal, or keep what was compacted with `paceline merge",
        [[from_copy(JOURNAL)], [merged_compaction]],
    ),
    (
        "a repeated sample",
        [repeat_second],
        read_profile,
        "delete the others, or use --skip-bad",
        [[delete_last], [delete_second, delete_compaction], [skip_repeated]],
    ),
    (
        "a damaged compaction by its own name",
        [damage_compaction],
        read_by_its_own_name,
        parquet.MENDING,
        [[delete_compaction], [from_copy(COMPACTION)]],
    ),
    (
        "a damaged description",
        [damage_description],
        read_profile,
        "restore the file from a copy, or profile into a new directory",
        [[from_copy("profile.json")], [start_anew]],
    ),
    (
        "a ranking with a block twice",
        [damage_ranking],
        read_profile,
        "restore the file from a copy, or profile into a new directory",
        [[from_copy("profile.json")], [start_anew]],
    ),
    (
        "a lost description",
        [delete_description],
        read_profile,
        "restore profile.json from a copy, or profile into another directory",
        [[from_copy("profile.json")], [start_anew]],
    ),
    (
        "a description of the future",
        [newer_description],
        read_profile,
        "read it with the newer version of paceline that wrote it",
        [],  # that version does not exist
    ),
]


@pytest.fixture
def store(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> Path:
    with ProfileStore.open_or_create(tmp_path / "store", synthetic_run()) as opened:
        for name in "abc":
            opened.append(synthetic_sample(sample_id=name))
        opened.compact()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("damage", "read", "words", "remedy"),
    [
        pytest.param(damage, read, words, remedy, id=f"{name}-{number}")
        for name, damage, read, words, remedies in WALKS
        for number, remedy in enumerate(remedies or [None])
    ],
)
def test_every_remedy_leads_to_a_store_that_is_read(
    store: Path, synthetic_run: Run, damage: list[Step], read: Step, words: str, remedy: list[Step] | None
) -> None:
    for step in damage:
        step(store)
    with pytest.raises((ProfileDataError, ProfileConflictError)) as caught:
        read(store)
    assert words in str(caught.value)
    if remedy is None:
        return
    for step in remedy:
        step(store)
    if remedy[-1] in (skip_bad, skip_repeated):
        return
    assert read_profile(store).samples.height >= 2
    with ProfileStore.open_or_create(store, synthetic_run()) as opened:  # and a run can go on in it
        measured = {sample_id for _, sample_id, _ in opened.done()}
        opened.compact()
    assert measured >= {"a", "c"} and read_profile(store).samples.height == len(measured)


def test_every_remedy_of_the_store_is_walked() -> None:
    walked = [words for *_, words, _ in WALKS]
    elsewhere = "mend the permissions of the files in it"  # the superuser, as tests may be, reads them all the same
    for module in (native, journal, description, parquet):
        for remedy in remedies_in(Path(str(module.__file__))):
            assert remedy == elsewhere or any(remedy in words or words in remedy for words in walked), remedy


def remedies_in(source: Path) -> list[str]:
    """Return the fixed beginning of every text that a module gives as a remedy."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "mend":
            found += opening(node.value)
        if isinstance(node, ast.Assign) and any("MENDING" in ast.unparse(target) for target in node.targets):
            found += opening(node.value)
    return found


def opening(text: ast.expr) -> list[str]:
    if isinstance(text, ast.Constant):
        return [str(text.value)]
    if isinstance(text, ast.JoinedStr):
        first = next((part.value for part in text.values if isinstance(part, ast.Constant)), "")
        return [str(first)]
    return []


def test_a_directory_of_another_layout_is_left_alone(tmp_path: Path, synthetic_run: Run) -> None:
    (tmp_path / "text_vqa").mkdir()
    (tmp_path / "text_vqa" / "x_topk4_blocks8.json").write_text("{}")
    with pytest.raises(PacelineError, match="choose another --out"):
        ProfileStore.open_or_create(tmp_path, synthetic_run())
    ProfileStore.open_or_create(tmp_path / "another", synthetic_run()).close()
    with pytest.raises(OutputPathError):
        ProfileStore.open_or_create(tmp_path / "text_vqa" / "x_topk4_blocks8.json", synthetic_run())
