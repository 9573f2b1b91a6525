"""Lookup tables from profiles: every configuration aggregated over its samples, written so that nothing is lost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from paceline.analyze import analyzed_columns, dataset_names, latency_of, of_datasets, require_latency
from paceline.control import AggregationMethod, LookupTable, TableEntry, TableMetadata
from paceline.control.table_entry import DEFAULT_TOLERANCE
from paceline.errors import OutputPathError, UnknownChoiceError
from paceline.profiles import CONFIGURATION, Profile, read_profile
from paceline.profiles.atomic import keep_old, make_directory, write_atomically
from paceline.records import KnobConfig, LatencyKind

ACCURACY = pl.col("accuracy")
LATENCY = pl.col("latency_ms")
# (accuracy, latency) of a configuration from its samples
AGGREGATIONS = {
    "mean": (ACCURACY.mean(), LATENCY.mean()),
    "median": (ACCURACY.median(), LATENCY.median()),
    "max_accuracy": (ACCURACY.max(), LATENCY.filter(ACCURACY.eq(ACCURACY.max())).min()),
}


def build_lookup_table(
    profile: Profile,
    *,
    aggregation_method: AggregationMethod = "mean",
    latency_kind: LatencyKind = "prefill",
    tolerance: float = DEFAULT_TOLERANCE,
    datasets: Sequence[str] | None = None,
) -> LookupTable:
    """Return one table over all samples of a profile, or of the named datasets.

    `max_accuracy` takes the accuracy and latency of each configuration's most accurate sample, the fastest of several.
    """
    samples = of_datasets(profile.samples, datasets)
    metadata = TableMetadata(
        aggregation_method=aggregation_method,
        tolerance=tolerance,
        latency_kind=latency_kind,
        datasets=tuple(dataset_names(samples)),
        num_profiling_results=samples.height,
        provenance=tuple(json.loads(msgspec.json.encode(run)) for run in profile.provenance),
    )
    return LookupTable(entries=aggregate_configs(samples, aggregation_method, latency_kind), metadata=metadata)


def build_dataset_tables(
    profile: Profile,
    *,
    aggregation_method: AggregationMethod = "mean",
    latency_kind: LatencyKind = "prefill",
    tolerance: float = DEFAULT_TOLERANCE,
    datasets: Sequence[str] | None = None,
) -> dict[str, LookupTable]:
    """Return one table for each dataset of a profile, or for each of the named ones."""
    return {
        name: build_lookup_table(
            profile,
            aggregation_method=aggregation_method,
            latency_kind=latency_kind,
            tolerance=tolerance,
            datasets=[name],
        )
        for name in dataset_names(of_datasets(profile.samples, datasets))
    }


def build_lookup_table_from_core_exp(
    results_dir: Path | str,
    dataset_names: Sequence[str] | None = None,
    output_file: Path | str | None = None,
    aggregation_method: AggregationMethod = "mean",
    tolerance: float = DEFAULT_TOLERANCE,
    use_prefill_only: bool = True,
) -> LookupTable:
    """Return the table of a core-exp directory (or native store), written to `output_file` where one is given."""
    kind: LatencyKind = "prefill" if use_prefill_only else "total"
    profile = read_profile(Path(results_dir), datasets=dataset_names, columns=analyzed_columns(kind))
    table = build_lookup_table(
        profile, aggregation_method=aggregation_method, latency_kind=kind, tolerance=tolerance, datasets=dataset_names
    )
    if output_file is not None:
        save_table(table, output_file)
    return table


def aggregate_configs(samples: pl.DataFrame, method: str, latency_kind: LatencyKind) -> list[TableEntry]:
    """Return one entry a configuration, aggregated over its samples by `mean`, `median` or `max_accuracy`."""
    if method not in AGGREGATIONS:
        raise UnknownChoiceError("aggregation method", method, tuple(AGGREGATIONS))
    require_latency(samples, latency_kind)
    # the latency becomes a column first: summed inside the groups it costs three times as much
    frame = samples.lazy().select(*CONFIGURATION, "accuracy", latency_ms=latency_of(latency_kind))
    accuracy, latency_ms = AGGREGATIONS[method]
    rows = frame.group_by(CONFIGURATION).agg(
        accuracy=accuracy,
        latency_ms=latency_ms,
        num_samples=pl.len(),
        accuracy_std=ACCURACY.std(ddof=0),
        latency_std_ms=LATENCY.std(ddof=0),
    )
    return [_entry(row) for row in rows.collect().iter_rows(named=True)]


def save_table(table: LookupTable, path: Path | str) -> Path | None:
    """Write a table file in one step; returns where the file it replaces is kept, None when there was none.

    Raises OutputPathError when the path cannot be written; the old file is then as it was.
    """
    path = Path(path)
    text = json.dumps(table.document(), indent=2, allow_nan=False) + "\n"
    try:
        make_directory(path.parent)
        kept = keep_old(path)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    write_atomically(path, text.encode())
    return kept


def _entry(row: dict[str, Any]) -> TableEntry:
    config = KnobConfig(**{name: row.pop(name) for name in CONFIGURATION})
    return TableEntry(config=config, **row)
