"""A synthetic lookup table over the embedded model's 27 configurations: what it says of times and accuracies was not measured."""

import json
from itertools import product

from paceline.control.table import LookupTable
from paceline.control.table_entry import TableEntry, TableMetadata
from paceline.models.loading import EMBEDDED
from paceline.records import KnobConfig

TIERS, TOP_KS, BLOCKS = ("low", "medium", "high"), (1, 4, 8), (8, 12, 16)


def synthetic_table(scale=1.0, latency_kind="ttft"):
    ranking = json.loads((EMBEDDED["digits"] / "paceline.json").read_text())["block_ranking"]
    entries = [
        TableEntry(
            config=KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks),
            accuracy=0.5 + 0.1 * TIERS.index(tier) + 0.01 * TOP_KS.index(top_k) + 0.02 * BLOCKS.index(blocks),
            latency_ms=scale * (5 + 10 * TIERS.index(tier) + top_k + blocks / 2),
            num_samples=10,
            accuracy_std=0.1,
            latency_std_ms=1.0,
        )
        for tier, top_k, blocks in product(TIERS, TOP_KS, BLOCKS)
    ]
    return LookupTable(
        entries=entries,
        metadata=TableMetadata(
            aggregation_method="mean",
            tolerance=0.05,
            latency_kind=latency_kind,
            datasets=("synthetic",),
            num_profiling_results=270,
            provenance=({"model": "digits", "block_ranking": ranking},),
        ),
    )


def write_table(path, scale=1.0, latency_kind="ttft"):
    path.write_text(json.dumps(synthetic_table(scale, latency_kind).document()))
    return path
