"""Does scheduling help? Every policy and planner setting against stock vLLM, simulated, at 60 to 110 % of capacity.

    python benchmarks/simulated_scheduling.py --trace AzureLLMInferenceTrace_conv.csv [--stretches 24] [--budget-ms 1000]

Writes benchmarks/results/simulated_scheduling.json. Without --trace the load is synthetic, and labelled so. The trace is cut
into stretches; each is served at every load under every setting, arrivals stretched to the offered load, by rules
`paceline` and by rules `vllm` (stock), whose steps equal vLLM's own scheduler class (tests/vllm/test_simulated_steps.py).
Compared are ratios to the stock run of the same stretch: geometric means, with 95 % t intervals of their logarithms over
stretches; an interval that does not include 1 is a difference.

Step times are an assumption, not a measurement: a linear model fitted on the steps that Vidur's tables predict for
Llama 3 8B on an A100 (tests/golden/data/vidur). Capacity is that of a burst of the whole load under the stock rules, requests
a second between the 10th and the 90th percentile of completions. Aging's weights and the time target are set from the
first stretch at 80 % under the stock rules, as `paceline tune` does.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from provenance import provenance
from simulator import CAP, CHUNK, LONGEST, TABLES, conversation

from paceline.fit.step_time import StepTimeFit, fit_step_time
from paceline.schedule import LinearStepTime, PlannerSettings, StepLoad
from paceline.schedule.policies import PolicyWeights
from paceline.simulate import (
    LinearCost,
    RequestColumns,
    SimulatedEngine,
    SimulatedRun,
    VidurTables,
    simulate,
    step_records,
)
from paceline.tune.aging import SHORT_REQUEST_FACTOR

RESULTS = Path(__file__).parent / "results" / "simulated_scheduling.json"
STOCK = "stock"
LOADS = (0.6, 0.8, 0.95, 1.1)
BLOCKS = 30_209  # 8B on an A100 of 80 GB, and the one that vLLM keeps
FEW_BLOCKS = 6_000
REQUESTS = 19_000
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is compared: the planner's settings, None for the stock rules, and the tokens of a step."""

    name: str
    planner: PlannerSettings | None
    chunk_size: int = CHUNK


def engine_of(setting: Setting, *, blocks: int, model: LinearStepTime) -> SimulatedEngine:
    """Return the simulated engine of a setting."""
    return SimulatedEngine(
        rules="vllm" if setting.planner is None else "paceline",
        planner=PlannerSettings(chunk_size=setting.chunk_size) if setting.planner is None else setting.planner,
        max_num_seqs=CAP,
        num_blocks=blocks,
        target_model=model,
    )


def figures(run: SimulatedRun, budget_ms: float) -> dict[str, float]:
    """Return the five metrics by which thresholds are scored, percentiles of TTFT, and goodput; seconds."""
    load = run.load
    ttft = run.first_token_seconds - load.arrival_seconds
    several = load.output_tokens > 1
    decode = (run.completion_seconds - run.first_token_seconds)[several] / (load.output_tokens[several] - 1)
    seconds = float(run.completion_seconds.max() - load.arrival_seconds[0])
    prefill = (run.first_token_seconds - run.first_scheduled_seconds) / load.prompt_tokens
    return {
        "TTFT P50": float(np.percentile(ttft, 50)),
        "TTFT P95": float(np.percentile(ttft, 95)),
        "TTFT P99": float(np.percentile(ttft, 99)),
        "TPOT mean": float(decode.mean()),
        "TPOT P99": float(np.percentile(decode, 99)),
        "execution P95": float(np.percentile(run.execution_seconds, 95)),
        "prefill a token": float(prefill.mean()),
        "execution a token": float((run.execution_seconds / (load.prompt_tokens + load.output_tokens)).mean()),
        "goodput": float((1e3 * ttft <= budget_ms).sum() / seconds),
    }


def compared(ours: Sequence[Figures], stock: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Return each figure's ratio to the stock run of the same stretch: mean, 95 % interval, geometric."""
    found: dict[str, dict[str, float]] = {}
    for name in stock[0]:
        logs = np.log([one[name] / other[name] for one, other in zip(ours, stock, strict=True)])
        half = float(scipy.stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
        mean = float(logs.mean())
        found[name] = {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}
    return found


def conclusion(ratios: Mapping[str, Mapping[str, float]]) -> str:
    """Return what a setting changes beyond chance, in words."""
    better: list[str] = []
    worse: list[str] = []
    for name, each in ratios.items():
        if each["low"] <= 1 <= each["high"] or abs(each["ratio"] - 1) < 0.005:
            continue
        (better if (each["ratio"] > 1) == (name == "goodput") else worse).append(f"{name} {each['ratio'] - 1:+.0%}")
    pays = f"helps {', '.join(better)}" if better else "helps nothing"
    return pays + (f"; costs {', '.join(worse)}" if worse else "; costs nothing")


def stretched(load: RequestColumns, rate: float) -> RequestColumns:
    """Return the load from time 0 on, at so many requests a second."""
    arrivals = load.arrival_seconds - load.arrival_seconds[0]
    return replace(load, arrival_seconds=arrivals * ((len(load) - 1) / arrivals[-1] / rate))


def capacity(load: RequestColumns, engine: SimulatedEngine, cost: LinearCost) -> float:
    """Return the requests a second that a burst of the load is served with."""
    burst = replace(load, arrival_seconds=np.zeros(len(load)))
    ends = np.sort(simulate(burst, engine, cost, with_steps=False).completion_seconds)
    low, high = len(ends) // 10, 9 * len(ends) // 10
    return (high - low) / float(ends[high] - ends[low])


def assumed_step_time(load: RequestColumns) -> StepTimeFit:
    """Return the linear model of the steps that the tables predict for the load under the stock rules."""
    engine = SimulatedEngine(
        rules="vllm", planner=PlannerSettings(chunk_size=CHUNK), max_num_seqs=CAP, num_blocks=BLOCKS
    )
    steps = simulate(load, engine, VidurTables.load(TABLES)).steps
    assert steps is not None
    return fit_step_time(step_records(steps, [str(index) for index in range(len(load))], token_budget=CHUNK))


def settings(stock: SimulatedRun, model: LinearStepTime) -> list[Setting]:
    """Return everything that is compared, tuned on a stock run."""
    seconds_a_token = float(
        ((stock.first_token_seconds - stock.first_scheduled_seconds) / stock.load.prompt_tokens).mean()
    )
    weights = PolicyWeights(time_weight=1.0, prompt_weight=-seconds_a_token)
    alternative = PolicyWeights(time_weight=SHORT_REQUEST_FACTOR / seconds_a_token, prompt_weight=-1.0)
    half = StepLoad(decode_tokens=CAP // 2, decode_context_tokens=CAP // 2 * 1300, prefill_tokens=CHUNK // 2)
    target_ms = model.predict_ms(half)
    fcfs, tenth = PlannerSettings(chunk_size=CHUNK, target_base_share=0.5), CHUNK // 10  # 0.5: the default then
    srtf, aging = replace(fcfs, policy="srtf"), replace(fcfs, policy="aging", weights=weights)
    ours: dict[str, PlannerSettings] = {
        "fcfs": fcfs,
        "spf": replace(fcfs, policy="spf"),
        "srtf": srtf,
        "aging": aging,
        "aging, alternative": replace(fcfs, policy="aging", weights=alternative),
        f"min_chunk_threshold {tenth}": replace(fcfs, min_chunk_threshold=tenth),
        f"min_chunk_threshold {CHUNK // 4}": replace(fcfs, min_chunk_threshold=CHUNK // 4),
        f"min_chunk_tokens {tenth}": replace(fcfs, min_chunk_tokens=tenth),
        f"min_chunk_tokens {CHUNK // 4}": replace(fcfs, min_chunk_tokens=CHUNK // 4),
        f"max_chunk_tokens {CHUNK // 2}": replace(fcfs, max_chunk_tokens=CHUNK // 2),
        f"target_time_ms {target_ms:.3g}": replace(fcfs, target_time_ms=target_ms),
        "srtf, max_partial_prefills 1": replace(srtf, max_partial_prefills=1),
        f"srtf, min_chunk_tokens {tenth}": replace(srtf, min_chunk_tokens=tenth),
        f"aging, min_chunk_tokens {tenth}": replace(aging, min_chunk_tokens=tenth),
        f"srtf, target_time_ms {target_ms:.3g}": replace(srtf, target_time_ms=target_ms),
    }
    found = [Setting(name=name, planner=planner) for name, planner in ours.items()]
    for size in (CHUNK // 2, 2 * CHUNK, 4 * CHUNK):
        found.append(Setting(name=f"stock, chunk_size {size}", planner=None, chunk_size=size))
        wider = replace(srtf, chunk_size=size)
        found.append(Setting(name=f"srtf, chunk_size {size}", planner=wider, chunk_size=size))
    return found


def rows(
    parts: Sequence[RequestColumns],
    made: Sequence[Setting],
    *,
    served: Callable[[RequestColumns, Setting], SimulatedRun],
    rate: float,
    budget_ms: float,
) -> list[dict[str, Any]]:
    """Return the stock figures and every setting's ratios at one load."""
    loads = [stretched(part, rate) for part in parts]
    plain = Setting(name=STOCK, planner=None)
    stock = [figures(served(load, plain), budget_ms) for load in loads]
    means = {name: float(np.mean([each[name] for each in stock])) for name in stock[0]}
    found: list[dict[str, Any]] = [{"setting": STOCK, "means": means}]
    for setting in made:
        ratios = compared([figures(served(load, setting), budget_ms) for load in loads], stock)
        found.append({"setting": setting.name, "ratios": ratios, "conclusion": conclusion(ratios)})
    return found


def main() -> None:
    """Print a conclusion a row and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--stretches", type=int, default=24)
    parser.add_argument("--budget-ms", type=float, default=1000.0, help="of a first token, for goodput")
    arguments = parser.parse_args()
    whole = conversation(arguments.trace, REQUESTS)
    parts = [whole.part(part) for part in np.array_split(np.arange(len(whole)), arguments.stretches)]
    fit = assumed_step_time(parts[0])
    cost = LinearCost(fit.model)
    plain = Setting(name=STOCK, planner=None)
    served_at = capacity(whole, engine_of(plain, blocks=BLOCKS, model=fit.model), cost)
    stock = simulate(stretched(parts[0], 0.8 * served_at), engine_of(plain, blocks=BLOCKS, model=fit.model), cost)
    made = settings(stock, fit.model)
    document: dict[str, Any] = {
        **provenance("simulated_scheduling.py"),
        "simulated": True,
        "synthetic": arguments.trace is None,
        "assumed": "linear step times fitted on Vidur's predictions for Llama 3 8B on an A100; not measured",
        "step_time": fit.document(),
        "capacity_per_second": served_at,
        "stretches": len(parts),
        "requests_a_stretch": [len(part) for part in parts],
        "longest_tokens": LONGEST,
        "budget_ms": arguments.budget_ms,
        "settings": {each.name: each.planner and asdict(each.planner) for each in made},
        "loads": [],
    }
    for blocks in (BLOCKS, FEW_BLOCKS):

        def served(load: RequestColumns, setting: Setting, blocks: int = blocks) -> SimulatedRun:
            return simulate(load, engine_of(setting, blocks=blocks, model=fit.model), cost, with_steps=False)

        for share in LOADS:
            found = rows(parts, made, served=served, rate=share * served_at, budget_ms=arguments.budget_ms)
            document["loads"].append({"share": share, "blocks": blocks, "rows": found})
            print(f"\n{share:.0%} of {served_at:.2f} requests/s, {blocks:,} blocks. Stock:", found[0]["means"])
            for row in found[1:]:
                print(f"  {row['setting']}: {row['conclusion']}")
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
