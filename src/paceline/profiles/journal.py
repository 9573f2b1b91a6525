"""Append-only journals, one JSON line a record: what a killed run leaves behind is whole but for its last line."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec
import polars as pl

from paceline.errors import OutputPathError
from paceline.profiles.atomic import sync_directory
from paceline.profiles.fields import (
    FIELDS,
    OPTIONAL,
    SCHEMA,
    Fault,
    LeftOut,
    column_that_breaks_its_rule,
    dataset_name,
    find_fault,
    json_text,
    left_out,
    samples_frame,
)
from paceline.profiles.locking import hold_lock, open_unlinked
from paceline.profiles.stamps import JournalStamp, settled_state

LOGGER = logging.getLogger(__name__)
BLOCK_BYTES = 32 * 2**20
UNJUDGED = replace(FIELDS["accuracy"], json_type=float | None)  # an answer judged with its whole set has none
LINE_MENDING = (
    "mend the line, or delete it and samples.parquet, so that its sample is measured again, or read the rest with "
    "--skip-bad"
)

JournalLine = msgspec.defstruct(
    "JournalLine",
    [
        (name, rule.json_type, None) if name in OPTIONAL else (name, rule.json_type)  # pyright: ignore[reportArgumentType]
        for name, rule in {**FIELDS, "accuracy": UNJUDGED}.items()
    ],
    kw_only=True,
    gc=False,
    forbid_unknown_fields=True,  # a damaged name of an optional field must not read as its absence
)
LINES = msgspec.json.Decoder(JournalLine)


class Journal:
    """A file that one process appends records to; every record is one write of one whole line."""

    def __init__(self, path: Path, descriptor: int, lock: int, *, torn_bytes: int, fsync: bool) -> None:
        self.path, self.torn_bytes = path, torn_bytes
        self._descriptor, self._lock, self._fsync = descriptor, lock, fsync
        self._unusable = False

    @classmethod
    def open(cls, path: Path, *, fsync: bool = True) -> Self:
        """Open or create a journal for appending, cutting off a last line that a killed process left unfinished.

        `torn_bytes` of the result says how much was cut. With `fsync` a line also survives a power cut. Raises
        ProfileConflictError when another process writes it, OutputPathError when it cannot be written.
        """
        lock = hold_lock(path.with_name(f".{path.name}.lock"), guards=path)
        descriptor = -1
        try:
            descriptor = open_unlinked(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            if fsync:
                sync_directory(path.parent)
            torn_bytes = _cut_unfinished_line(descriptor)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            os.close(lock)
            raise OutputPathError(path, error.strerror or str(error)) from error
        if torn_bytes:
            cut = "%s: cut off an unfinished last line of %d bytes; its sample is measured again"
            LOGGER.warning(cut, path, torn_bytes)
        return cls(path, descriptor, lock, torn_bytes=torn_bytes, fsync=fsync)

    def append(self, record: object) -> None:
        """Write one record as one line; on a full disk the line is taken back whole and OutputPathError raised.

        Where it cannot be taken back either, this journal takes no more lines: opened anew, it is cut where they are whole.
        """
        if self._unusable:
            raise OutputPathError(self.path, "a line before could be neither finished nor taken back: open it anew")
        line = msgspec.json.encode(record) + b"\n"
        start: int | None = None
        try:
            start = os.fstat(self._descriptor).st_size
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(0, f"only {written} of {len(line)} bytes could be written")
            if self._fsync:
                os.fsync(self._descriptor)
        except OSError as error:
            if start is not None:
                self._take_back(start)
            raise OutputPathError(self.path, error.strerror or str(error)) from error

    def _take_back(self, start: int) -> None:
        try:
            os.ftruncate(self._descriptor, start)
        except OSError:
            self._unusable = True

    def close(self) -> None:
        """Close the file and let others write it; closing twice does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            os.close(self._lock)
            self._descriptor = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut_unfinished_line(descriptor: int) -> int:
    """Cut the file behind its last whole line and return the bytes that were cut."""
    whole_bytes, size_bytes = _end_of_last_line(descriptor), os.fstat(descriptor).st_size
    if whole_bytes < size_bytes:
        os.ftruncate(descriptor, whole_bytes)
    return size_bytes - whole_bytes


def _end_of_last_line(descriptor: int) -> int:
    """Return the number of bytes up to and with the last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalContents:
    """The samples of one journal, the bytes that its whole lines take with their stamp, and what was left out."""

    samples: pl.DataFrame
    whole_bytes: int
    stamp: JournalStamp
    left_out: tuple[LeftOut, ...]


def read_journal(
    path: Path,
    *,
    columns: Sequence[str] = tuple(SCHEMA),
    judged_late: Set[str] = frozenset(),
    skip_bad: bool = False,
) -> JournalContents:
    """Read every whole line; an unfinished last line is left out and noted, it is the sample in flight.

    Answers of the data sets `judged_late` may have no accuracy yet. Raises ProfileDataError at the first bad line, naming
    line and field, unless `skip_bad` leaves them out.
    """
    frames = [samples_frame({name: [] for name in columns})]
    omitted: list[LeftOut] = []
    line, whole_bytes, torn_bytes = 1, 0, 0
    digest, before = hashlib.sha256(), path.stat()
    for block in _blocks_of_lines(path):
        if not block.endswith(b"\n"):
            torn_bytes = len(block)
            break
        frame, faults = _read_block(block, line, judged_late)
        if faults and not skip_bad:
            raise faults[0].error(path)
        digest.update(block)
        frames.append(frame.select(columns))
        omitted += [left_out(path, fault) for fault in faults]
        line, whole_bytes = line + block.count(b"\n"), whole_bytes + len(block)
    if torn_bytes:
        reason = f"{path}: the last line is unfinished ({torn_bytes} bytes), its sample was in flight"
        omitted.append(LeftOut(path=path, sample=None, reason=reason))
    stamp = JournalStamp(sha256=digest.hexdigest(), state=settled_state(before, path.stat()))
    return JournalContents(samples=pl.concat(frames), whole_bytes=whole_bytes, stamp=stamp, left_out=tuple(omitted))


def _blocks_of_lines(path: Path) -> Iterator[bytes]:
    """Yield blocks of whole lines, then the unfinished rest, if any."""
    rest = b""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                yield whole + newline
    if rest:
        yield rest


def _read_block(block: bytes, first_line: int, judged_late: Set[str]) -> tuple[pl.DataFrame, list[Fault]]:
    try:
        frame = _frame_of(LINES.decode_lines(block))
        if column_that_breaks_its_rule(frame, judged_late=judged_late) is None:
            return frame, []
    except (msgspec.MsgspecError, RecursionError, UnicodeError, pl.exceptions.PolarsError, OverflowError, TypeError):
        pass
    return _read_line_by_line(block, first_line, judged_late)


def _frame_of(lines: Sequence[Any]) -> pl.DataFrame:
    columns: dict[str, list[object]] = {name: [getattr(line, name) for line in lines] for name in FIELDS}
    columns["dataset"] = [dataset_name(cast(str, name)) for name in columns["dataset"]]
    columns["metadata"] = [json_text(value) for value in columns["metadata"]]
    return samples_frame(columns)


def _read_line_by_line(block: bytes, first_line: int, judged_late: Set[str]) -> tuple[pl.DataFrame, list[Fault]]:
    """Read lines one at a time, slowly, so that a fault can be named with its line."""
    good: list[Any] = []
    faults: list[Fault] = []
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        if not line.strip():
            continue
        record, fault = _parse(line, judged_late)
        if fault is None:
            good.append(JournalLine(**record))
        else:
            faults.append(replace(fault, line=number, mend=LINE_MENDING))
    return _frame_of(good), faults


def _parse(line: bytes, judged_late: Set[str]) -> tuple[dict[str, Any], Fault | None]:
    try:
        parsed: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, Fault(problem=f"is not JSON ({error})", expected="one JSON object of one sample")
    if not isinstance(parsed, dict):
        return {}, Fault(problem="is JSON, but no object", expected="one JSON object of one sample")
    record = cast("dict[str, Any]", parsed)
    unknown = next((name for name in record if name not in FIELDS), None)
    if unknown is not None:
        return record, Fault(field=unknown, problem="is no field of a sample", expected=", ".join(FIELDS))
    present = [name for name in FIELDS if name in record or name not in OPTIONAL]
    return record, find_fault(record, present, judged_late=judged_late)
