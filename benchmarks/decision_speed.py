"""Time one decision of a lookup table and of the estimator with bound, for grids of 27 and 125 configurations.

    python benchmarks/decision_speed.py [--calls 200000] [--rounds 30]

Writes benchmarks/results/decision_speed.json. Tables, network weights and bounds are synthetic; budgets are spread over
the whole range of latencies and beyond, so that every decision is asked for. The loop itself counts. The estimator with
bound runs its network of 256 hidden units over the whole grid for every request, and is called a hundredth as often.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from provenance import provenance

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.control.estimated import BoundController
from paceline.errors import PacelineWarning
from paceline.estimate.artifact import weight_shapes
from paceline.estimate.bounds import CalibratedConfig, ConformalScores, LatencyBounds
from paceline.estimate.description import DECODE_DEFINITIONS, EstimatorDescription
from paceline.estimate.features import FEATURES
from paceline.estimate.network import NetworkEstimator
from paceline.records import TIERS, KnobGrid, RequestFeatures

GRIDS = {
    27: KnobGrid(tiers=TIERS, top_ks=(4, 6, 8), block_counts=(12, 14, 16)),
    125: KnobGrid(tiers=(None,), top_ks=tuple(range(1, 6)), block_counts=tuple(range(1, 26))),
}
HIDDEN, LAYERS, CALIBRATING = 256, 2, 1000
CALLS_OF_TABLE_A_CALL = 100
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


def synthetic_network(grid: KnobGrid) -> NetworkEstimator:
    """Return a network of the usual size with random weights: it costs what a trained one costs."""
    random = np.random.default_rng(3407)
    weights = {
        name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in weight_shapes(HIDDEN, LAYERS).items()
    }
    weights["target_scale_K"] = np.array([100.0, 10.0], dtype=np.float32)
    description = EstimatorDescription(
        hidden_dim=HIDDEN,
        num_layers=LAYERS,
        feature_ranges=dict.fromkeys(FEATURES, (0.0, 4000.0)),
        typical_text_tokens=30,
        typical_vision_tokens=dict.fromkeys(grid.tiers, 1000),
        configs=tuple(grid.configurations()),
        decode_definition=DECODE_DEFINITIONS[0],
        split={"seed": 3407, "calibration_share": 0.2, "test_share": 0.2},
        training={},
        datasets=("synthetic",),
        num_rows=1,
        num_decode_rows=1,
    )
    return NetworkEstimator(description=description, weights=weights)


def synthetic_bound(grid: KnobGrid) -> BoundController:
    """Return the estimator with bounds calibrated on random scores."""
    configs = grid.configurations()
    random = np.random.default_rng(3407)
    scores = ConformalScores(
        scores_N=np.sort(random.normal(0, 0.1, (len(configs), CALIBRATING)), axis=1).ravel(),
        requests_N=np.tile(np.arange(CALIBRATING, dtype=np.int32), len(configs)),
        counts_C=np.full(len(configs), CALIBRATING),
    )
    known = tuple(
        CalibratedConfig(
            config=config,
            accuracy=float(random.random()),
            accuracy_std=0.4,
            num_samples=200,
            expected_output_tokens=8.0,
        )
        for config in configs
    )
    return BoundController(
        model=synthetic_network(grid), bounds=LatencyBounds(configs=known, scores={"prefill": scores})
    )


def bound_decider(grid: KnobGrid) -> tuple[Callable[[float], object], tuple[float, float]]:
    """Return the decision for one request by budget, and the range of bounds that budgets should cover."""
    controller = synthetic_bound(grid)
    features = RequestFeatures(text_tokens=30, vision_tokens=dict.fromkeys(grid.tiers, 1000))
    latencies_ms = synthetic_network(grid).estimate(features).prefill_ms_C
    return lambda budget_ms: controller.predict(budget_ms, features=features), (
        float(latencies_ms.min()),
        1.5 * float(latencies_ms.max()),
    )


def nanoseconds_a_call(decide: Callable[[float], object], budgets_ms: list[float]) -> float:
    """Return the mean time of one call over all budgets, the loop included."""
    start = time.perf_counter_ns()
    for budget_ms in budgets_ms:
        decide(budget_ms)
    return (time.perf_counter_ns() - start) / len(budgets_ms)


def measured(
    name: str, decide: Callable[[float], object], range_ms: tuple[float, float], calls: int, rounds: int
) -> dict[str, float]:
    """Time decisions over a range of budgets; prints and returns the spread over rounds."""
    random = Random(3407)
    budgets_ms = [random.uniform(range_ms[0], 1.1 * range_ms[1]) for _ in range(calls)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)
        times = [nanoseconds_a_call(decide, budgets_ms) for _ in range(rounds)]
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    figures = {"median_ns": statistics.median(times), "p5_ns": cuts[0], "p95_ns": cuts[-1]}
    print(
        f"{name}: median {figures['median_ns']:,.0f} ns a decision "
        f"(p5 {cuts[0]:,.0f}, p95 {cuts[-1]:,.0f}; {rounds} rounds of {calls:,} calls)"
    )
    return figures


def main() -> None:
    """Time the decisions, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    tables: dict[str, dict[str, float]] = {}
    bounds: dict[str, dict[str, float]] = {}
    for count, grid in GRIDS.items():
        table = synthetic_table(grid, Random(3407))
        name = f"table of {count} configurations"
        tables[str(count)] = measured(name, table.predict, table.latency_range_ms, arguments.calls, arguments.rounds)
        decide, range_ms = bound_decider(grid)
        calls = max(1, arguments.calls // CALLS_OF_TABLE_A_CALL)
        bounds[str(count)] = measured(
            f"estimator with bound, {count} configurations", decide, range_ms, calls, arguments.rounds
        )
    document = {
        **provenance("decision_speed.py"),
        "rounds": arguments.rounds,
        "calls": arguments.calls,
        "configurations": tables,
        "estimator_with_bound": bounds,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
