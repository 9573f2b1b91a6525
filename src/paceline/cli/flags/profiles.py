"""The arguments that every command reading a profile takes, and how it reports what it left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.flags.lists import split_list
from paceline.cli.printing import note
from paceline.errors import InvalidValueError, ProfileDataError
from paceline.profiles import Profile, read_profile
from paceline.profiles.parts import parts_of
from paceline.profiles.sentinels import MachineDrift, read_drifts

ProfileArgument = Annotated[
    Path, typer.Argument(metavar="PROFILE", help="A native store, a core-exp directory or a Parquet file of samples.")
]
DatasetsOption = Annotated[
    list[str] | None, typer.Option("--datasets", help="Only these datasets (`-` and `_` alike).", show_default="all")
]
SkipBadFlag = Annotated[
    bool, typer.Option("--skip-bad", help="Leave bad files and samples out, and list them, instead of stopping.")
]


def read_listing_left_out(
    path: Path, *, datasets: Sequence[str] | None, columns: Sequence[str] | None, skip_bad: bool
) -> Profile:
    """Read a profile and list on standard error every file and sample that `skip_bad` left out."""
    profile = read_profile(path, datasets=split_list(datasets), columns=columns, skip_bad=skip_bad)
    for each in profile.left_out:
        note(each.reason, mark="left out")
    note_drift_in(profile.source)
    note_parts_of(profile.source)
    return profile


def note_parts_of(store: Path) -> None:
    """Say on standard error that a certified profile timed some configurations on more questions than others."""
    parts = parts_of(store)
    if parts is not None:
        note(
            f"{store} is a certified profile: all configurations answered the {len(parts.choosing):,} questions that chose, and "
            "some were timed on others too, so figures over all samples are not of the same questions; its own table.json is",
            mark="caution",
        )


def note_drift_in(store: Path) -> None:
    """Warn on standard error where the machine's speed moved while a profile was measured, as far as its sentinels tell."""
    try:
        drifts = read_drifts(store)
    except ProfileDataError as error:  # the samples are read all the same
        note(str(error), mark="caution")
        return
    note_drifts(drifts)


def note_drifts(drifts: Sequence[MachineDrift]) -> None:
    """Warn on standard error of every rank whose machine's speed moved."""
    for each in drifts:
        if each.moved:
            note(each.warning, mark="caution")


def read_with_pictures(
    path: Path, *, datasets: Sequence[str] | None, columns: Sequence[str], skip_bad: bool
) -> Profile:
    """Read a profile, with what tells which questions share a picture where it asked public sets."""
    read = read_listing_left_out(path, datasets=datasets, columns=columns, skip_bad=skip_bad)
    if not any(run.sources for run in read.provenance):
        return read
    told = (*columns, "sample_id", "metadata")
    return read_profile(path, datasets=split_list(datasets), columns=told, skip_bad=skip_bad)


def one_source(profile: Path | None, results_dir: Path | None) -> Path:
    """Return the one of two ways to name a profile that was given; raises InvalidValueError for none and for both."""
    given = [path for path in (profile, results_dir) if path is not None]
    if len(given) != 1:
        named = " and ".join(str(path) for path in given) or None
        raise InvalidValueError("profile", named, "one path, as PROFILE or with --results-dir")
    return given[0]
