"""Every sample stands once under every configuration: finding those that do not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paceline.errors import ProfileConflictError
from paceline.profiles.fields import KEY, LeftOut

Part = tuple[Path, pl.DataFrame]


def each_once(parts: Sequence[Part], whole: Path, *, skip_bad: bool) -> tuple[pl.DataFrame, list[LeftOut]]:
    """Join the samples of several files, which hold the columns of `KEY` and others alike, each sample once.

    Raises ProfileConflictError naming a sample that stands twice and its files; with `skip_bad` its first row is kept
    and the others are listed.
    """
    samples = pl.concat([frame for _, frame in parts])
    repeated = repeated_samples(samples)
    omitted: list[LeftOut] = []
    for key in repeated:
        files = [file.name for file, frame in parts if not frame.filter(*_matches(key)).is_empty()]
        problem = f"{whole} holds {sample_words(key)} more than once, in {' and '.join(files)}"
        if not skip_bad:
            raise ProfileConflictError(f"{problem}; expected once: delete the others, or use --skip-bad")
        omitted.append(LeftOut(path=whole, sample=key["sample_id"], reason=f"{problem}; only the first is kept"))
    return samples.filter(pl.struct(KEY).is_first_distinct()) if repeated else samples, omitted


def repeated_samples(samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the key of every sample that stands more than once under one configuration, each key once."""
    # hashes first: grouping 64-bit numbers takes a fraction of the memory of grouping names
    suspects = samples.lazy().select(KEY).filter(pl.struct(KEY).hash().is_duplicated()).collect()
    return suspects.filter(pl.struct(KEY).is_duplicated()).unique(maintain_order=True).to_dicts()


def sample_words(key: Mapping[str, Any]) -> str:
    """Name a sample and its configuration in words, for messages."""
    return (
        f"sample {key['sample_id']!r} of {key['dataset']} under tier {key['tier']}, top_k {key['top_k']}, "
        f"num_active_blocks {key['num_active_blocks']}"
    )


def _matches(key: Mapping[str, Any]) -> list[pl.Expr]:
    return [pl.col(name).eq_missing(pl.lit(value)) for name, value in key.items()]
