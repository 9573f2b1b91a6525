"""What a choice at arrival costs in plain Python: 27 candidates beside a queue of 0 to 512 requests.

    python benchmarks/look_ahead_speed.py [--rounds 200]

Writes benchmarks/results/look_ahead_speed.json. CPU time of one call, the median of the rounds with their 5th and 95th
percentile; `predict` is the look-ahead for all candidates and the least slack behind, `decide` the whole choice with it,
`keep up` what is noted of one request from its arrival to its first token. Queues, budgets and sizes are synthetic.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from provenance import provenance
from simulated_loads import STEP_TIME

from paceline.control.work_price import PriceSettings
from paceline.schedule import (
    DecodeLoad,
    LoadCandidate,
    LoadController,
    LoadSettings,
    PlannerSettings,
    PrefillWork,
    StepPace,
)

RESULTS = Path(__file__).parent / "results" / "look_ahead_speed.json"
WAITING = (0, 8, 64, 512)
BUDGETS = (0.13, 0.26, 0.52, 1.04, None)
CANDIDATES = [
    LoadCandidate(accuracy=0.5 + 0.01 * number, work=PrefillWork(tokens=300 + 80 * number, factor=1 - 0.02 * number))
    for number in range(27)
]
DECODES = DecodeLoad(tokens=40, context_tokens=60_000)


def loaded(waiting: int, random: Random) -> LoadController:
    """Return a controller that has that many requests before it, two thirds of them promised."""
    planner = PlannerSettings(chunk_size=512, policy="edf")
    controller = LoadController(LoadSettings(price=PriceSettings(floor=0.5, step=0.3)), planner, STEP_TIME)
    for budget in BUDGETS:
        for _ in range(100):
            kind = controller.kind(budget)
            controller.scores.observe(kind, measured_seconds=random.lognormvariate(0, 0.1), predicted_seconds=1.0)
    for number in range(waiting):
        first = number / 100
        budget = random.choice(BUDGETS[-3:])
        decision = controller.decide(
            CANDIDATES, arrival_seconds=first, ready_seconds=first, ttft_budget_seconds=budget, decodes=DECODES
        )
        work = CANDIDATES[decision.chosen].work
        controller.admit(number, decision, work, arrival_seconds=first, ready_seconds=first)
    return controller


def timed(call: Callable[[], object], rounds: int) -> dict[str, float]:
    """Return microseconds of CPU time a call."""
    found: list[float] = []
    for _ in range(rounds):
        before = time.process_time_ns()
        call()
        found.append((time.process_time_ns() - before) / 1e3)
    low, middle, high = np.percentile(found, [5, 50, 95]).tolist()
    return {"p5_us": low, "median_us": middle, "p95_us": high}


def measure(waiting: int, rounds: int) -> dict[str, Any]:
    """Return the times with so many requests in the queue."""
    controller = loaded(waiting, Random(1))
    now = waiting / 200  # half of the queue is due before a request of a middling budget
    works = [each.work for each in CANDIDATES]
    key = controller.key(works[0], 0.26, now)

    def predict() -> None:
        pace = StepPace.of(STEP_TIME, DECODES, chunk_size=512)
        controller.ahead.outlooks(key, works, pace)
        controller.ahead.least_slack_seconds(key, pace, ready_seconds=now)

    def decide() -> None:
        controller.decide(CANDIDATES, arrival_seconds=now, ready_seconds=now, ttft_budget_seconds=60.0, decodes=DECODES)

    decision = controller.decide(
        CANDIDATES, arrival_seconds=now, ready_seconds=now, ttft_budget_seconds=60.0, decodes=DECODES
    )
    work = CANDIDATES[decision.chosen].work

    def keep_up() -> None:
        controller.admit("one", decision, work, arrival_seconds=now, ready_seconds=now)
        controller.computed("one", PrefillWork(tokens=1, context_tokens=work.tokens - 1))
        controller.finished("one", now + decision.predicted_seconds)

    return {
        "waiting": waiting,
        "predict": timed(predict, rounds),
        "decide": timed(decide, rounds),
        "keep_up": timed(keep_up, rounds),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    found = [measure(waiting, arguments.rounds) for waiting in WAITING]
    for row in found:
        times = ", ".join(f"{name} {row[name]['median_us']:.0f} µs" for name in ("predict", "decide", "keep_up"))
        print(f"{row['waiting']} waiting, {len(CANDIDATES)} candidates: {times}")
    document = {
        **provenance("look_ahead_speed.py"),
        "synthetic": True,
        "candidates": len(CANDIDATES),
        "rounds": arguments.rounds,
        "rows": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
