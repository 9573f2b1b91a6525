"""Ten thousand generated loads and more, through the planner and the fast simulator: what has to hold of each.

    python tests/faults/loads.py [--planner 10000] [--simulator 10000] [--first 0] [--minutes 30] [--results PATH]

Planner: the property tests of `tests/property` over other loads: a step with work makes progress, its budget is never exceeded,
no request is lost or stands twice, none passes another in the order, a wait under aging is bounded in work and in steps.
Simulator: every request ends, in order; tokens are conserved; no step has more tokens, requests or blocks than the engine.

After `--minutes` the run ends and says how many loads it met. It ends with 1 then too: fewer were met than were asked for.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import test_planner
import test_policies
from hypothesis import HealthCheck, given, seed, settings
from provenance import origin
from simulated_loads import random_case

from paceline.simulate import simulate

PLANNER = {
    "progress, budget, tokens and requests conserved": (
        test_planner.test_every_step_keeps_the_budget_and_every_request_ends,
        test_planner.closed_loops(),
    ),
    "none passes another": (test_planner.test_none_passes_another_in_the_order, test_planner.closed_loops()),
    "no starvation under aging": (
        test_policies.test_agings_wait_is_bounded_in_work_and_in_steps,
        test_policies.aging_loops(plain=False),
    ),
    "aging's bound on all prefill": (
        test_policies.test_agings_work_bound_covers_all_prefill_where_only_the_budget_cuts_chunks,
        test_policies.aging_loops(plain=True),
    ),
}


EACH = 250  # examples of one run of a property: a longer one keeps all that it has seen


class OutOfTimeError(Exception):
    """The time for all loads is over."""


def planned(name: str, count: int, first: int, until: float = float("inf")) -> tuple[int, str | None]:
    """Hold one property over so many loads; return how many were met and the complaint, None without one."""
    test, loads = PLANNER[name]
    met = 0

    def holds(load) -> None:
        nonlocal met
        if time.monotonic() > until:
            raise OutOfTimeError
        met += 1
        test.hypothesis.inner_test(load)

    while met < count:
        examples = settings(
            max_examples=min(EACH, count - met), deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        before = met
        try:
            seed(1000 * first + met)(examples(given(loads)(holds)))()
        except OutOfTimeError:
            break
        except Exception as error:
            return met, f"{name}: {type(error).__name__}: {error}"
        if met == before:
            return met, f"{name}: no load was drawn"
    return met, None


def wrong_with_run(number: int) -> str | None:
    """Return what is wrong with the simulated run of a load, None when nothing is."""
    case = random_case(number)
    run = simulate(case.load, case.engine, case.cost)
    steps, engine, load = run.steps, case.engine, case.load
    computed = int(steps.prefill_tokens.sum() + steps.decode_tokens.sum())
    needed = int((load.prompt_tokens + load.output_tokens - 1).sum())
    preempted = bool(run.preemptions.any())
    rules = {
        "a request does not end": np.isfinite(run.completion_seconds).all(),
        "a step without work": (steps.decode_tokens + steps.prefill_tokens > 0).all(),
        "a step beyond its budget": (steps.decode_tokens + steps.prefill_tokens <= engine.planner.chunk_size).all(),
        "more requests than seats": (steps.running <= engine.max_num_seqs).all(),
        "times out of order": (run.completion_seconds >= run.first_token_seconds).all()
        and (run.first_token_seconds >= run.first_scheduled_seconds).all()
        and (run.first_scheduled_seconds >= load.arrival_seconds).all(),
        "steps overlap": (steps.started_seconds[1:] >= (steps.started_seconds + steps.seconds)[:-1]).all(),
        "tokens are not conserved": computed >= needed if preempted else computed == needed,
    }
    return next((f"load {number}: {name}" for name, holds in rules.items() if not holds), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planner", type=int, default=10_000)
    parser.add_argument("--simulator", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    started, counts, complaints, simulated = time.monotonic(), {}, [], 0
    until = started + 60 * arguments.minutes
    for name in PLANNER:
        counts[name], problem = planned(name, -(-arguments.planner // len(PLANNER)), arguments.first, until)
        complaints += [problem] if problem else []
    for number in range(arguments.first, arguments.first + arguments.simulator):
        if time.monotonic() > until:
            break
        problem = wrong_with_run(number)
        complaints += [problem] if problem else []
        simulated += 1
    met = sum(counts.values())
    found = {
        **origin("make loads"),
        "first": arguments.first,
        "planner": counts,
        "simulator": simulated,
        "whole": met >= arguments.planner and simulated >= arguments.simulator,
        "seconds": round(time.monotonic() - started, 1),
        "processor_seconds": round(time.process_time(), 1),
        "complaints": complaints,
    }
    print(json.dumps(found, indent=1))
    if arguments.results is not None:
        arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(complaints) or not found["whole"])


if __name__ == "__main__":
    main()
