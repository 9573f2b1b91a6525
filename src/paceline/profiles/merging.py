"""Joining parts of one profile, made by several ranks or machines, into one store."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import polars as pl

from paceline.errors import CertificateError, InvalidValueError, ProfileConflictError
from paceline.profiles.atomic import refuse_occupied
from paceline.profiles.description import StoreDescription, encodable
from paceline.profiles.fields import FIELDS, KEY, LeftOut
from paceline.profiles.parts import parts_of
from paceline.profiles.questions import AskedQuestion, Key, joined_questions, read_questions
from paceline.profiles.reading import Profile, read_unjudged
from paceline.profiles.store import write_store
from paceline.profiles.uniqueness import sample_words
from paceline.profiles.whole_sets import judged_as_a_whole
from paceline.records import TEMPLATE_ARGUMENTS, Provenance

# of settings those that milliseconds, or answers, depend on
SETTINGS_IN_ALL_PARTS = ("torch_threads", "max_new_tokens", TEMPLATE_ARGUMENTS)
SAME_IN_ALL_PARTS = ("model", "revision", "dtype", "device", "block_ranking", *SETTINGS_IN_ALL_PARTS)
SAME_IN_EVERY_STORE = ("engine",)  # whatever is allowed
PART = "part"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedProfile:
    """What a merge wrote: the store's samples, and how many rows were the same measurement in two parts."""

    path: Path
    samples: pl.DataFrame
    joined: int
    left_out: tuple[LeftOut, ...]


def merge_profiles(
    parts: Sequence[Path | str], out: Path | str, *, allow_mixed: bool = False, skip_bad: bool = False
) -> MergedProfile:
    """Join parts into a new store at `out`; one measurement that stands in several parts is kept once.

    Raises ProfileConflictError where two parts measured one sample differently, or ran another model, on another device, with
    other threads or for answers of another length, which `allow_mixed` permits; ProfileDataError for bad samples, which
    `skip_bad` leaves out and lists; CertificateError for a certified profile, whose parts a merged store could not hold;
    OutputPathError when `out` holds anything.
    """
    if not parts:
        raise InvalidValueError("parts", [], "at least one profile to merge")
    parts, out = [Path(part) for part in parts], Path(out)
    refuse_occupied(out)
    _refuse_certified(parts)
    profiles = [read_unjudged(part, skip_bad=skip_bad) for part in parts]
    _refuse_mixed([each for each in profiles if each.provenance], SAME_IN_EVERY_STORE)
    if not allow_mixed:
        _refuse_mixed(profiles, SAME_IN_ALL_PARTS)
    questions = _joined(profiles)
    rows = pl.concat([_unjudged(each).with_columns(pl.lit(index).alias(PART)) for index, each in enumerate(profiles)])
    _refuse_conflicts(rows, parts)
    samples = rows.filter(pl.struct(KEY).is_first_distinct()).drop(PART)
    provenance = tuple(_distinct([run for each in profiles for run in each.provenance]))
    imported_from = None if provenance else encodable(", ".join(str(part) for part in parts))
    omitted = tuple(note for each in profiles for note in each.left_out)
    notes = tuple(encodable(note.reason) for note in omitted)
    description = StoreDescription(provenance=provenance, imported_from=imported_from, left_out=notes)
    write_store(out, samples, description, questions)
    samples = read_unjudged(out).samples
    return MergedProfile(path=out, samples=samples, joined=rows.height - samples.height, left_out=omitted)


def _refuse_certified(parts: Sequence[Path]) -> None:
    """Among other samples nobody could tell which questions chose a configuration: those must not calibrate bounds."""
    for part in parts:
        held = parts_of(part)
        if held is not None:
            raise CertificateError(
                part,
                f"is a certified profile: {len(held.choosing):,} of its questions chose configurations",
                expected="profiles that nothing was chosen from, for a merged store does not say which questions chose",
                mend="merge the others without it, and serve from its own table.json",
            )


def _joined(profiles: Sequence[Profile]) -> dict[Key, AskedQuestion]:
    joined: dict[Key, AskedQuestion] = {}
    for each in profiles:
        if each.source.is_dir():
            joined = joined_questions(each.source, joined, read_questions(each.source).values())
    return joined


def _unjudged(profile: Profile) -> pl.DataFrame:
    """Return a part's samples without the accuracies that a larger set changes: they are computed anew from all parts."""
    questions = read_questions(profile.source) if profile.source.is_dir() else {}
    names = judged_as_a_whole(profile.provenance) & {dataset for dataset, _ in questions}
    late = pl.col("dataset").cast(pl.String).is_in(sorted(names))
    return profile.samples.with_columns(accuracy=pl.when(late).then(None).otherwise(pl.col("accuracy")))


def _refuse_mixed(profiles: Sequence[Profile], names: Sequence[str]) -> None:
    for first, other in pairwise(profiles):
        for name in names:
            ours, theirs = _stated(first, name), _stated(other, name)
            if ours != theirs:
                raise ProfileConflictError(
                    f"{first.source} was measured with {name} {' and '.join(ours)}, {other.source} with "
                    f"{' and '.join(theirs)}; expected the same in every part: merge them apart"
                    + ("" if name in SAME_IN_EVERY_STORE else ", or allow it with --allow-mixed")
                )


def _stated(profile: Profile, name: str) -> list[str]:
    return sorted({repr(_of_run(run, name)) for run in profile.provenance}) or ["not recorded"]


def _of_run(run: Provenance, name: str) -> object:
    return run.settings.get(name) if name in SETTINGS_IN_ALL_PARTS else getattr(run, name)


def _refuse_conflicts(rows: pl.DataFrame, parts: Sequence[Path]) -> None:
    repeated = rows.filter(pl.struct(KEY).is_duplicated())
    differing = repeated.unique(subset=list(FIELDS), maintain_order=True).filter(pl.struct(KEY).is_duplicated())
    if differing.is_empty():
        return
    one = differing.row(0, named=True)
    same = [pl.col(name).eq_missing(pl.lit(one[name])) for name in KEY]
    other = differing.filter(*same).row(1, named=True)
    field = next(name for name in FIELDS if one[name] != other[name])
    raise ProfileConflictError(
        f"{sample_words(one)} was measured twice: its {field} is {one[field]!r} in {parts[one[PART]]} and "
        f"{other[field]!r} in {parts[other[PART]]}; expected one measurement: delete one of the two, or merge the "
        "parts into different stores"
    )


def _distinct(runs: Sequence[Provenance]) -> list[Provenance]:
    return [run for index, run in enumerate(runs) if run not in runs[:index]]
