"""Reading rows of Parquet files, some columns at a time and never a whole file; the types of columns are checked first."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paceline.datasets.public.description import ColumnKind, PublicSet
from paceline.datasets.sources import SetFiles
from paceline.errors import DatasetError, MissingExtraError

try:
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import types
except ImportError as missing:
    raise MissingExtraError("pyarrow", "data") from missing

BATCH_ROWS = 64
BUFFER_BYTES = 2**20  # a row group is read as it is needed: some files hold all their rows in one
MEND = "see docs/datasets.md for the columns, or take the data set's own files"
UNKNOWN_FIELD = object()


def _is_text(kind: Any) -> bool:
    return types.is_string(kind) or types.is_large_string(kind)


def _is_list(kind: Any) -> bool:
    return types.is_list(kind) or types.is_large_list(kind)


def _is_texts(kind: Any) -> bool:
    return _is_list(kind) and _is_text(kind.value_type)


def _is_questions(kind: Any) -> bool:
    return _is_list(kind) and types.is_struct(kind.value_type)


def _is_picture(kind: Any) -> bool:
    return types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)


def _is_bytes(kind: Any) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_answers(kind: Any) -> bool:
    if not _is_list(kind):
        return False
    entry = kind.value_type
    return _is_text(entry) or (types.is_struct(entry) and entry.get_field_index("answer") >= 0)


# the words that say what a column must hold, and the test of it
KINDS: dict[ColumnKind, tuple[str, Callable[[Any], bool]]] = {
    "text": ("text", _is_text),
    "texts": ("a list of texts", _is_texts),
    "whole number": ("whole numbers", types.is_integer),
    "truth": ("true or false", types.is_boolean),
    "id": ("text or whole numbers", lambda kind: _is_text(kind) or types.is_integer(kind)),
    "count": ("whole numbers, or text of digits", lambda kind: _is_text(kind) or types.is_integer(kind)),
    "picture": ("pictures, as {bytes, path}", _is_picture),
    "answers": ("a list of answers, as {answer, …}", _is_answers),
    "questions": ("a list of questions, as {question, …}", _is_questions),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One row as it stands in a file: the columns asked for, and where it is. `number` counts from 0 over all files."""

    values: Mapping[str, Any]
    file: int
    row: int
    number: int


def check_columns(public: PublicSet, file: str) -> None:
    """Raise DatasetError where a column is missing or holds another type than the set has, naming file and field."""
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
    columns = {field.name: field.type for field in schema}
    for name, kind in public.columns.items():
        _check(file, columns, name, kind, required=True)
    for name, kind in public.optional_columns.items():
        _check(file, columns, name, kind, required=False)
    if public.nested is not None:
        entry = columns[public.nested].value_type
        inner = {entry.field(index).name: entry.field(index).type for index in range(entry.num_fields)}
        for name, kind in public.nested_columns.items():
            _check(file, inner, name, kind, required=True, within=public.nested)


def _check(
    file: str, columns: Mapping[str, Any], names: str, kind: ColumnKind, *, required: bool, within: str | None = None
) -> None:
    words, holds = KINDS[kind]
    name = next((each for each in names.split("|") if each in columns), None)
    shown = names.split("|")[0]
    field = shown if within is None else f"{within}.{shown}"
    if name is None:
        if required:
            there = ", ".join(columns)
            raise DatasetError(file, f"is missing; the columns are {there}", expected=words, mend=MEND, field=field)
        return
    found = columns[name]
    if not holds(found) and not types.is_null(found):
        raise DatasetError(file, f"holds {found}", expected=words, mend=MEND, field=field)


def light_columns(public: PublicSet, file: str) -> list[str]:
    """Return what is read to know the questions without their pictures: of a picture at most whether it is there."""
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
        there = {field.name: field.type for field in schema}
    wanted = [name for name in (*public.columns, *public.optional_columns) if name in there]
    light = [name for name in wanted if name not in public.pictures]
    if public.pictures_optional:
        light += [_presence(name, there[name]) for name in public.pictures if name in there]
    return light


def _presence(name: str, kind: Any) -> str:
    """Return a part of a picture's column that says whether a row has one: its path, which is short."""
    return f"{name}.path" if kind.get_field_index("path") >= 0 else name


def full_columns(public: PublicSet, file: str) -> list[str]:
    """Return every column of the set that a file has."""
    with _opened(file) as parquet:
        there = set(parquet.schema_arrow.names)
    return [name for name in (*public.columns, *public.optional_columns) if name in there]


def read_rows(files: SetFiles, columns_of: Callable[[str], Sequence[str]]) -> Iterator[FileRow]:
    """Yield every row of the files in order, with the columns that `columns_of(file)` names."""
    number = 0
    for index, file in enumerate(files.files):
        columns = columns_of(file)
        with _opened(file) as parquet:
            for row, values in enumerate(_values(parquet, columns)):
                yield FileRow(values=values, file=index, row=row, number=number)
                number += 1


def read_chosen_rows(
    files: SetFiles, columns_of: Callable[[str], Sequence[str]], chosen: Mapping[int, Iterable[int]]
) -> Iterator[FileRow]:
    """Yield the rows chosen by file and row in the file, in order; row groups that hold none are not read."""
    before = 0
    for index, file in enumerate(files.files):
        wanted = set(chosen.get(index, ()))
        with _opened(file) as parquet:
            rows = parquet.metadata.num_rows
            if wanted:
                for row, values in _chosen(parquet, columns_of(file), wanted):
                    yield FileRow(values=values, file=index, row=row, number=before + row)
        before += rows


def _chosen(parquet: Any, columns: Sequence[str], wanted: set[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    first = 0
    for group in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(group).num_rows
        if any(first + offset in wanted for offset in range(count)):
            start = first
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=list(columns)):
                offsets = [offset for offset in range(batch.num_rows) if start + offset in wanted]
                for offset, values in zip(offsets, batch.take(pa.array(offsets, pa.int64())).to_pylist(), strict=True):
                    yield start + offset, values
                start += batch.num_rows
        first += count


def _values(parquet: Any, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
        yield from cast("list[Mapping[str, Any]]", batch.to_pylist())


@contextmanager
def _stream(file: str) -> Generator[Any]:
    if "://" in file:
        with fsspec.open(file, "rb") as remote:
            yield remote
    else:
        with Path(file).open("rb") as local:
            yield local


@contextmanager
def _opened(file: str) -> Generator[Any]:
    """Open a Parquet file, local or at a URL; raises DatasetError where it cannot be read."""
    try:
        with _stream(file) as stream:
            yield pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            file,
            f"cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})",
            expected="a whole Parquet file",
            mend="copy or download it again",
        ) from error
