"""Time one lookup-table decision, for grids of 27 and 125 configurations.

    python benchmarks/decision_speed.py [--calls 200000] [--rounds 30]

Writes benchmarks/results/decision_speed.json. The tables are synthetic; budgets are spread over their whole range and
beyond, so that every decision is asked for. The loop itself counts.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from random import Random

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.records import TIERS, KnobGrid

GRIDS = {
    27: KnobGrid(tiers=TIERS, top_ks=(4, 6, 8), block_counts=(12, 14, 16)),
    125: KnobGrid(tiers=(None,), top_ks=tuple(range(1, 6)), block_counts=tuple(range(1, 26))),
}
RESULTS = Path(__file__).parent / "results" / "decision_speed.json"


def synthetic_table(grid: KnobGrid, random: Random) -> LookupTable:
    """Return a table of random accuracies and of latencies from 100 to 400 ms."""
    entries = [
        TableEntry(
            config=config,
            accuracy=random.random(),
            latency_ms=random.uniform(100, 400),
            num_samples=200,
            accuracy_std=0.4,
            latency_std_ms=5.0,
        )
        for config in grid.configurations()
    ]
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("synthetic",),
        num_profiling_results=200 * len(entries),
    )
    return LookupTable(entries=entries, metadata=metadata)


def nanoseconds_a_call(table: LookupTable, budgets_ms: list[float]) -> float:
    """Return the mean time of one call over all budgets, the loop included."""
    predict = table.predict
    start = time.perf_counter_ns()
    for budget_ms in budgets_ms:
        predict(budget_ms)
    return (time.perf_counter_ns() - start) / len(budgets_ms)


def main() -> None:
    """Time the decisions, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    random = Random(3407)
    figures: dict[str, dict[str, float]] = {}
    for count, grid in GRIDS.items():
        table = synthetic_table(grid, random)
        low_ms, high_ms = table.latency_range_ms
        budgets_ms = [random.uniform(low_ms, 1.1 * high_ms) for _ in range(arguments.calls)]
        rounds = [nanoseconds_a_call(table, budgets_ms) for _ in range(arguments.rounds)]
        cuts = statistics.quantiles(rounds, n=20, method="inclusive")
        figures[str(count)] = {"median_ns": statistics.median(rounds), "p5_ns": cuts[0], "p95_ns": cuts[-1]}
        print(
            f"{count} configurations: median {figures[str(count)]['median_ns']:.0f} ns a decision "
            f"(p5 {cuts[0]:.0f}, p95 {cuts[-1]:.0f}; {arguments.rounds} rounds of {arguments.calls:,} calls)"
        )
    document = {
        "command": "python benchmarks/decision_speed.py " + " ".join(sys.argv[1:]),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": arguments.rounds,
        "calls": arguments.calls,
        "configurations": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
