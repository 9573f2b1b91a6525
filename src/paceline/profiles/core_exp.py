"""Reading the core-exp JSON layout: a sub-directory a dataset, a file a configuration, in all its older variants.

A file in the present form is decoded straight into typed structs. Any other file, older or damaged, is read a second
time, slowly and value by value: that reading decides what is right and names what is wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

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
from paceline.profiles.uniqueness import Part, each_once

ABSENT = ("T_preprocess", "T_other")  # columns that the layout does not have
LAYOUT = "a sub-directory for each dataset with one .json file for each configuration"
DIRECTORY_MENDING = "remove the directory, or name the others with --datasets"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreExpContents:
    """The samples of a core-exp directory and what was left out of them."""

    samples: pl.DataFrame
    left_out: tuple[LeftOut, ...]


def read_core_exp(
    path: Path, *, datasets: Sequence[str] | None, columns: Sequence[str], skip_bad: bool
) -> CoreExpContents:
    """Read every dataset directory, or those named; raises ProfileDataError and ProfileConflictError.

    With `skip_bad` faulty samples and files are left out and listed instead.
    """
    reader = _FileReader(columns)
    frames = [samples_frame({name: [] for name in columns})]
    omitted: list[LeftOut] = []
    for dataset, directories in _dataset_directories(path, datasets).items():
        parts: list[Part] = []
        for file, fault in _files_of(directories):
            samples, faults = reader.read(file) if fault is None else (None, [fault])
            if faults and not skip_bad:
                raise faults[0].error(file)
            omitted += [left_out(file, each) for each in faults]
            if samples is not None:
                parts.append((file, samples.with_columns(dataset=pl.lit(dataset, dtype=pl.Categorical()))))
        if parts:
            samples, repeated = each_once(parts, path, skip_bad=skip_bad)
            frames.append(samples.select(columns))
            omitted += repeated
    return CoreExpContents(samples=pl.concat(frames), left_out=tuple(omitted))


def _dataset_directories(path: Path, datasets: Sequence[str] | None) -> dict[str, list[Path]]:
    """Return the sub-directories of each dataset in the order of names; more than one where `-` and `_` mix."""
    found: dict[str, list[Path]] = {}
    for directory in sorted(path.iterdir()):
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


def _files_of(directories: Sequence[Path]) -> Iterator[tuple[Path, Fault | None]]:
    """Yield the files of one dataset, and a directory itself with its fault where it holds none."""
    for directory in directories:
        files = sorted(directory.glob("*.json"))
        if not files:
            yield directory, Fault(problem="holds no .json file", expected=LAYOUT, mend=DIRECTORY_MENDING)
        yield from ((file, None) for file in files)


class _FileReader:
    """Reads files for some columns; holds the decoder that fits them."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.fields = [name for name in FIELDS if name in {*columns, *KEY} and name not in ("dataset", *ABSENT)]
        self.absent = [name for name in ABSENT if name in columns]
        sample = msgspec.defstruct(
            "Sample",
            [(name, str | int if name == "sample_id" else FIELDS[name].json_type) for name in self.fields],
            gc=False,
        )
        head = [(name, FIELDS[name].json_type) for name in CONFIGURATION]
        file = msgspec.defstruct("File", [*head, ("num_samples", int), ("per_sample_results", list[sample])])
        self._decoder = msgspec.json.Decoder(file)

    def read(self, path: Path) -> tuple[pl.DataFrame | None, list[Fault]]:
        """Return the good samples, None where there are none, and the faults of the file and of the others."""
        try:
            content = path.read_bytes()
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
            return None, [Fault(problem=problem, expected="a readable file", mend="mend its permissions")]
        samples = self._read_present_form(content)
        if samples is not None:
            return samples, []
        rows, faults = read_any_variant(content, self.fields)
        columns = {name: [row[name] for row in rows] for name in self.fields}
        return self._frame(columns) if rows else None, faults

    def _read_present_form(self, content: bytes) -> pl.DataFrame | None:
        """Return the samples of a faultless file in the present form; None for any other."""
        try:
            file: Any = self._decoder.decode(content)
            results = file.per_sample_results
            columns = {name: [getattr(each, name) for each in results] for name in self.fields}
            agreeing = all(set(columns[name]) == {getattr(file, name)} for name in CONFIGURATION)
            if not agreeing or file.num_samples != len(results):
                return None
            samples = self._frame(columns)
        except (msgspec.MsgspecError, UnicodeError, pl.exceptions.PolarsError, OverflowError, TypeError):
            return None
        return samples if column_that_breaks_its_rule(samples) is None else None

    def _frame(self, columns: dict[str, list[Any]]) -> pl.DataFrame:
        columns["sample_id"] = [each if type(each) is str else str(each) for each in columns["sample_id"]]
        if "metadata" in columns:
            columns["metadata"] = [json_text(value) for value in columns["metadata"]]
        absent = [pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in self.absent]
        return samples_frame(columns).with_columns(absent)
