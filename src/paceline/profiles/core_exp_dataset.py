"""Reading one dataset of the core-exp layout: all files of its directories.

A file in the present form is decoded straight into typed structs. Any other file, older or damaged, is read a second
time, slowly and value by value: that reading decides what is right and names what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from paceline.json_document import require_regular
from paceline.profiles.core_exp_variants import read_any_variant
from paceline.profiles.fields import (
    CONFIGURATION,
    EXTRA,
    FIELDS,
    KEY,
    OPTIONAL,
    SCHEMA,
    Fault,
    column_that_breaks_its_rule,
    json_text,
    samples_frame,
)

LAYOUT = "a sub-directory for each dataset with one .json file for each configuration"
ABSENT = tuple(name for name in OPTIONAL if name not in EXTRA)  # columns that the layout does not have
DIRECTORY_MENDING = "remove the directory, or name the others with --datasets"
Columns = dict[str, Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """How many good samples a file gave, and its faults."""

    path: str
    samples: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetContents:
    """The good samples of a dataset in the order of its files, and a report on each file."""

    samples: pl.DataFrame
    files: tuple[FileReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    columns: Columns  # of equal length, without the faulty samples
    faults: Sequence[Fault]

    @property
    def report(self) -> FileReport:
        return FileReport(path=str(self.path), samples=len(self.columns["sample_id"]), faults=tuple(self.faults))


def entries_of(directory: Path) -> list[Path]:
    """Return what a directory holds in the order of names; raises ProfileDataError when it cannot be read."""
    try:
        return sorted(directory.iterdir())
    except OSError as error:
        raise _unreadable(error).error(directory) from error


def _unreadable(error: OSError) -> Fault:
    return Fault(
        problem=f"cannot be read ({error.strerror or error})",
        expected=LAYOUT,
        mend="mend its permissions or copy it again",
    )


def _files_of(directory: Path) -> list[Path]:
    """Return the files of a dataset directory in the order of names; the directory itself where it holds none."""
    return [entry for entry in entries_of(directory) if entry.suffix == ".json"] or [directory]


class DatasetReader:
    """Reads all files of a dataset for some columns; holds the decoder that fits them."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.fields = [name for name in FIELDS if name in {*columns, *KEY} and name not in ("dataset", *ABSENT)]
        self.absent = [name for name in ABSENT if name in columns]
        types = {name: FIELDS[name].json_type for name in self.fields} | {"sample_id": str | int}
        fields = [(name, kind, None) if name in EXTRA else (name, kind) for name, kind in types.items()]
        sample = msgspec.defstruct("Sample", fields, kw_only=True, gc=False)
        head = [(name, FIELDS[name].json_type) for name in CONFIGURATION]
        file = msgspec.defstruct("File", [*head, ("num_samples", int), ("per_sample_results", list[sample])])
        self._decoder = msgspec.json.Decoder(file)

    def read(self, dataset: str, directories: Sequence[Path]) -> DatasetContents:
        """Read every file of a dataset; what is wrong with them is in the reports, nothing is raised for it."""
        files = [self._read_file(file) for directory in directories for file in _files_of(directory)]
        try:
            samples = self._frame(files)
        except (UnicodeError, pl.exceptions.PolarsError, OverflowError, TypeError):
            samples = None
        if samples is None or column_that_breaks_its_rule(samples) is not None:
            files = [file if file.faults else self._read_any_variant(file.path) for file in files]
            samples = self._frame(files)
        samples = samples.with_columns(dataset=pl.lit(dataset, dtype=SCHEMA["dataset"]))
        return DatasetContents(samples=samples, files=tuple(file.report for file in files))

    def _read_file(self, path: Path) -> _File:
        if path.is_dir():
            return self._faulty(path, Fault(problem="holds no .json file", expected=LAYOUT, mend=DIRECTORY_MENDING))
        try:
            require_regular(path)
            content = path.read_bytes()
        except OSError as error:
            return self._faulty(path, _unreadable(error))
        columns = self._read_present_form(content)
        return self._read_any_variant(path) if columns is None else _File(path=path, columns=columns, faults=())

    def _read_present_form(self, content: bytes) -> Columns | None:
        """Return the columns of a file in the present form, not yet held to the rules; None for any other file."""
        try:
            file: Any = self._decoder.decode(content)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        results = file.per_sample_results
        if file.num_samples != len(results) or not results:
            return None
        columns: Columns = {name: tuple(map(attrgetter(name), results)) for name in self.fields}
        if any(columns[name] != (getattr(file, name),) * len(results) for name in CONFIGURATION):
            return None
        if set(map(type, columns["sample_id"])) != {str}:
            columns["sample_id"] = tuple(map(str, columns["sample_id"]))
        return columns

    def _read_any_variant(self, path: Path) -> _File:
        try:
            content = path.read_bytes()
        except OSError as error:  # though it could be read a moment ago
            return self._faulty(path, _unreadable(error))
        rows, faults = read_any_variant(content, self.fields)
        return _File(path=path, columns={name: [row[name] for row in rows] for name in self.fields}, faults=faults)

    def _faulty(self, path: Path, fault: Fault) -> _File:
        return _File(path=path, columns={name: [] for name in self.fields}, faults=(fault,))

    def _frame(self, files: Sequence[_File]) -> pl.DataFrame:
        columns: Columns = {
            name: list(chain.from_iterable(file.columns[name] for file in files)) for name in self.fields
        }
        if "metadata" in columns:
            columns["metadata"] = [json_text(value) for value in columns["metadata"]]
        absent = [pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in self.absent]
        return samples_frame(columns).with_columns(absent)
