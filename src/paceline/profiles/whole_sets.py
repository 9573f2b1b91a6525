"""Accuracies that follow from a whole set: computed from the stored answers once every question asked is answered.

A configuration whose set is not complete keeps no accuracy there, rather than that of another, smaller set.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paceline.datasets.scorers.cider import Captioned
from paceline.datasets.scorers.whole_set import WHOLE_SET_SCORERS
from paceline.errors import ProfileDataError
from paceline.profiles.fields import CONFIGURATION, SCHEMA, LeftOut
from paceline.profiles.questions import AskedQuestion, Key
from paceline.records import Provenance

ANSWER_COLUMNS = ("dataset", "sample_id", *CONFIGURATION, "pred", "accuracy")
FINISHING = "go on with the same `paceline profile`, name other sets with --datasets, or leave them out with --skip-bad"


def judged_as_a_whole(runs: Sequence[Provenance]) -> set[str]:
    """Return the data sets of these runs whose scorer judges a whole set."""
    return {name for run in runs for name, scorer in run.datasets.items() if scorer in WHOLE_SET_SCORERS}


def with_whole_set_accuracies(samples: pl.DataFrame, questions: Mapping[Key, AskedQuestion]) -> pl.DataFrame:
    """Return the samples with the accuracies filled in that a complete set allows; needs ANSWER_COLUMNS."""
    waiting = samples.filter(pl.col("accuracy").is_null())
    if waiting.is_empty():
        return samples
    by_set = waiting.with_columns(pl.col("dataset", "tier").cast(pl.String)).partition_by("dataset", *CONFIGURATION)
    scored = [_scored(part, questions) for part in by_set]
    keys = {name: samples.schema[name] for name in ("dataset", "sample_id", *CONFIGURATION)}
    found = pl.concat(scored).with_columns(pl.col(name).cast(kind) for name, kind in keys.items())
    joined = samples.join(found, on=list(keys), how="left", nulls_equal=True, maintain_order="left")
    filled = pl.coalesce("accuracy", "whole_set_accuracy").alias("accuracy")
    return joined.with_columns(filled).drop("whole_set_accuracy")


def _scored(part: pl.DataFrame, questions: Mapping[Key, AskedQuestion]) -> pl.DataFrame:
    """Score one set under one configuration; null where some question of it has no answer yet."""
    dataset = str(part["dataset"][0])
    asked = {sample_id: each for (name, sample_id), each in questions.items() if name == dataset}
    said: dict[str, str] = dict(zip(part["sample_id"].to_list(), part["pred"].to_list(), strict=True))
    scores: Mapping[str, Any] = {}
    if asked and set(said) == set(asked):
        rule = WHOLE_SET_SCORERS[next(iter(asked.values())).scorer]
        scores = rule({name: Captioned(prediction=said[name], references=asked[name].references) for name in said})
    values = [scores.get(name) for name in part["sample_id"].to_list()]
    return part.select("dataset", "sample_id", *CONFIGURATION).with_columns(
        pl.Series("whole_set_accuracy", values, dtype=SCHEMA["accuracy"])
    )


def unjudged(samples: pl.DataFrame, path: Path) -> ProfileDataError | None:
    """Return the error that names a set with answers that cannot be judged yet; None where every accuracy is known."""
    if "accuracy" not in samples.columns or not samples["accuracy"].null_count():
        return None
    missing = samples.filter(pl.col("accuracy").is_null())
    names = sorted(missing["dataset"].cast(pl.String).unique().to_list()) if "dataset" in samples.columns else []
    return ProfileDataError(
        path,
        f"{missing.height:,} answers of {', '.join(names) or 'a set'} have no accuracy yet, for not every question of the "
        "set was answered under their configuration",
        field="accuracy",
        expected="complete sets, since their metric is a figure of all their answers",
        mend=FINISHING,
    )


def only_judged(samples: pl.DataFrame, path: Path, *, skip_bad: bool) -> tuple[pl.DataFrame, tuple[LeftOut, ...]]:
    """Return the samples that have an accuracy; raises ProfileDataError for others unless `skip_bad` leaves them out."""
    error = unjudged(samples, path)
    if error is None:
        return samples, ()
    if not skip_bad:
        raise error
    return samples.filter(pl.col("accuracy").is_not_null()), (LeftOut(path=path, sample=None, reason=str(error)),)
