"""Samples as one Parquet file whose own metadata says where they come from."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

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

METADATA_KEY = "paceline"
MENDING = "delete it if journals lie beside it, for it is made anew from them, or make the file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetNote:
    """What a Parquet file says of itself: its store's description, and bytes and stamp of each journal that it covers.

    A file of an older version has no stamps: it stands for no journal, and is read by its own name alone.
    """

    description: StoreDescription
    journal_bytes: dict[str, int]
    stamps: dict[str, JournalStamp] = field(default_factory=dict[str, JournalStamp])


def write_parquet(samples: pl.DataFrame, path: Path, note: ParquetNote) -> None:
    """Write the samples with the note in the file's metadata, atomically; raises OutputPathError."""
    with renamed_into_place(path) as neighbour, neighbour.open("wb") as file:  # polars knows paths of UTF-8 alone
        samples.write_parquet(file, metadata=metadata_of(note))


def metadata_of(note: ParquetNote) -> dict[str, str]:
    """Return the note as the key and value that go into a Parquet file's own metadata."""
    return {METADATA_KEY: msgspec.json.encode(note).decode()}


def read_note(path: Path) -> ParquetNote | None:
    """Return the note of a Parquet file, None when another program wrote it; raises ProfileDataError."""
    with _damage_named(path):
        text = pl.read_parquet_metadata(_source(path)).get(METADATA_KEY)
        return None if text is None else msgspec.json.decode(text, type=ParquetNote)


def read_parquet(path: Path, *, columns: Sequence[str]) -> pl.DataFrame:
    """Read some columns, checked against the rules of their fields; raises ProfileDataError, ProfileConflictError."""
    own = read_note(path) is not None
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
