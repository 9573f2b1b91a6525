"""The simulated part of `soak.py`: a day through the fast simulator under a load controller. All of it is synthetic."""

import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from soak_figures import percentiles, share_of

from paceline.control.work_price import PriceSettings
from paceline.schedule import (
    LinearStepTime,
    LoadController,
    LoadDecision,
    LoadSettings,
    PlannerSettings,
    StepLoad,
)
from paceline.simulate import (
    Candidate,
    Choices,
    LinearCost,
    LoadChooser,
    RequestColumns,
    SimulatedEngine,
    SimulatedRun,
    VaryingCost,
    simulate,
)

SEED = 11
HOURS, HOUR_SECONDS = 24, 3600
STRETCHES = ((0, 2400, 0.8), (2400, 3000, 1.3))  # of an hour: from second, to second, load
# of a configuration: share of the prompt's tokens, what a token of it costs, how often it is right
CONFIGURATIONS = ((1.0, 1.0, 0.9), (0.5, 0.8, 0.85), (0.25, 0.6, 0.7))
SIMULATED_BUDGETS = (2.0, 4.0, 8.0, 16.0)  # of what the mean prompt takes alone
STEP_NOISE = 0.05  # of a step's time, lognormal
CALIBRATING = 4000  # requests that are there at once: how many a second the engine gets through
STEP_TIME = LinearStepTime(
    base_ms=60.0,
    per_decode_token_ms=0.6,
    per_decode_context_token_ms=0.0006,
    per_prefill_token_ms=0.45,
    per_prefill_attention_token_ms=0.00001,
)


def requests(arrival_seconds: np.ndarray[Any, Any], random: np.random.Generator) -> RequestColumns:
    """Return requests of lognormal sizes at these times."""
    count = len(arrival_seconds)
    return RequestColumns(
        arrival_seconds=arrival_seconds,
        prompt_tokens=np.clip(random.lognormal(np.log(600), 0.6, count), 1, 3000).astype(np.int64),
        output_tokens=np.clip(random.lognormal(np.log(120), 0.6, count), 1, 600).astype(np.int64),
    )


def day(a_second: float, hours: int, random: np.random.Generator) -> RequestColumns:
    """Return a day whose every hour has the same rates, in shares of the requests a second that the engine gets through."""
    arrivals: list[np.ndarray[Any, Any]] = []
    for hour in range(hours):
        for begins, ends, load in STRETCHES:
            count = random.poisson((ends - begins) * load * a_second)
            arrivals.append(np.sort(random.uniform(begins, ends, count)) + hour * HOUR_SECONDS)
    return requests(np.concatenate(arrivals), random)


def simulated(hours: int = HOURS, seed: int = SEED) -> dict[str, Any]:
    """Serve a day in virtual time under a load controller; return figures by hour, and what must not be."""
    random = np.random.default_rng(seed)
    engine = SimulatedEngine(
        rules="paceline",
        planner=PlannerSettings(chunk_size=512, policy="edf"),
        max_num_seqs=64,
        num_blocks=3000,
        target_model=STEP_TIME,
    )
    at_once = simulate(requests(np.zeros(CALIBRATING), random), engine, LinearCost(STEP_TIME))
    a_second = CALIBRATING / float(at_once.completion_seconds.max())
    load = day(a_second, hours, random)
    alone_seconds = STEP_TIME.predict_ms(StepLoad(prefill_tokens=int(load.prompt_tokens.mean()))) / 1e3
    budgets = random.choice(np.array(SIMULATED_BUDGETS) * alone_seconds, len(load))
    load = replace(load, ttft_budget_seconds=budgets)
    settings = LoadSettings(price=PriceSettings(per_arrival=0.25, step=1.0, share=0.5))
    accuracies = np.tile([accuracy for _, _, accuracy in CONFIGURATIONS], (len(load), 1))
    chooser = LoadChooser(LoadController(settings, engine.planner, STEP_TIME), accuracies)
    candidates = [
        [Candidate(prompt_tokens=max(1, int(share * tokens)), prefill_factor=cost) for share, cost, _ in CONFIGURATIONS]
        for tokens in load.prompt_tokens.tolist()
    ]
    cost = VaryingCost(LinearCost(STEP_TIME), random.lognormal(0, STEP_NOISE, 200_000))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    run = simulate(load, engine, cost, choices=Choices(candidates=candidates, choose=chooser))
    seconds = time.process_time() - started
    rows = by_hour(run, chooser.decisions, budgets, hours)
    promised, kept = sum(each["promised"] for each in rows), sum(each["kept"] for each in rows)
    return {
        "synthetic": True,
        "hours": hours,
        "capacity_requests_a_second": round(a_second, 3),
        "requests": len(load),
        "steps": run.step_count,
        "preemptions": int(run.preemptions.sum()),
        "promises_kept": share_of(kept, promised),
        "processor_seconds": round(seconds, 1),
        "times_real": round(hours * HOUR_SECONDS / seconds),
        "memory_mib_more": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "median_of_the_last_hour_over_the_first": round(rows[-1]["first_ms"]["p50"] / rows[0]["first_ms"]["p50"], 3),
        "by_hour": rows,
        "complaints": [name for name, is_so in wrong_with(run, engine).items() if is_so],
    }


def by_hour(
    run: SimulatedRun, decisions: Sequence[LoadDecision], budgets: np.ndarray[Any, Any], hours: int
) -> list[dict[str, Any]]:
    """Return what the requests that arrived in each hour came to."""
    first_seconds = run.first_token_seconds - run.load.arrival_seconds
    hour_of = (run.load.arrival_seconds // HOUR_SECONDS).astype(int)
    promised = np.array([each.promised for each in decisions])
    kept = promised & (first_seconds <= budgets)
    assert run.chosen is not None
    return [
        {
            "requests": int((hour_of == hour).sum()),
            "promised": int(promised[hour_of == hour].sum()),
            "kept": int(kept[hour_of == hour].sum()),
            "first_ms": percentiles((1e3 * first_seconds[hour_of == hour]).tolist()),
            "chosen": np.bincount(run.chosen[hour_of == hour], minlength=len(CONFIGURATIONS)).tolist(),
        }
        for hour in range(hours)
    ]


def wrong_with(run: SimulatedRun, engine: SimulatedEngine) -> dict[str, bool]:
    """Return what must not be of a run, and whether it is so."""
    assert run.steps is not None
    computed = int(run.steps.prefill_tokens.sum() + run.steps.decode_tokens.sum())
    needed = int((run.load.prompt_tokens + run.load.output_tokens - 1).sum())
    tokens = run.steps.decode_tokens + run.steps.prefill_tokens
    return {
        "a request does not end": not np.isfinite(run.completion_seconds).all(),
        "tokens are not conserved": computed < needed if run.preemptions.any() else computed != needed,
        "a step beyond its budget": bool((tokens > engine.planner.chunk_size).any()),
        "more requests than seats": bool((run.steps.running > engine.max_num_seqs).any()),
    }
