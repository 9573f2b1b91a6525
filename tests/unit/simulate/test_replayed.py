"""A run's own log gives its first tokens back, although the engine looked for arrivals before it stamped a step."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_loads import STEP_TIME, random_case

from paceline.errors import StepLogError, StepTimeError
from paceline.schedule import PlannerSettings
from paceline.simulate import LinearCost, ReplayedCost, simulate, step_records

STEPS = 20_000


def recorded(number, *, rules):
    """A run whose steps close their queue, are scheduled and start at times of their own; its log and its requests."""
    case = random_case(number, rules=(rules,))
    first = case.requests[0].arrival_seconds
    requests = tuple(replace(each, arrival_seconds=each.arrival_seconds - first) for each in case.requests)
    case = replace(case, requests=requests)
    numbers = np.random.default_rng(number)
    started = np.cumsum(numbers.exponential(0.008, STEPS))
    truth = ReplayedCost(
        closed_seconds=started - numbers.exponential(0.01, STEPS),
        started_seconds=started,
        execute_seconds=numbers.exponential(0.006, STEPS),
    )
    run = simulate(case.load, case.engine, truth, computed_by="reference")
    names = [request.request_id for request in case.requests]
    records = step_records(run.steps, names, token_budget=case.engine.planner.chunk_size)
    logged, end = [], 0.0
    for step, record in enumerate(records):
        arrivals = [requests[int(name)].arrival_seconds for name in record.chunks]
        looked = max(end, float(truth.closed_seconds[step]), *arrivals)
        scheduled = looked + numbers.random() * max(0.0, record.started_seconds - looked)
        logged.append(replace(record, schedule_us=1e6 * (record.started_seconds - scheduled)))
        end = record.started_seconds + record.execute_ms / 1e3
    return case, run, logged, run.request_times(case.requests)


def off_seconds(case, run, cost):
    again = simulate(case.load, case.engine, cost, computed_by="reference")
    return np.abs(again.first_token_seconds - run.first_token_seconds).max()


@pytest.mark.parametrize("rules", ["vllm", "paceline"])
def test_first_tokens_come_back_whoever_arrived_while_a_step_was_scheduled(rules):
    without = 0
    for number in range(40):
        if "aging" in random_case(number, rules=(rules,)).engine.planner.policy:
            continue  # its order goes by when a request was queued, to the last bit
        case, run, steps, requests = recorded(number, rules=rules)
        assert off_seconds(case, run, ReplayedCost.of(steps, requests=requests)) < 1e-9, f"case {number}"
        # the stamps alone put some request into an earlier step than the one it was in
        stamps, later = ReplayedCost.of(steps), steps[0].started_seconds
        shifted = replace(
            stamps,
            closed_seconds=stamps.closed_seconds + later,
            started_seconds=stamps.started_seconds + later,
        )
        try:
            without += off_seconds(case, run, shifted) > 1e-3
        except StepTimeError:  # the steps are others, and more
            without += 1
    assert without > 5


def test_a_log_that_lacks_requests_goes_by_its_stamps():
    _, _, steps, requests = recorded(1, rules="vllm")
    cost = ReplayedCost.of(steps, requests=requests[1:])
    origin = min(request.arrival_seconds for request in requests[1:])
    stamps = [step.started_seconds - step.schedule_us / 1e6 - origin for step in steps]
    np.testing.assert_array_equal(cost.closed_seconds, stamps)


def test_steps_of_two_engines_are_refused():
    case, *_ = recorded(0, rules="vllm")
    run = simulate(case.load, case.engine, LinearCost(STEP_TIME), computed_by="reference")
    names = [request.request_id for request in case.requests]
    steps = step_records(run.steps, names, token_budget=PlannerSettings(chunk_size=64).chunk_size)
    with pytest.raises(StepLogError, match="2 engines or runs"):
        ReplayedCost.of([*steps, replace(steps[-1], engine=1)])
