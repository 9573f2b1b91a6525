"""The native profile store: a directory with one journal a rank, which are the truth, and their Parquet compaction."""

import hashlib
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import polars as pl

from paceline.errors import InvalidValueError, OutputPathError, ProfileConflictError
from paceline.profiles.atomic import make_directory, new_directory
from paceline.profiles.description import StoreDescription, joined_run
from paceline.profiles.fields import FIELDS, KEY, find_fault
from paceline.profiles.journal import Journal
from paceline.profiles.locking import wait_for_lock
from paceline.profiles.native import COMPACTION, CORE_EXP_FILES, JOURNALS, is_native, read_native, refuse_undescribed
from paceline.profiles.parquet import ParquetNote, write_parquet
from paceline.profiles.questions import AskedQuestion, Key, joined_questions, read_questions, write_questions
from paceline.profiles.stamps import FileState, JournalStamp, settled_state, wait_until_settled
from paceline.profiles.whole_sets import judged_as_a_whole, with_whole_set_accuracies
from paceline.records import KnobConfig, ProfileSample, Provenance

LOCK = ".store.lock"


class ProfileStore:
    """One run's place in a profile directory: what is measured already, and where the next sample goes."""

    def __init__(self, path: Path, samples: Journal, rank: int, *, judged_late: Set[str], fsync: bool) -> None:
        self.path, self.rank, self._judged_late = path, rank, judged_late
        self._samples, self._fsync = samples, fsync
        self._sentinels: Journal | None = None

    @classmethod
    def open_or_create(
        cls,
        path: Path | str,
        provenance: Provenance,
        rank: int = 0,
        *,
        questions: Iterable[AskedQuestion] = (),
        fsync: bool = True,
    ) -> Self:
        """Open the store for one rank, or create it; a larger grid than before is recorded and allowed.

        `questions` are recorded beside those of earlier runs. Raises ProfileConflictError when the store holds a run of other
        settings, one question's id stands for another question than there, or another process writes this rank,
        OutputPathError when the directory cannot be written.
        """
        path = Path(path)
        if rank < 0:
            raise InvalidValueError("rank", rank, "a whole number of at least 0")
        created = _make_directory(path)
        try:
            with wait_for_lock(path / LOCK):
                held = read_questions(path)
                asked = joined_questions(path, held, questions)
                _describe(path, provenance)
                if len(asked) > len(held):
                    write_questions(path, asked.values())
        except OutputPathError:
            if created:
                _take_away(path)
            raise
        journal = Journal.open(path / f"journal-rank{rank}.jsonl", fsync=fsync)
        return cls(path, journal, rank, judged_late=judged_as_a_whole([provenance]), fsync=fsync)

    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last line that opening cut off; 0 when the last run ended cleanly."""
        return self._samples.torn_bytes

    def done(self) -> set[tuple[str, str, KnobConfig]]:
        """Return (dataset, sample_id, configuration) of every sample that any rank has measured."""
        measured = read_native(self.path, columns=KEY).samples
        return {
            (dataset, sample_id, _config(tier, top_k, blocks))
            for dataset, sample_id, tier, top_k, blocks in measured.iter_rows()
        }

    def append(self, sample: ProfileSample) -> None:
        """Keep one sample for good; raises ProfileDataError when a value in it could not be read back."""
        fault = find_fault({name: getattr(sample, name) for name in FIELDS}, FIELDS, judged_late=self._judged_late)
        if fault is not None:
            raise fault.error(self._samples.path)
        self._samples.append(sample)

    def append_sentinel(self, record: Mapping[str, object]) -> None:
        """Keep one record about the run itself, for example of drift, in the rank's side journal."""
        if self._sentinels is None:
            self._sentinels = Journal.open(self.path / f"sentinels-rank{self.rank}.jsonl", fsync=self._fsync)
        self._sentinels.append(record)

    def compact(self) -> Path:
        """Write `samples.parquet` from every rank's journal and return its path; the journals stay."""
        with wait_for_lock(self.path / LOCK):
            for journal in self.path.glob(JOURNALS):
                wait_until_settled(journal)
            contents = read_native(self.path, from_journals=True)
            note = ParquetNote(
                description=contents.description, journal_bytes=contents.journal_bytes, stamps=contents.stamps
            )
            write_parquet(contents.samples, self.path / COMPACTION, note)
        return self.path / COMPACTION

    def close(self) -> None:
        """Close the journals and let other processes write this rank; closing twice does no harm."""
        self._samples.close()
        if self._sentinels is not None:
            self._sentinels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_store(
    out: Path,
    samples: pl.DataFrame,
    description: StoreDescription,
    questions: Mapping[Key, AskedQuestion] | None = None,
) -> None:
    """Write a whole new store at once, journal and compaction; raises OutputPathError when `out` holds anything."""
    with new_directory(out) as directory:
        description.write(directory)
        if questions:
            write_questions(directory, questions.values())
        journal = directory / "journal-rank0.jsonl"
        digest = hashlib.sha256()
        with journal.open("wb") as file:
            for row in samples.select(list(FIELDS)).iter_rows(named=True):
                row["metadata"] = msgspec.Raw(row["metadata"])
                line = msgspec.json.encode(row) + b"\n"
                digest.update(line)
                file.write(line)
        note = ParquetNote(
            description=description,
            journal_bytes={journal.name: journal.stat().st_size},
            stamps={journal.name: JournalStamp(sha256=digest.hexdigest(), state=_state_of_new(journal))},
        )
        judged = with_whole_set_accuracies(samples.select(list(FIELDS)), questions or {})
        write_parquet(judged, directory / COMPACTION, note)


def _state_of_new(journal: Path) -> FileState | None:
    wait_until_settled(journal)
    status = journal.stat()
    return settled_state(status, status)


def _make_directory(path: Path) -> bool:
    """Make the directory unless it stands already; True when it was made."""
    if path.is_file():
        raise OutputPathError(path, "it is a file, and a profile is a directory")
    try:
        return make_directory(path)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error


def _take_away(path: Path) -> None:
    """Remove a directory that was made for nothing; one that holds more than its lock stays, and is gone on with."""
    with suppress(OSError):
        if {each.name for each in path.iterdir()} <= {LOCK}:
            (path / LOCK).unlink(missing_ok=True)
            path.rmdir()


def _describe(path: Path, provenance: Provenance) -> None:
    """Write the description of a new store, or join the run to the one that is there."""
    if not is_native(path):
        refuse_undescribed(path)
        foreign = next(path.glob(CORE_EXP_FILES), None)
        if foreign is not None:
            raise ProfileConflictError(
                f"{path} holds a profile in the core-exp layout ({foreign.name}); expected an empty directory or a "
                "native store: choose another --out"
            )
        StoreDescription(provenance=(provenance,)).write(path)
        return
    found = StoreDescription.read(path)
    joined = joined_run(path, found, provenance)
    if joined is not found:
        joined.write(path)


@lru_cache(maxsize=4096)
def _config(tier: str | None, top_k: int | None, num_active_blocks: int | None) -> KnobConfig:
    return KnobConfig(tier=tier, top_k=top_k, num_active_blocks=num_active_blocks)
