"""`profile.json`: what a native store says of itself, and how its parts keep to it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import msgspec

from paceline.errors import ProfileConflictError, ProfileDataError
from paceline.json_document import refuse_unknown_fields
from paceline.profiles.atomic import write_atomically
from paceline.records import SCHEMA_VERSION, Provenance

FILE_NAME = "profile.json"
IDENTITY = ("engine", "model", "revision", "dtype", "device", "settings", "seed", "block_ranking", "datasets")


def encodable(text: str) -> str:
    """Return text that UTF-8 can hold: a path may be of other bytes, and stands for them as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDescription:
    """Where a store's numbers come from: one provenance a run, or the foreign directory they were imported from."""

    provenance: tuple[Provenance, ...]
    imported_from: str | None = None
    left_out: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def write(self, directory: Path) -> None:
        """Write `profile.json` atomically; raises OutputPathError."""
        write_atomically(directory / FILE_NAME, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @staticmethod
    def read(directory: Path) -> "StoreDescription":
        """Read `profile.json`; raises ProfileDataError when it cannot be trusted."""
        path = directory / FILE_NAME
        try:
            content = path.read_bytes()
            found = msgspec.json.decode(content, type=StoreDescription)
            if found.schema_version <= SCHEMA_VERSION:
                refuse_unknown_fields(msgspec.json.decode(content), msgspec.to_builtins(found))
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ProfileDataError(
                path,
                f"cannot be read ({error})",
                expected="the description that `paceline profile` writes",
                mend="restore the file from a copy, or profile into a new directory",
            ) from error
        if found.schema_version > SCHEMA_VERSION:
            raise ProfileDataError(
                path,
                f"is {found.schema_version}",
                field="schema_version",
                expected=f"at most {SCHEMA_VERSION}",
                mend="read it with the newer version of paceline that wrote it",
            )
        return found


def require_one_engine(runs: Iterable[Provenance], source: Path) -> None:
    """Raise ProfileConflictError, naming them, where runs on several engines stand in one profile."""
    engines = sorted({run.engine for run in runs})
    if len(engines) > 1:
        raise ProfileConflictError(
            f"{source} holds measurements of {' and '.join(engines)}; expected those of one engine: milliseconds of one "
            "say nothing of another; profile each into a directory of its own"
        )


def _apart(ours: object, theirs: object) -> tuple[object, object]:
    """Return two values as they are, and of two dictionaries the entries that differ."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return ours, theirs
    one, other = cast("dict[str, object]", ours), cast("dict[str, object]", theirs)
    names = [name for name in {**other, **one} if one.get(name) != other.get(name)]
    return {name: one.get(name) for name in names}, {name: other.get(name) for name in names}


def joined_run(directory: Path, found: StoreDescription, run: Provenance) -> StoreDescription:
    """Return the description with one more run in it; the same one when nothing new is to be recorded.

    A larger grid and newer versions are recorded. Raises ProfileConflictError when the run would measure something
    else than the store holds: another model, device, seed, …
    """
    if not found.provenance:
        raise ProfileConflictError(
            f"{directory} was imported from {found.imported_from} and no run can be added to it; choose another --out"
        )
    held = found.provenance[-1]
    for name in IDENTITY:
        ours, theirs = _apart(getattr(run, name), getattr(held, name))
        if ours != theirs:
            raise ProfileConflictError(
                f"{directory} holds a profile whose {name} is {theirs!r}, but this run's {name} is {ours!r}; expected "
                "the same: choose another --out, or run with the store's own settings"
            )
    known = any(replace(run, created=each.created) == each for each in found.provenance)
    return found if known else replace(found, provenance=(*found.provenance, run))
