"""Time the latency network online: a 27-configuration grid in one call, one configuration, and the same in torch.

    python benchmarks/estimator_inference.py [--rounds 30] [--calls 300] [--estimator DIRECTORY]

Writes benchmarks/results/estimator_inference.json. Rounds of the ways alternate; a round's figure is its median call.
Without --estimator the network has the reference size and random weights: its speed does not depend on them.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from paceline.estimate.description import DECODE_DEFINITIONS, EstimatorDescription
from paceline.estimate.features import FEATURES, knob_features
from paceline.estimate.network import NetworkEstimator
from paceline.estimate.request import typical_request
from paceline.fit.estimator.network import LatencyEstimator
from paceline.records import TIERS, KnobGrid

GRID = KnobGrid(tiers=TIERS, top_ks=(4, 6, 8), block_counts=(12, 14, 16))
RESULTS = Path(__file__).parent / "results" / "estimator_inference.json"


def random_network() -> NetworkEstimator:
    """Return a network of the reference size with the weights that training starts from."""
    torch.manual_seed(3407)
    model = LatencyEstimator()
    description = EstimatorDescription(
        hidden_dim=model.hidden_dim,
        num_layers=model.num_layers,
        feature_ranges=dict.fromkeys(FEATURES, (0.0, 3000.0)),
        typical_text_tokens=20,
        typical_vision_tokens={"low": 432, "medium": 1008, "high": 1872},
        configs=tuple(GRID.configurations()),
        decode_definition=DECODE_DEFINITIONS[0],
        split={},
        training={"synthetic": True},
        datasets=("synthetic",),
        num_rows=1,
        num_decode_rows=1,
    )
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return NetworkEstimator(description=description, weights=weights)


def ways(network: NetworkEstimator) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    request, config = typical_request(network.description), network.configs[0]
    model = LatencyEstimator(network.description.hidden_dim, network.description.num_layers).eval()
    rows = torch.tensor(
        [[request.vision_tokens[each.tier], request.text_tokens, *knob_features(each)] for each in network.configs],
        dtype=torch.float32,
    )

    def in_torch() -> object:
        with torch.no_grad():
            return model.predict_rows(rows)

    return {
        f"grid of {len(network.configs)}": lambda: network.estimate(request),
        "one configuration": lambda: network.estimate_one(request, config),
        f"grid of {len(network.configs)}, torch": in_torch,
    }


def median_us(call: Callable[[], object], calls: int) -> float:
    """Return the median microseconds of a call, after a few unmeasured ones."""
    for _ in range(5):
        call()
    times: list[int] = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1000


def main() -> None:
    """Time all ways in turn, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--estimator", type=Path)
    arguments = parser.parse_args()
    network = NetworkEstimator.load(arguments.estimator) if arguments.estimator else random_network()
    timed = ways(network)
    rounds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(arguments.rounds):
        for name, call in timed.items():
            rounds[name].append(median_us(call, arguments.calls))
    figures: dict[str, dict[str, float]] = {}
    for name, values in rounds.items():
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        figures[name] = {"median_us": statistics.median(values), "p5_us": cuts[0], "p95_us": cuts[-1]}
        print(f"{name}: median {figures[name]['median_us']:.1f} us (p5 {cuts[0]:.1f}, p95 {cuts[-1]:.1f} over rounds)")
    document = {
        **provenance("estimator_inference.py"),
        "threads": os.environ.get("OPENBLAS_NUM_THREADS", "the library's own choice"),
        "rounds": arguments.rounds,
        "calls": arguments.calls,
        "ways": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
