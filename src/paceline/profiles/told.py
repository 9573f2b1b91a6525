"""What a sample's metadata tells of its question: the picture it shares with others, and the types it is of."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import polars as pl

Name = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldQuestion:
    """The picture's id, None where it is not told, and the types as `column=value`."""

    picture: str | None = None
    types: tuple[str, ...] = ()


def told_questions(samples: pl.DataFrame) -> dict[Name, ToldQuestion]:
    """Return what the metadata of each question tells, by (dataset, sample_id); needs those columns and `metadata`.

    Metadata of other tools, in which these names may mean anything, tells nothing.
    """
    first = samples.group_by("dataset", "sample_id").agg(pl.col("metadata").first())
    rows = first.with_columns(pl.col("dataset").cast(pl.String)).iter_rows()
    return {(dataset, sample_id): _told(metadata) for dataset, sample_id, metadata in rows}


def pictures_of(told: Mapping[Name, ToldQuestion], names: list[Name]) -> list[Name]:
    """Return what each question shares its picture under: the picture's id, or the question's own where none is told."""
    return [(dataset, told[dataset, name].picture or f"\0{name}") for dataset, name in names]


def _told(metadata: str) -> ToldQuestion:
    try:
        return msgspec.json.decode(metadata, type=ToldQuestion)
    except msgspec.MsgspecError:
        return ToldQuestion()
