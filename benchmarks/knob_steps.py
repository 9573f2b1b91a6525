"""Time both ways to run the experts of a mixed step in vLLM: once with masked weights, or once for each number of experts.

    .venv-vllm/bin/python benchmarks/knob_steps.py [--rounds 15] [--rows 2 4 8 16 32 64 128 256 512]

Writes benchmarks/results/knob_steps.json. One mixture-of-experts layer as vLLM loads it (random weights, hidden 512, 32
experts of 512, 8 a token), half of the rows on 8 experts and half on 2, on one thread. Seconds are of processor time; the
two ways and the layer as it is, 8 experts for every row, take turns. The worker masks up to `steering.MASKED_ROWS` rows.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}

import torch
from tiny_moe import write_tiny_moe

from paceline.vllm_plugin import steering
from paceline.vllm_plugin.relied_on import EngineArgs, LLMEngine
from paceline.vllm_plugin.relied_on_model import set_forward_context
from paceline.vllm_plugin.request_knobs import NATIVE, RequestKnobs
from paceline.vllm_plugin.step_knobs import StepKnobs

RESULTS = Path(__file__).parent / "results" / "knob_steps.json"
HIDDEN, EXPERTS, TOP_K, FEWER = 512, 32, 8, 2
NEVER, ALWAYS = 0, 10**9


def loaded_worker(folder: Path) -> Any:
    """Return Paceline's worker of a new engine."""
    write_tiny_moe(folder, layers=2, hidden=HIDDEN, experts=EXPERTS, top_k=TOP_K)
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            block_size=32,
            skip_tokenizer_init=True,
            worker_cls="paceline.vllm_plugin.worker",
            scheduler_cls="paceline.vllm_plugin.scheduler",
        )
    )
    return engine.model_executor.driver_worker.worker


def seconds(worker: Any, rows: int, step: StepKnobs | None, masked_rows: int) -> float:
    """Return the processor seconds of one layer's experts for so many rows."""
    told, moe = worker.steering, worker.steering.moes[0]
    x_TH = torch.randn(rows, HIDDEN)
    weights_TK, ids_TK = torch.randn(rows, EXPERTS).softmax(-1).topk(TOP_K)
    ids_TK = ids_TK.to(torch.int32)
    told._step, steering.MASKED_ROWS = step, masked_rows
    try:
        with torch.no_grad(), set_forward_context(None, worker.vllm_config):
            start = time.process_time()
            moe.routed_experts.forward_modular(
                x=x_TH, topk_weights=weights_TK, topk_ids=ids_TK, shared_experts=None, shared_experts_input=None
            )
            return time.process_time() - start
    finally:
        told._step = None


def measured(worker: Any, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return by way its milliseconds, and the ratio of masked to grouped within a round."""
    half = [(NATIVE, rows - rows // 2), (RequestKnobs(FEWER, None), rows // 2)]
    mixed = StepKnobs.of(half, worker.steering.knobs)
    ways = {"native": (None, NEVER), "masked": (mixed, ALWAYS), "grouped": (mixed, NEVER)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 2):
        for name, (step, masked_rows) in ways.items():
            each = min(seconds(worker, rows, step, masked_rows) for _ in range(3))
            if round_number >= 2:
                taken[name].append(1e3 * each)
    ratios = [masked / grouped for masked, grouped in zip(taken["masked"], taken["grouped"], strict=True)]
    return {f"{name}_ms": spread(values) for name, values in taken.items()} | {"masked_over_grouped": spread(ratios)}


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64, 128, 256, 512])
    arguments = parser.parse_args()
    torch.manual_seed(3407)
    taken_rows = steering.MASKED_ROWS
    with tempfile.TemporaryDirectory() as folder:
        worker = loaded_worker(Path(folder))
        figures = {str(rows): measured(worker, rows, arguments.rounds) for rows in arguments.rows}
    for rows, found in figures.items():
        ratio = found["masked_over_grouped"]
        print(
            f"{rows:>4} rows  native {found['native_ms']['median']:7.2f} ms  masked {found['masked_ms']['median']:7.2f}  grouped "
            f"{found['grouped_ms']['median']:7.2f}  masked over grouped {ratio['median']:.2f} ({ratio['min']:.2f} to "
            f"{ratio['max']:.2f})"
        )
    document = {
        "command": "python benchmarks/knob_steps.py " + " ".join(sys.argv[1:]),
        "model": f"synthetic: random weights, hidden {HIDDEN}, {EXPERTS} experts of {HIDDEN}, {TOP_K} a token",
        "clock": "processor time of one thread",
        "masked_rows": taken_rows,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rows": figures,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
