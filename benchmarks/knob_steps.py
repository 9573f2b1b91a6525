"""Time the ways to run the experts of a mixed step in vLLM: pairs of a row and an expert, masked weights, a run for each number.

    .venv-vllm/bin/python benchmarks/knob_steps.py [--rounds 15] [--rows 2 4 8 16 32 64 128 256 512]

Writes benchmarks/results/knob_steps.json. One mixture-of-experts layer as vLLM loads it (random weights, hidden 512, 32
experts of 512, 8 a token), half of the rows on 8 experts and half on 2, on one thread. Seconds are of processor time; the
ways and the layer as it is, 8 experts for every row, take turns. The worker runs pairs; the other two are written here.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}

import torch
from provenance import provenance
from tiny_moe import write_tiny_moe

from paceline.vllm_plugin.relied_on import EngineArgs, LLMEngine
from paceline.vllm_plugin.relied_on_model import set_forward_context
from paceline.vllm_plugin.request_knobs import NATIVE, RequestKnobs
from paceline.vllm_plugin.step_knobs import StepKnobs, weights_of_fewer

RESULTS = Path(__file__).parent / "results" / "knob_steps.json"
HIDDEN, EXPERTS, TOP_K, FEWER = 512, 32, 8, 2


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


def masked(run: Any, x: Any, weights: Any, ids: Any, _: Any) -> Any:
    """Run all rows on the largest number, weights beyond a row's own being 0."""
    return run(x=x, topk_weights=weights, topk_ids=ids)


def grouped(run: Any, x: Any, weights: Any, ids: Any, top_k_T: Any) -> Any:
    """Run once for each number of experts, on the rows that want it."""
    out = torch.empty_like(x)
    for top_k in top_k_T.unique().tolist():
        rows = (top_k_T == top_k).nonzero()[:, 0]
        own = {"topk_weights": weights[rows, :top_k].contiguous(), "topk_ids": ids[rows, :top_k].contiguous()}
        out[rows] = run(x=x[rows], **own)
    return out


OTHERS = {"masked": masked, "grouped": grouped}


def seconds(worker: Any, rows: int, way: str, step: StepKnobs) -> float:
    """Return the processor seconds of one layer's experts for so many rows."""
    told, moe = worker.steering, worker.steering.moes[0]
    x_TH = torch.randn(rows, HIDDEN)
    weights_TK, ids_TK = torch.randn(rows, EXPERTS).softmax(-1).topk(TOP_K)
    ids_TK = ids_TK.to(torch.int32)
    told._step = step if way == "pairs" else None
    run = partial(moe.routed_experts.forward_modular, shared_experts=None, shared_experts_input=None)
    try:
        with torch.no_grad(), set_forward_context(None, worker.vllm_config):
            start = time.process_time()
            if way in OTHERS:
                top_k_T = step.top_k_of_rows(rows)
                kept, order = weights_of_fewer(weights_TK, ids_TK, top_k_T, renormalize=moe.router.renormalize)
                OTHERS[way](run, x_TH, kept, order, top_k_T)
            else:
                run(x=x_TH, topk_weights=weights_TK, topk_ids=ids_TK)
            return time.process_time() - start
    finally:
        told._step = None


def measured(worker: Any, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return by way its milliseconds, and within a round the ratio of pairs to the faster of the other two ways."""
    half = [(NATIVE, rows - rows // 2), (RequestKnobs(FEWER, None), rows // 2)]
    mixed = StepKnobs.of(half, worker.steering.knobs)
    taken: dict[str, list[float]] = {name: [] for name in ("native", "pairs", *OTHERS)}
    for round_number in range(rounds + 2):
        for name, values in taken.items():
            each = min(seconds(worker, rows, name, mixed) for _ in range(3))
            if round_number >= 2:
                values.append(1e3 * each)
    others = map(min, zip(*(taken[name] for name in OTHERS), strict=True))
    ratios = [pairs / other for pairs, other in zip(taken["pairs"], others, strict=True)]
    return {f"{name}_ms": spread(values) for name, values in taken.items()} | {"pairs_over_others": spread(ratios)}


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
    with tempfile.TemporaryDirectory() as folder:
        worker = loaded_worker(Path(folder))
        figures = {str(rows): measured(worker, rows, arguments.rounds) for rows in arguments.rows}
    for rows, found in figures.items():
        ways = "  ".join(f"{name} {found[f'{name}_ms']['median']:7.2f}" for name in ("native", "pairs", *OTHERS))
        ratio = found["pairs_over_others"]
        print(
            f"{rows:>4} rows, ms: {ways}  pairs over the faster of the others {ratio['median']:.2f} ({ratio['min']:.2f} to "
            f"{ratio['max']:.2f})"
        )
    document = {
        **provenance("knob_steps.py"),
        "model": f"synthetic: random weights, hidden {HIDDEN}, {EXPERTS} experts of {HIDDEN}, {TOP_K} a token",
        "clock": "processor time of one thread",
        "rounds": arguments.rounds,
        "rows": figures,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
