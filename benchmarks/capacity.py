"""How long a plan for a thousand engines takes, and how often the engines that `paceline plan` names keep their promise.

    python benchmarks/capacity.py speed [--requests 1000000]
    python benchmarks/capacity.py check --trace AzureLLMInferenceTrace_conv.csv [--stretches 60] [--workers 2]

Adds to benchmarks/results/capacity.json. Engines and configurations are those of `load_scenes.py`, which says what is assumed;
every request has a budget of twice the whole model's mean time to first token alone.

speed: synthetic arrivals, four stretches together of the million requests, that need about a thousand engines; planned for both
    controllers under `round_robin`. Seconds of the processor.
check: stretches of a real trace; every other one plans, the rest check, as the command does. The share of checked stretches on
    which the planned engines keep the promise is to be at least 0.95; n stretches that plan let one expect n / (n + 1). Its
    interval is Clopper and Pearson's. Cells are kept as they come in the results: a killed run goes on.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from load_scenes import KEY_VALUE_BLOCKS, LONGEST_TEXT, World
from provenance import provenance

from paceline.control.work_price import PriceSettings
from paceline.schedule import EngineTime, LoadSettings, PlannerSettings, PolicyWeights
from paceline.simulate import RequestColumns, SimulatedEngine
from paceline.slo import Proportion
from paceline.tune.capacity import CONTROLLERS, CapacityPlan, ServedWay, fewest, stretches_of

RESULTS = Path(__file__).parent / "results" / "capacity.json"
T0_SECONDS, BUDGET_T0, ALPHA = 0.28, 2.0, 0.05
FLOORS, ROUTER = (0.8, 0.85, 0.9), "round_robin"
PRICE = PriceSettings(per_arrival=0.25, step=1.0, share=0.5)
CHUNK, CAP = 512, 128
RATE = 6000.0  # requests a second of the million
FASTER = 20.0  # how much closer the trace's arrivals stand, so that a stretch needs many engines
PLAN: dict[str, CapacityPlan] = {}
Row = dict[str, Any]


def plan_of(world: World) -> CapacityPlan:
    """Return the plan's engines and ways: the mean over all questions that tables are made from."""
    answers = world.answers
    ways = tuple(
        ServedWay(config=config, accuracy=float(accuracy), image_tokens=int(tokens), prefill_factor=float(factor))
        for config, accuracy, tokens, factor in zip(
            answers.configs, answers.believed.mean(axis=0), answers.image_tokens, answers.factors, strict=True
        )
    )
    engine = SimulatedEngine(
        rules="paceline",
        planner=PlannerSettings(
            chunk_size=CHUNK, policy="edf", weights=PolicyWeights(no_budget_seconds=20 * T0_SECONDS)
        ),
        max_num_seqs=CAP,
        num_blocks=KEY_VALUE_BLOCKS,
    )
    settings = LoadSettings(alpha=ALPHA, price=PRICE)
    return CapacityPlan(engine=engine, time=EngineTime(step=world.model), ways=ways, alpha=ALPHA, settings=settings)


def budgeted(load: RequestColumns) -> RequestColumns:
    """Return a load with texts cut and one budget for all."""
    return replace(
        load,
        prompt_tokens=np.minimum(load.prompt_tokens, LONGEST_TEXT),
        ttft_budget_seconds=np.full(len(load), BUDGET_T0 * T0_SECONDS),
    )


def speed(world: World, requests: int) -> Row:
    """Return the seconds of plans over synthetic arrivals."""
    random = np.random.default_rng(1)
    rows = random.integers(0, len(world.whole), requests)
    load = budgeted(
        RequestColumns(
            arrival_seconds=np.cumsum(random.exponential(1 / RATE, requests)),
            prompt_tokens=world.whole.prompt_tokens[rows],
            output_tokens=world.whole.output_tokens[rows],
        )
    )
    plan, found = plan_of(world), {}
    for controller in CONTROLLERS:
        before = time.process_time()
        need = plan.need(stretches_of(load, 4), controller=controller, router=ROUTER, accuracy_floor=FLOORS[1])
        found[controller] = {
            "engines": need.planned,
            "by_stretch": list(need.replicas),
            "processor_seconds": time.process_time() - before,
        }
        print(controller, found[controller], flush=True)
    return {"requests": requests, "engines_served_at_most": plan.engines_served, "asked_seconds": 300, "plans": found}


def needed(cell: tuple[str, float], load: RequestColumns) -> int | None:
    """Return the engines that a stretch needs."""
    controller, floor = cell
    plan = PLAN["it"]
    return fewest(lambda count: plan.suffices(load, controller, ROUTER, floor, count), least=plan.least(load))


def kept(cell: tuple[str, float, int], load: RequestColumns) -> bool:
    """Return whether so many engines keep the promise on a stretch."""
    controller, floor, engines = cell
    plan = PLAN["it"]
    return plan.served(load, controller, ROUTER, floor, engines)[0] >= 1 - plan.alpha


def check(world: World, *, stretches: int, workers: int, document: Row) -> None:
    """Plan with every other stretch, and look at the rest."""
    whole = budgeted(replace(world.whole, arrival_seconds=world.whole.arrival_seconds / FASTER))
    PLAN["it"] = plan_of(world)
    parts = stretches_of(whole, stretches)
    found: list[Row] = document.setdefault("check", {"stretches": stretches, "cells": []})["cells"]
    there = {(row["controller"], row["accuracy_floor"]) for row in found}
    with get_context("fork").Pool(workers) as pool:
        for cell in ((controller, floor) for floor in FLOORS for controller in CONTROLLERS):
            if cell in there:
                continue
            before = time.time()
            needs = pool.map(partial(needed, cell), parts[::2])
            engines = max(each for each in needs if each is not None)
            held = pool.map(partial(kept, (*cell, engines)), parts[1::2])
            interval = Proportion(successes=sum(held), count=len(held)).interval()
            found.append(
                {
                    "controller": cell[0],
                    "accuracy_floor": cell[1],
                    "engines": engines,
                    "mean_need": float(np.mean([each for each in needs if each is not None])),
                    "held_out": len(held),
                    "kept": sum(held) / len(held),
                    "interval": [interval.low, interval.high],
                    "wall_seconds": time.time() - before,
                }
            )
            print(found[-1], flush=True)
            RESULTS.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "check"))
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--stretches", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    world = World.load(asked.trace)
    document: Row = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    document["simulated"] = True
    if asked.part == "speed":
        document["speed"] = provenance("capacity.py") | speed(world, asked.requests)
    else:
        check(world, stretches=asked.stretches, workers=asked.workers, document=document)
        document["check"] |= {**provenance("capacity.py"), "synthetic": asked.trace is None}
    document["load_average"] = os.getloadavg()[0]
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
