"""Bringing a foreign profile into a native store."""

from collections.abc import Sequence
from pathlib import Path

from paceline.errors import ProfileConflictError
from paceline.profiles.atomic import refuse_occupied
from paceline.profiles.description import StoreDescription, encodable
from paceline.profiles.native import is_native
from paceline.profiles.reading import Profile, read_profile
from paceline.profiles.store import write_store


def import_profile(
    source: Path | str, out: Path | str, *, datasets: Sequence[str] | None = None, skip_bad: bool = False
) -> Profile:
    """Copy a core-exp directory or a Parquet file into a new store at `out` and return what was read.

    The store says where it came from and what was left out. Raises what `read_profile` raises, ProfileConflictError
    for a source that is a store already, and OutputPathError when `out` holds anything.
    """
    source, out = Path(source), Path(out)
    refuse_occupied(out)
    if is_native(source):
        raise ProfileConflictError(f"{source} is a native store already; every command reads it as it is")
    profile = read_profile(source, datasets=datasets, skip_bad=skip_bad)
    notes = tuple(encodable(note.reason) for note in profile.left_out)
    description = StoreDescription(provenance=profile.provenance, imported_from=encodable(str(source)), left_out=notes)
    write_store(out, profile.samples, description)
    return profile
