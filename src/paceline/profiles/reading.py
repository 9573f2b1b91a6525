"""Reading any profile alike: a native store, a core-exp directory, or one Parquet file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from paceline.errors import ProfileConflictError, ProfileDataError, UnknownChoiceError
from paceline.profiles.core_exp import read_core_exp
from paceline.profiles.description import FILE_NAME, require_one_engine
from paceline.profiles.fields import SCHEMA, LeftOut, dataset_name
from paceline.profiles.native import CORE_EXP_FILES, is_native, read_native, refuse_undescribed
from paceline.profiles.parquet import read_note, read_parquet
from paceline.profiles.whole_sets import only_judged
from paceline.records import Provenance

PROFILES = "a native store, a core-exp directory or a Parquet file of samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Samples with their provenance, which is empty where the files do not tell it.

    `samples` has one row a sample and configuration, with the columns and types of `SCHEMA` or those asked for.
    """

    samples: pl.DataFrame
    provenance: tuple[Provenance, ...]
    source: Path
    left_out: tuple[LeftOut, ...]


def read_profile(
    path: Path | str,
    *,
    datasets: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Profile:
    """Read a profile of any layout, all of it or some datasets and columns; times are milliseconds.

    Raises ProfileDataError, naming file and field, where the data cannot be trusted, ProfileConflictError where one
    sample stands twice or several engines were measured, and UnknownChoiceError for a dataset that is not there. With
    `skip_bad` bad samples and files are left out instead, and listed in `left_out`; so are answers to a metric of whole sets
    (CIDEr) while theirs is not complete.
    """
    profile = read_unjudged(path, datasets=datasets, columns=columns, skip_bad=skip_bad)
    samples, unjudged = only_judged(profile.samples, profile.source, skip_bad=skip_bad)
    if samples.is_empty():
        raise ProfileDataError(
            profile.source, "holds no samples", expected=PROFILES, mend="check the path, or profile first"
        )
    return replace(profile, samples=samples, left_out=(*profile.left_out, *unjudged))


def read_unjudged(
    path: Path | str,
    *,
    datasets: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Profile:
    """Read a profile as `read_profile` does; answers that are judged with their whole set may have no accuracy yet."""
    path = Path(path)
    wanted = tuple(SCHEMA) if columns is None else tuple(dict.fromkeys(columns))
    unknown = next((name for name in wanted if name not in SCHEMA), None)
    if unknown is not None:
        raise UnknownChoiceError("profile column", unknown, tuple(SCHEMA))
    read = _read_file if path.is_file() else _read_directory
    profile = read(path, None if datasets is None else [dataset_name(name) for name in datasets], wanted, skip_bad)
    require_one_engine(profile.provenance, path)
    return profile


def _read_file(path: Path, datasets: list[str] | None, columns: tuple[str, ...], skip_bad: bool) -> Profile:
    del skip_bad  # a Parquet file is whole or it is not
    if path.suffix != ".parquet":
        mend = "name the directory above it" if path.suffix in (".json", ".jsonl") else "check the path"
        raise ProfileDataError(path, "is no profile", expected=PROFILES, mend=mend)
    note = read_note(path)
    samples = read_parquet(path, columns=_with_dataset(columns, datasets))
    return Profile(
        samples=_of_datasets(samples, datasets, columns),
        provenance=() if note is None else note.description.provenance,
        source=path,
        left_out=(),
    )


def _read_directory(path: Path, datasets: list[str] | None, columns: tuple[str, ...], skip_bad: bool) -> Profile:
    if not path.is_dir():
        raise ProfileDataError(path, "does not exist", expected=PROFILES, mend="check the path")
    if not is_native(path):
        refuse_undescribed(path)
        _refuse_nested_stores(path)
        core_exp = read_core_exp(path, datasets=datasets, columns=columns, skip_bad=skip_bad)
        return Profile(samples=core_exp.samples, provenance=(), source=path, left_out=core_exp.left_out)
    foreign = next(path.glob(CORE_EXP_FILES), None)
    if foreign is not None:
        raise ProfileConflictError(
            f"{path} is a native store and holds core-exp files too ({foreign.relative_to(path)}); expected one "
            "profile a directory: move the files away, `paceline import` them, and `paceline merge` the two"
        )
    native = read_native(path, columns=_with_dataset(columns, datasets), skip_bad=skip_bad)
    return Profile(
        samples=_of_datasets(native.samples, datasets, columns),
        provenance=native.description.provenance,
        source=path,
        left_out=native.left_out,
    )


def _refuse_nested_stores(path: Path) -> None:
    stores = sorted(description.parent.name for description in path.glob(f"*/{FILE_NAME}"))
    if stores:
        raise ProfileConflictError(
            f"{path} holds {len(stores)} native stores ({', '.join(stores[:4])}) and is none itself; expected one "
            "profile: name one of them, or join them with `paceline merge`"
        )


def _with_dataset(columns: tuple[str, ...], datasets: list[str] | None) -> tuple[str, ...]:
    return columns if datasets is None else tuple(dict.fromkeys([*columns, "dataset"]))


def _of_datasets(samples: pl.DataFrame, datasets: list[str] | None, columns: tuple[str, ...]) -> pl.DataFrame:
    if datasets is None:
        return samples
    present = sorted(samples["dataset"].cast(pl.String).unique().to_list())
    for name in datasets:
        if name not in present:
            raise UnknownChoiceError("dataset", name, present or ("none, for the profile is empty",))
    return samples.filter(pl.col("dataset").cast(pl.String).is_in(datasets)).select(columns)
