"""The tables of a certified profile: usable from the first questions on, and marked with what is certain."""

import json
from pathlib import Path

import msgspec
import numpy as np

from paceline.certify.procedure import ChosenGrid
from paceline.certify.smoothing import GridAccuracies
from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.control.certificate import Certificate
from paceline.control.table_entry import DEFAULT_TOLERANCE
from paceline.profiles.atomic import write_atomically
from paceline.profiles.description import StoreDescription
from paceline.records import LatencyKind

TABLE = "table.json"


def write_tables(out: Path, chosen: ChosenGrid, certificate: Certificate | None, latency_kind: LatencyKind) -> Path:
    """Write `table.json`, and `table-<set>.json` where sets differ beyond noise; return the first one's path."""
    for name, accuracies in chosen.by_set.items():
        _write(out / f"table-{name}.json", certified_table(out, chosen, accuracies, None, latency_kind, (name,)))
    datasets = tuple(StoreDescription.read(out).provenance[-1].datasets)
    path = out / TABLE
    _write(path, certified_table(out, chosen, chosen.accuracies, certificate, latency_kind, datasets))
    return path


def certified_table(
    out: Path,
    chosen: ChosenGrid,
    accuracies: GridAccuracies,
    certificate: Certificate | None,
    latency_kind: LatencyKind,
    datasets: tuple[str, ...],
) -> LookupTable:
    """Return the table of the choosing part: accuracies as chosen by, latencies as paired ratios to the full configuration."""
    runs = StoreDescription.read(out).provenance
    count = len(chosen.answers_MC)
    entries = [
        TableEntry(
            config=config,
            accuracy=float(np.clip(accuracies.accuracy_C[place], 0, 1)),
            latency_ms=float(chosen.latency_ms_C[place]),
            num_samples=count,
            accuracy_std=float(chosen.answers_MC[:, place].std()),
            latency_std_ms=0.0,
        )
        for place, config in enumerate(chosen.configs)
    ]
    return LookupTable(
        entries=entries,
        metadata=TableMetadata(
            aggregation_method="mean",
            tolerance=DEFAULT_TOLERANCE,
            latency_kind=latency_kind,
            datasets=datasets,
            num_profiling_results=count * len(chosen.configs),
            provenance=tuple(json.loads(msgspec.json.encode(run)) for run in runs),
            certificate=certificate,
            chosen_on=count,
        ),
    )


def _write(path: Path, table: LookupTable) -> None:
    # rewritten at every verdict: older states are in the journals, and need no copies
    write_atomically(path, (json.dumps(table.document(), indent=2, allow_nan=False) + "\n").encode())
