"""Reading a native store: the Parquet compaction while every journal is the one that it covers, else the journals."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl

from paceline.errors import ProfileDataError
from paceline.json_document import require_regular
from paceline.profiles.description import FILE_NAME, StoreDescription
from paceline.profiles.fields import KEY, SCHEMA, LeftOut, samples_frame
from paceline.profiles.journal import read_journal
from paceline.profiles.parquet import ParquetNote, read_note, read_parquet
from paceline.profiles.questions import read_questions
from paceline.profiles.stamps import JournalStamp
from paceline.profiles.uniqueness import each_once
from paceline.profiles.whole_sets import ANSWER_COLUMNS, judged_as_a_whole, with_whole_set_accuracies

LOGGER = logging.getLogger(__name__)
COMPACTION = "samples.parquet"
JOURNALS = "journal-rank*.jsonl"
CORE_EXP_FILES = "*/*_topk*_blocks*.json"  # what would make a directory two profiles at once


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeContents:
    """The samples of a native store, its description, and the bytes of each journal that were read, with their stamps."""

    samples: pl.DataFrame
    description: StoreDescription
    journal_bytes: dict[str, int]
    stamps: dict[str, JournalStamp]
    left_out: tuple[LeftOut, ...]


def is_native(directory: Path) -> bool:
    """Tell whether a directory is a native store: whether it holds a `profile.json`."""
    return (directory / FILE_NAME).is_file()


def read_native(
    directory: Path, *, columns: Sequence[str] = tuple(SCHEMA), skip_bad: bool = False, from_journals: bool = False
) -> NativeContents:
    """Read a store's samples, each exactly once; raises ProfileDataError and ProfileConflictError.

    With `from_journals` the compaction is passed over. The accuracy of an answer that is judged with its whole set is null
    until the set is complete.
    """
    description = StoreDescription.read(directory)
    try:
        journals = sorted(directory.glob(JOURNALS))
        for path in (*journals, *directory.glob(COMPACTION)):
            require_regular(path)
        sizes = {journal.name: journal.stat().st_size for journal in journals}
        note = _usable_note(directory / COMPACTION, sizes)
        covered = note is not None and note.journal_bytes == sizes and not from_journals
        if note is not None and covered and _covers(note, journals):
            try:
                samples = read_parquet(directory / COMPACTION, columns=columns)
            except ProfileDataError as error:
                if not journals:
                    raise
                LOGGER.warning("%s; the journals are read instead", error)
            else:
                return NativeContents(
                    samples=samples, description=description, journal_bytes=sizes, stamps=note.stamps, left_out=()
                )
        return _read_journals(directory, journals, description, columns, skip_bad)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        mend = "mend the permissions of the files in it"
        raise ProfileDataError(directory, problem, expected="a readable store", mend=mend) from error


def refuse_undescribed(directory: Path) -> None:
    """Raise ProfileDataError where samples lie without the description that says what they were measured on."""
    lost = next((path for name in (JOURNALS, COMPACTION) for path in sorted(directory.glob(name))), None)
    if lost is not None and not is_native(directory):
        raise ProfileDataError(
            directory,
            f"holds {lost.name} but no {FILE_NAME}",
            expected="the description that says which model and machine its samples were measured on",
            mend=f"restore {FILE_NAME} from a copy, or profile into another directory",
        )


def _covers(note: ParquetNote, journals: Sequence[Path]) -> bool:
    changed = [path for path in journals if path.name not in note.stamps or not note.stamps[path.name].stands(path)]
    for path in changed:
        why = "changed since it was compacted" if path.name in note.stamps else "was compacted by an older version"
        LOGGER.info("%s %s; the journals are read instead of %s", path, why, COMPACTION)
    return not changed


def _usable_note(compaction: Path, sizes: dict[str, int]) -> ParquetNote | None:
    if not compaction.exists():
        return None
    try:
        note = read_note(compaction)
    except ProfileDataError as error:
        if not sizes:
            raise
        LOGGER.warning("%s; the journals are read instead", error)
        return None
    for name, covered_bytes in {} if note is None else note.journal_bytes.items():
        if not fnmatchcase(name, JOURNALS) or "/" in name:
            problem, mend = (
                f"covers the journal {name!r:.60}",
                f"delete {COMPACTION}: it is made anew from the journals",
            )
            raise ProfileDataError(compaction, problem, expected=JOURNALS, mend=mend)
        if sizes.get(name, 0) < covered_bytes:
            raise ProfileDataError(
                compaction.with_name(name),
                f"holds {sizes.get(name, 0)} bytes, fewer than when it was compacted",
                expected=f"at least {covered_bytes} bytes",
                mend=(
                    f"restore the journal, or keep what was compacted with `paceline merge {compaction} --out NEW`, or "
                    f"delete {COMPACTION} where lines were deleted on purpose"
                ),
            )
    return note


def _read_journals(
    directory: Path, journals: Sequence[Path], description: StoreDescription, columns: Sequence[str], skip_bad: bool
) -> NativeContents:
    late_sets = judged_as_a_whole(description.provenance)
    judged_late = "accuracy" in columns and bool(late_sets)
    wanted = tuple(dict.fromkeys([*columns, *KEY, *(ANSWER_COLUMNS if judged_late else ())]))
    contents = [read_journal(journal, columns=wanted, judged_late=late_sets, skip_bad=skip_bad) for journal in journals]
    nothing = samples_frame({name: [] for name in wanted})
    places = [(path, each.samples.height) for path, each in zip(journals, contents, strict=True)]
    joined = pl.concat([nothing, *(each.samples for each in contents)])
    samples, repeated = each_once(joined, places, directory, skip_bad=skip_bad)
    if judged_late:
        samples = with_whole_set_accuracies(samples, read_questions(directory))
    return NativeContents(
        samples=samples.select(columns),
        description=description,
        journal_bytes={path.name: each.whole_bytes for path, each in zip(journals, contents, strict=True)},
        stamps={path.name: each.stamp for path, each in zip(journals, contents, strict=True)},
        left_out=(*(note for each in contents for note in each.left_out), *repeated),
    )
