"""Reading the core-exp JSON layout: a sub-directory a dataset, a file a configuration, in all its older variants.

A file in the present form is decoded straight into typed structs. Any other file, older or damaged, is read a second
time, slowly and value by value: that reading decides what is right and names what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from msgspec.structs import astuple

from paceline.errors import UnknownChoiceError
from paceline.profiles.core_exp_variants import read_any_variant
from paceline.profiles.fields import (
    CONFIGURATION,
    FIELDS,
    KEY,
    SCHEMA,
    Fault,
    LeftOut,
    column_that_breaks_its_rule,
    dataset_name,
    json_text,
    left_out,
    samples_frame,
)
from paceline.profiles.uniqueness import each_once

ABSENT = ("T_preprocess", "T_other")  # columns that the layout does not have
LAYOUT = "a sub-directory for each dataset with one .json file for each configuration"
Columns = dict[str, Sequence[Any]]
DIRECTORY_MENDING = "remove the directory, or name the others with --datasets"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreExpContents:
    """The samples of a core-exp directory and what was left out of them."""

    samples: pl.DataFrame
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What one file gave: columns of equal length, and its faults; faulty samples are not in the columns."""

    path: Path
    columns: Columns
    faults: Sequence[Fault]

    @property
    def height(self) -> int:
        return len(self.columns["sample_id"])


def read_core_exp(
    path: Path, *, datasets: Sequence[str] | None, columns: Sequence[str], skip_bad: bool
) -> CoreExpContents:
    """Read every dataset directory, or those named; raises ProfileDataError and ProfileConflictError.

    With `skip_bad` faulty samples and files are left out and listed instead.
    """
    reader = _DatasetReader(columns)
    frames = [samples_frame({name: [] for name in columns})]
    omitted: list[LeftOut] = []
    for dataset, directories in _dataset_directories(path, datasets).items():
        samples, files = reader.read(dataset, directories)
        faulty = [(file, fault) for file in files for fault in file.faults]
        if faulty and not skip_bad:
            raise faulty[0][1].error(faulty[0][0].path)
        places = [(file.path, file.height) for file in files]
        samples, repeated = each_once(samples, places, path, skip_bad=skip_bad)
        frames.append(samples.select(columns))
        omitted += [*(left_out(file.path, fault) for file, fault in faulty), *repeated]
    return CoreExpContents(samples=pl.concat(frames), left_out=tuple(omitted))


def _dataset_directories(path: Path, datasets: Sequence[str] | None) -> dict[str, list[Path]]:
    """Return the sub-directories of each dataset in the order of names; more than one where `-` and `_` mix."""
    found: dict[str, list[Path]] = {}
    for directory in _entries(path):
        if directory.is_dir() and not directory.name.startswith("."):
            found.setdefault(dataset_name(directory.name), []).append(directory)
    if not found:
        raise Fault(
            problem="holds no dataset directories", expected=LAYOUT, mend="name the directory above the datasets"
        ).error(path)
    for name in datasets or ():
        if name not in found:
            raise UnknownChoiceError("dataset", name, tuple(found))
    return {name: found[name] for name in found if datasets is None or name in datasets}


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError as error:
        raise _unreadable(error).error(directory) from error


def _unreadable(error: OSError) -> Fault:
    return Fault(
        problem=f"cannot be read ({error.strerror or error})", expected=LAYOUT, mend="mend its permissions or copy it again"
    )


def _files_of(directory: Path) -> list[Path]:
    """Return the files of a dataset directory in the order of names; the directory itself where it holds none."""
    return [entry for entry in _entries(directory) if entry.suffix == ".json"] or [directory]


class _DatasetReader:
    """Reads all files of a dataset for some columns; holds the decoder that fits them."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.fields = [name for name in FIELDS if name in {*columns, *KEY} and name not in ("dataset", *ABSENT)]
        self.absent = [name for name in ABSENT if name in columns]
        types = {name: FIELDS[name].json_type for name in self.fields} | {"sample_id": str | int}
        sample = msgspec.defstruct("Sample", list(types.items()), gc=False)
        head = [(name, FIELDS[name].json_type) for name in CONFIGURATION]
        file = msgspec.defstruct("File", [*head, ("num_samples", int), ("per_sample_results", list[sample])])
        self._decoder = msgspec.json.Decoder(file)

    def read(self, dataset: str, directories: Sequence[Path]) -> tuple[pl.DataFrame, list[_File]]:
        """Return the good samples of a dataset, in the order of its files, and what each file gave."""
        files = [self._read_file(file) for directory in directories for file in _files_of(directory)]
        try:
            samples = self._frame(files)
        except (UnicodeError, pl.exceptions.PolarsError, OverflowError, TypeError):
            samples = None
        if samples is None or column_that_breaks_its_rule(samples) is not None:
            files = [self._read_any_variant(file.path) if file.height else file for file in files]
            samples = self._frame(files)
        return samples.with_columns(dataset=pl.lit(dataset, dtype=SCHEMA["dataset"])), files

    def _read_file(self, path: Path) -> _File:
        if path.is_dir():
            return self._faulty(path, Fault(problem="holds no .json file", expected=LAYOUT, mend=DIRECTORY_MENDING))
        try:
            content = path.read_bytes()
        except OSError as error:
            return self._faulty(path, _unreadable(error))
        columns = self._read_present_form(content)
        return self._read_any_variant(path) if columns is None else _File(path=path, columns=columns, faults=())

    def _read_present_form(self, content: bytes) -> Columns | None:
        """Return the columns of a file in the present form, not yet held to the rules; None for any other file."""
        try:
            file: Any = self._decoder.decode(content)
        except (msgspec.MsgspecError, UnicodeError):
            return None
        results = file.per_sample_results
        if file.num_samples != len(results) or not results:
            return None
        columns: Columns = dict(zip(self.fields, zip(*map(astuple, results), strict=True), strict=True))
        if any(columns[name] != (getattr(file, name),) * len(results) for name in CONFIGURATION):
            return None
        if set(map(type, columns["sample_id"])) != {str}:
            columns["sample_id"] = tuple(map(str, columns["sample_id"]))
        return columns

    def _read_any_variant(self, path: Path) -> _File:
        rows, faults = read_any_variant(path.read_bytes(), self.fields)
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
