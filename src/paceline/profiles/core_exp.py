"""Reading the core-exp JSON layout: a sub-directory a dataset, a file a configuration, in all its older variants."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from paceline.errors import UnknownChoiceError
from paceline.profiles.core_exp_dataset import LAYOUT, entries_of
from paceline.profiles.core_exp_processes import read_datasets
from paceline.profiles.fields import Fault, LeftOut, dataset_name, left_out, samples_frame
from paceline.profiles.uniqueness import each_once
from paceline.records import DATASET_NAMES, is_dataset_name

RENAMING = "rename the directory, move it away, or leave it out with --skip-bad"


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
    frames = [samples_frame({name: [] for name in columns})]
    omitted: list[LeftOut] = []
    directories = _dataset_directories(path, datasets)
    for directory in [each for name in directories if not is_dataset_name(name) for each in directories[name]]:
        fault = Fault(problem="is no name of a dataset", expected=DATASET_NAMES, mend=RENAMING)
        if not skip_bad:
            raise fault.error(directory)
        omitted.append(left_out(directory, fault))
    named = {name: where for name, where in directories.items() if is_dataset_name(name)}
    for contents in read_datasets(named, columns):
        faulty = [(Path(file.path), fault) for file in contents.files for fault in file.faults]
        if faulty and not skip_bad:
            raise faulty[0][1].error(faulty[0][0])
        places = [(Path(file.path), file.samples) for file in contents.files]
        samples, repeated = each_once(contents.samples, places, path, skip_bad=skip_bad)
        frames.append(samples.select(columns))
        omitted += [*(left_out(file, fault) for file, fault in faulty), *repeated]
    return CoreExpContents(samples=pl.concat(frames), left_out=tuple(omitted))


def _dataset_directories(path: Path, datasets: Sequence[str] | None) -> dict[str, list[Path]]:
    """Return the sub-directories of each dataset in the order of names; more than one where `-` and `_` mix."""
    found: dict[str, list[Path]] = {}
    for directory in entries_of(path):
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
