"""Serve a workload with Vidur itself and time its loop; benchmarks/simulator.py runs this with Vidur's interpreter.

    VIDUR_COPY/… $ python vidur_loop.py LOAD.npz TABLES.npz CHUNK CAP BLOCKS

Vidur's own scheduler, events and predictor run, metrics off; its predictions are the tables, as its cache would hold them.
Prints one JSON line: CPU seconds of the loop, and the completion times, to be compared with ours.
"""

import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path.cwd()))
from vidur.config import (  # type: ignore[import-not-found]
    ClusterConfig,
    MetricsConfig,
    RandomForrestExecutionTimePredictorConfig,
    ReplicaConfig,
    RoundRobinGlobalSchedulerConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
    TraceRequestGeneratorConfig,
)
from vidur.execution_time_predictor.sklearn_execution_time_predictor import (  # type: ignore[import-not-found]
    SklearnExecutionTimePredictor,
)
from vidur.request_generator.trace_replay_request_generator import (  # type: ignore[import-not-found]
    TraceReplayRequestGenerator,
)
from vidur.simulator import Simulator  # type: ignore[import-not-found]

CONTEXT_STEP = 64
LONGEST = 4096  # tokens of a request: the loads are cut to it already


def predictions(path: str) -> dict[str, dict[tuple[int, ...], float]]:
    """Return the tables as Vidur keeps predictions: dictionaries by tuples."""
    found: dict[str, dict[tuple[int, ...], float]] = {}
    with np.load(path) as tables:
        for name in tables.files:
            table = tables[name]
            if table.ndim == 1:
                found[name] = {(index,): float(table[index]) for index in range(1, len(table))}
        decode, prefill = tables["attn_decode"], tables["attn_prefill"]
        found["attn_decode"] = {
            (row, CONTEXT_STEP * column): float(decode[row, column]) for row, column in np.ndindex(*decode.shape)
        }
        found["attn_prefill"] = {
            (CONTEXT_STEP * row, column**2): float(prefill[row, column]) for row, column in np.ndindex(*prefill.shape)
        }
    return found


def configuration(folder: str, trace: str, chunk: int, cap: int, blocks: int) -> Any:
    """Return Vidur's configuration: one replica of Llama 3 8B, no metrics."""
    return SimulationConfig(
        log_level="error",
        cluster_config=ClusterConfig(
            num_replicas=1,
            replica_config=ReplicaConfig(model_name="meta-llama/Meta-Llama-3-8B", device="a100"),
            global_scheduler_config=RoundRobinGlobalSchedulerConfig(),
            replica_scheduler_config=SarathiSchedulerConfig(chunk_size=chunk, batch_size_cap=cap, num_blocks=blocks),
        ),
        request_generator_config=TraceRequestGeneratorConfig(trace_file=trace, max_tokens=LONGEST),
        execution_time_predictor_config=RandomForrestExecutionTimePredictorConfig(skip_cpu_overhead_modeling=True),
        metrics_config=MetricsConfig(
            write_metrics=False,
            write_json_trace=False,
            enable_chrome_trace=False,
            store_plots=False,
            store_operation_metrics=False,
            store_token_completion_metrics=False,
            store_request_metrics=False,
            store_batch_metrics=False,
            store_utilization_metrics=False,
            keep_individual_batch_metrics=False,
            wandb_project=None,
            output_dir=folder,
            cache_dir=folder,
        ),
    )


def main() -> None:
    """Run Vidur and print what it took."""
    load_path, tables_path, *numbers = sys.argv[1:]
    chunk, cap, blocks = map(int, numbers)
    requests: list[Any] = []

    def nothing(_self: Any) -> dict[str, Any]:
        return {}

    def tabled(_self: Any) -> dict[str, dict[tuple[int, ...], float]]:
        return predictions(tables_path)

    SklearnExecutionTimePredictor._train_models = nothing
    SklearnExecutionTimePredictor._predict_from_models = tabled
    generate = TraceReplayRequestGenerator.generate_requests

    def kept(self: Any) -> list[Any]:
        requests.extend(generate(self))
        return requests

    TraceReplayRequestGenerator.generate_requests = kept
    with tempfile.TemporaryDirectory() as folder, np.load(load_path) as load:
        trace = Path(folder) / "trace.csv"
        with trace.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("arrived_at", "num_prefill_tokens", "num_decode_tokens"))
            rows.writerows(zip(load["arrived"].tolist(), load["prompt"].tolist(), load["output"].tolist(), strict=True))
        simulator = Simulator(configuration(folder, str(trace), chunk, cap, blocks))
        started = time.process_time()
        simulator.run()
        seconds = time.process_time() - started
    completed = [request.completed_at for request in requests]
    sys.stdout.write(json.dumps({"seconds": seconds, "completed": completed}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # Vidur writes its output when Python exits


if __name__ == "__main__":
    main()
