"""Samples as one Parquet file whose own metadata says where they come from, and what all its bytes hash to.

A page of a column has no checksum of its own: a flipped bit in one would read as another value. So the SHA-256 of the whole file
stands in its metadata, taken with zeros in its own place, and is compared whenever samples are read.
"""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

import msgspec
import polars as pl

from paceline.errors import ProfileConflictError, ProfileDataError
from paceline.profiles.atomic import renamed_into_place
from paceline.profiles.description import StoreDescription
from paceline.profiles.fields import (
    FIELDS,
    KEY,
    OPTIONAL,
    SCHEMA,
    column_that_breaks_its_rule,
)
from paceline.profiles.stamps import JournalStamp
from paceline.profiles.uniqueness import repeated_samples, sample_words

METADATA_KEY, DIGEST_KEY = "paceline", "paceline_sha256"
NO_DIGEST = "0" * 64  # what stands in the digest's place while it is taken
DIGEST_MARK = DIGEST_KEY.encode() + b"\x18@"  # the key, and Thrift's word for 64 bytes of text: no JSON holds it
FOOTER_END_BYTES, BLOCK_BYTES = 8, 2**20  # the footer's length with Parquet's own mark; what is hashed at once
MENDING = "delete it if journals lie beside it, for it is made anew from them, or make the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetNote:
    """What a Parquet file says of itself: its store's description, and bytes and stamp of each journal that it covers.

    A file of an older version has no stamps: it stands for no journal, and is read by its own name alone. `digested` files
    hold the SHA-256 of all their bytes; those of older versions do not, and are read as they are.
    """

    description: StoreDescription
    journal_bytes: dict[str, int]
    stamps: dict[str, JournalStamp] = field(default_factory=dict[str, JournalStamp])
    digested: bool = False


def write_parquet(samples: pl.DataFrame, path: Path, note: ParquetNote) -> None:
    """Write the samples with the note and the file's digest in its metadata, atomically; raises OutputPathError."""
    content = BytesIO()
    samples.write_parquet(content, metadata=metadata_of(replace(note, digested=True)) | {DIGEST_KEY: NO_DIGEST})
    found = _digest_in(content)
    assert found is not None, "polars writes metadata as they are"
    content.getbuffer()[found.place : found.place + len(NO_DIGEST)] = found.taken.encode()
    with renamed_into_place(path) as neighbour, neighbour.open("wb") as file:
        file.write(content.getbuffer())


def metadata_of(note: ParquetNote) -> dict[str, str]:
    """Return the note as the key and value that go into a Parquet file's own metadata."""
    return {METADATA_KEY: msgspec.json.encode(note).decode()}


def read_note(path: Path) -> ParquetNote | None:
    """Return the note of a Parquet file, None when another program wrote it; raises ProfileDataError.

    It is not compared with the file's digest: whoever reads samples too reads those by `read_parquet`.
    """
    with _damage_named(path):
        text = pl.read_parquet_metadata(_source(path)).get(METADATA_KEY)
        return None if text is None else msgspec.json.decode(text, type=ParquetNote)


def read_parquet(path: Path, *, columns: Sequence[str]) -> pl.DataFrame:
    """Read some columns, checked against the rules of their fields; raises ProfileDataError, ProfileConflictError.

    A file that holds its digest is refused where any byte of it is another than was written.
    """
    note = read_note(path)
    own = note is not None
    _require_digest(path, note)
    wanted = tuple(dict.fromkeys([*columns, *(() if own else KEY)]))
    with _damage_named(path):
        present = pl.scan_parquet(_source(path), glob=False).collect_schema()  # `[` in a path is no pattern
        missing = next((name for name in wanted if name not in present and name not in OPTIONAL), None)
        if missing is not None:
            raise _unfit(path, missing, "is missing")
        found = pl.read_parquet(_source(path), columns=[name for name in wanted if name in present], glob=False)
        nulls = [pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in wanted if name not in present]
        samples = _typed(found.with_columns(nulls).select(wanted), path)
    breaking = column_that_breaks_its_rule(samples, judged_late=None if own else frozenset())
    if breaking is not None:
        raise _unfit(path, breaking, "holds a value outside its range, or none")
    repeated = [] if own else repeated_samples(samples)  # what Paceline wrote was checked before it was written
    if repeated:
        raise ProfileConflictError(
            f"{path} holds {sample_words(repeated[0])} more than once; expected once: delete one"
        )
    return samples.select(columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Digest:
    """Where the digest of a file stands, what it tells, and what was taken of the file now."""

    place: int
    told: bytes
    taken: str


def _digest_in(file: BinaryIO) -> _Digest | None:
    """Return the digest of a Parquet file, None where it holds none; raises OSError."""
    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - FOOTER_END_BYTES))
    footer_bytes = int.from_bytes(file.read(4), "little") + FOOTER_END_BYTES
    start = max(0, size - footer_bytes)
    file.seek(start)
    footer = bytearray(file.read())
    place = footer.rfind(DIGEST_MARK) + len(DIGEST_MARK)
    if place < len(DIGEST_MARK):
        return None
    told = bytes(footer[place : place + len(NO_DIGEST)])
    footer[place : place + len(NO_DIGEST)] = NO_DIGEST.encode()
    taken = hashlib.sha256()
    file.seek(0)
    for at in range(0, start, BLOCK_BYTES):
        taken.update(file.read(min(BLOCK_BYTES, start - at)))
    taken.update(footer)
    return _Digest(place=start + place, told=told, taken=taken.hexdigest())


def _require_digest(path: Path, note: ParquetNote | None) -> None:
    with _damage_named(path), path.open("rb") as file:
        found = _digest_in(file)
    if found is None and (note is None or not note.digested):
        return
    if found is None or found.told != found.taken.encode():
        problem = "holds other bytes than were written: " + (
            "its digest is not there" if found is None else f"its SHA-256 is {found.taken[:12]}…, not the one in it"
        )
        raise ProfileDataError(path, problem, expected="the file as Paceline wrote it", mend=MENDING)


def _source(path: Path) -> Path | BytesIO:
    """Return what polars can read: it knows paths of UTF-8 alone, of another one it is given the bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return BytesIO(path.read_bytes())
    return path


def _typed(samples: pl.DataFrame, path: Path) -> pl.DataFrame:
    for name, column_type in samples.schema.items():
        if column_type != SCHEMA[name]:
            try:
                samples = samples.with_columns(pl.col(name).cast(SCHEMA[name]))
            except pl.exceptions.PolarsError as error:
                raise _unfit(path, name, f"holds a value of another type ({str(error).splitlines()[0]})") from error
    return samples


def _unfit(path: Path, field: str, problem: str) -> ProfileDataError:
    return ProfileDataError(path, problem, field=field, expected=f"{FIELDS[field].expected} in every row", mend=MENDING)


@contextmanager
def _damage_named(path: Path) -> Generator[None]:
    try:
        yield
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        msgspec.MsgspecError,
        RecursionError,
        OSError,
    ) as error:
        problem = f"cannot be read ({(str(error).splitlines() or ['damaged'])[0]})"
        raise ProfileDataError(path, problem, expected="a whole Parquet file of samples", mend=MENDING) from error
