"""Every sample stands once under every configuration: finding those that do not."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl

from paceline.errors import ProfileConflictError
from paceline.profiles.fields import KEY, LeftOut


def each_once(
    samples: pl.DataFrame, places: Sequence[tuple[Path, int]], whole: Path, *, skip_bad: bool
) -> tuple[pl.DataFrame, list[LeftOut]]:
    """Return the samples, each once under each configuration; `places` says how many rows came from which file.

    Raises ProfileConflictError naming a sample that stands twice and its files; with `skip_bad` its first row is kept
    and the others are listed.
    """
    repeated = repeated_samples(samples)
    omitted: list[LeftOut] = []
    for key in repeated:
        problem = (
            f"{whole} holds {sample_words(key)} more than once, in {' and '.join(_files_of(key, samples, places))}"
        )
        if not skip_bad:
            raise ProfileConflictError(f"{problem}; expected once: delete the others, or use --skip-bad")
        omitted.append(LeftOut(path=whole, sample=key["sample_id"], reason=f"{problem}; only the first is kept"))
    return samples.filter(pl.struct(KEY).is_first_distinct()) if repeated else samples, omitted


def repeated_samples(samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the key of every sample that stands more than once under one configuration, each key once."""
    hashes = samples.select(pl.struct(KEY).hash()).to_series()  # counting numbers takes less than grouping names
    if hashes.n_unique() == samples.height:
        return []
    suspects = samples.select(KEY).filter(hashes.is_duplicated())
    return suspects.filter(pl.struct(KEY).is_duplicated()).unique(maintain_order=True).to_dicts()


def sample_words(key: Mapping[str, Any]) -> str:
    """Name a sample and its configuration in words, for messages."""
    return (
        f"sample {key['sample_id']!r} of {key['dataset']} under tier {key['tier']}, top_k {key['top_k']}, "
        f"num_active_blocks {key['num_active_blocks']}"
    )


def _files_of(key: Mapping[str, Any], samples: pl.DataFrame, places: Sequence[tuple[Path, int]]) -> list[str]:
    same = [pl.col(name).eq_missing(pl.lit(value)) for name, value in key.items()]
    rows = samples.with_row_index("row").filter(*same)["row"].to_list()
    ends = list(accumulate(height for _, height in places))
    return list(dict.fromkeys(places[bisect_right(ends, row)][0].name for row in rows))
