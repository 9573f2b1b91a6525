"""One trace through real vLLM, vLLM in virtual time and the simulator: how far simulated times are from real ones.

    python benchmarks/simulated_run.py [--trace AzureLLMInferenceTrace_conv.csv] [--requests 150] [--load 0.6] [--runs 3]

Needs vLLM. A tiny random model is served by vLLM's own scheduler: a run to fit the step-time model on, then `--runs` runs of
the trace, whose differences among each other are the noise floor. Then the same trace in virtual time and in the
simulator, with the fitted model (these two must agree exactly), and in the simulator with each run's own step log,
which leaves the scheduling alone to differ. Writes benchmarks/results/simulated_run.json.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from command_line import command_line
from tiny_llm import write_tiny_llm

from paceline.fit.step_time import fit_step_time
from paceline.schedule import PlannerSettings, RequestTimes
from paceline.simulate import LinearCost, ReplayedCost, RequestColumns, SimulatedEngine, StepCost, simulate
from paceline.simulate.simulation import REFERENCE
from paceline.slo import percentile
from paceline.tune.environment import machine, package_versions
from paceline.tune.trace import read_trace
from paceline.tune.workload import LoadScaling, SyntheticLoad, Workload, at_once, scaled
from paceline.vllm_plugin.replay import OfflineVllm
from paceline.vllm_plugin.virtual_replay import VirtualVllm

RESULTS = Path(__file__).parent / "results" / "simulated_run.json"
CHUNK, CAP, BLOCKS, BLOCK_TOKENS, SEED = 256, 16, 1_000, 32, 3407
ARGUMENTS = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_num_seqs": CAP,
    "max_num_batched_tokens": CHUNK,
    "block_size": BLOCK_TOKENS,
    "num_gpu_blocks_override": BLOCKS,
    "enable_prefix_caching": False,
}
ENGINE = SimulatedEngine(
    rules="vllm",
    planner=PlannerSettings(chunk_size=CHUNK),
    max_num_seqs=CAP,
    num_blocks=BLOCKS,
    block_size=BLOCK_TOKENS,
)


def ttfts_ms(requests: Sequence[RequestTimes]) -> dict[str, float]:
    """Return the times to first token by request."""
    return {request.request_id: request.ttft_ms for request in requests}


def figures(requests: Sequence[RequestTimes]) -> dict[str, float]:
    """Return what is compared, in ms."""
    ttft = list(ttfts_ms(requests).values())
    tpot = [request.tpot_ms for request in requests if request.tpot_ms is not None]
    return {
        "TTFT mean": sum(ttft) / len(ttft),
        **{f"TTFT P{percent}": percentile(ttft, percent) for percent in (50, 90, 99)},
        "TPOT mean": sum(tpot) / len(tpot),
    }


def simulated(workload: Workload, cost: StepCost) -> tuple[RequestTimes, ...]:
    """Return the requests' times in the simulator."""
    run = simulate(RequestColumns.of(workload.requests), ENGINE, cost, computed_by=REFERENCE)
    return run.request_times(workload.requests)


def largest_difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the median, the P99 and the largest absolute difference in ms, request by request."""
    off = [abs(one[name] - other[name]) for name in one]
    return {"p50_ms": percentile(off, 50), "p99_ms": percentile(off, 99), "largest_ms": max(off)}


def main() -> None:
    """Print the columns and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--load", type=float, default=0.6, help="share of the capacity that a burst shows")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    count = arguments.requests
    source = SyntheticLoad(count=2 * count).workload(SEED) if arguments.trace is None else read_trace(arguments.trace)
    limited = scaled(source, LoadScaling(limit=2 * count, length_scale=0.25))
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_tiny_llm(Path(folder)))
        with OfflineVllm.open(model, None, engine_args=ARGUMENTS, seed=SEED) as host:

            def served(load: Workload) -> Any:
                return host.replay(load.requests, on_progress=lambda _done, _total: None)

            burst = served(at_once(scaled(limited, LoadScaling(limit=count))))
            rate = arguments.load * count / burst.wall_seconds
            fitting = served(scaled(limited, LoadScaling(rate=rate)))
            fit = fit_step_time(fitting.steps)
            workload = scaled(limited, LoadScaling(limit=count, rate=rate))
            runs = [served(workload) for _ in range(arguments.runs)]
        with VirtualVllm.open(model, None, engine_args=ARGUMENTS, seed=SEED, step_time=fit.model) as virtual:
            in_virtual_time = virtual.replay(workload.requests, on_progress=lambda _done, _total: None).requests
    fitted = simulated(workload, LinearCost(fit.model))
    columns = {f"real {number}": figures(run.requests) for number, run in enumerate(runs)}
    columns["virtual vLLM, fitted"] = figures(in_virtual_time)
    columns["simulator, fitted"] = figures(fitted)
    replayed: list[dict[str, float]] = []
    for number, run in enumerate(runs):
        again = simulated(workload, ReplayedCost.of(run.steps, requests=run.requests))
        columns[f"simulator, log of {number}"] = figures(again)
        replayed.append(largest_difference(ttfts_ms(again), ttfts_ms(run.requests)))
    pairs = list(combinations(range(len(runs)), 2))
    noise = {
        name: max(abs(columns[f"real {one}"][name] / columns[f"real {other}"][name] - 1) for one, other in pairs)
        for name in columns["real 0"]
    }
    error = {
        name: max(
            abs(columns["simulator, fitted"][name] / columns[f"real {one}"][name] - 1) for one in range(len(runs))
        )
        for name in noise
    }
    document: dict[str, Any] = {
        "command": command_line("simulated_run.py"),
        "load": workload.document(),
        "step_time": fit.document(),
        "columns": columns,
        "noise_between_real_runs": noise,
        "error_of_the_simulator": error,
        "virtual_equals_simulated": ttfts_ms(in_virtual_time) == ttfts_ms(fitted),
        "replayed_log": replayed,
        "machine": machine(),
        "versions": package_versions(),
    }
    for name, values in columns.items():
        print(f"{name:24}", "  ".join(f"{figure} {value:.1f}" for figure, value in values.items()))
    print("between real runs:", {name: f"{value:.0%}" for name, value in noise.items()})
    print("simulator against real:", {name: f"{value:.0%}" for name, value in error.items()})
    print("virtual equals simulated:", document["virtual_equals_simulated"], "\nreplayed logs:", replayed)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
