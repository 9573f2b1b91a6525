"""What the sums foretell of a first token, against the exact run, and the exact run against what then happens."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_loads import STEP_TIME, random_case

from paceline.schedule import (
    DecodeLoad,
    LookAhead,
    PlannerSettings,
    PolicyWeights,
    PrefillRequest,
    PrefillWork,
    StepPace,
    TraceRequest,
    request_order,
)
from paceline.simulate import (
    Candidate,
    LinearCost,
    ReplayedCost,
    RequestColumns,
    SimulatedEngine,
    exact_first_token_seconds,
    simulate,
)
from paceline.simulate.simulation import ENGINES, opened_simulation


def rows_of(case):
    return list(case.load.rows())


@pytest.mark.parametrize("computed_by", ENGINES)
def test_the_exact_run_is_what_happens_when_nothing_else_arrives(computed_by):
    policies = set()
    for number in range(2, 60, 3):  # rules paceline
        case = random_case(number, rules=("vllm", "vidur", "paceline"))
        if isinstance(case.cost, ReplayedCost):
            continue
        policies.add(case.engine.planner.policy)
        rows = rows_of(case)
        run = opened_simulation(case.engine, case.cost, size=len(rows), computed_by=computed_by)
        for index, row in enumerate(rows):
            run.advance_before(row[0])
            if index % 5 == 2:
                arrival, prompt, output, factor, budget = row
                foretold = exact_first_token_seconds(
                    run,
                    arrival_seconds=arrival,
                    candidate=Candidate(prompt_tokens=prompt, prefill_factor=factor),
                    output_tokens=output,
                    ttft_budget_seconds=budget,
                )
                alone = simulate(case.load.part(np.arange(index + 1)), case.engine, case.cost, computed_by=computed_by)
                assert foretold == alone.first_token_seconds[index], f"case {number}, request {index}"
            run.receive(*row)
    assert policies == {"fcfs", "spf", "srtf", "aging", "edf"}


@st.composite
def prompts_alone(draw: st.DrawFn) -> tuple[SimulatedEngine, list[TraceRequest]]:
    """Answers of one token: nobody decodes, so that nothing of the future is hidden from the sums."""
    policy = draw(st.sampled_from(["fcfs", "edf"]))
    planner = PlannerSettings(
        chunk_size=draw(st.integers(16, 128)), policy=policy, weights=PolicyWeights(no_budget_seconds=0.5)
    )
    engine = SimulatedEngine(
        rules="paceline", planner=planner, max_num_seqs=16, num_blocks=4000, target_model=STEP_TIME
    )
    arrivals = sorted(draw(st.lists(st.floats(0, 0.2), min_size=2, max_size=12)))
    return engine, [
        TraceRequest(
            request_id=str(index),
            arrival_seconds=arrival,
            prompt_tokens=draw(st.integers(1, 300)),
            output_tokens=1,
            ttft_budget_ms=draw(st.none() | st.floats(10, 900)),
        )
        for index, arrival in enumerate(arrivals)
    ]


def foretold_by_sums(state, engine, trace, number):
    """Return the seconds from the arrival to the first token of the request of that number."""
    order = request_order(engine.planner.policy, engine.planner.weights)

    def key(request, index):
        budget = request.ttft_budget_ms
        return order(
            PrefillRequest(
                request_id="",
                queue_number=index,
                arrival_seconds=queued[index],
                prompt_tokens=1,
                remaining_tokens=1,
                ttft_budget_seconds=None if budget is None else budget / 1e3,
            )
        )

    queued = state["queued"]
    queued[number] = state["seen"].ready_seconds
    ahead = LookAhead(STEP_TIME)
    for prompts in (state["seen"].partial, state["seen"].waiting):
        columns = (prompts.number, prompts.remaining_tokens, prompts.context_tokens)
        for index, tokens, context in zip(*(column.tolist() for column in columns), strict=True):
            ahead.add(index, key(trace[index], index), PrefillWork(tokens=tokens, context_tokens=context))
    pace = StepPace.of(STEP_TIME, state["seen"].decodes, chunk_size=engine.planner.chunk_size)
    own = PrefillWork(tokens=trace[number].prompt_tokens)
    outlook = ahead.outlooks(key(trace[number], number), [own], pace)[0]
    return state["seen"].ready_seconds - trace[number].arrival_seconds + outlook.wait_seconds


@settings(deadline=None, max_examples=60)
@given(prompts_alone())
def test_the_sums_equal_the_exact_run_where_nobody_decodes(made):
    engine, trace = made
    load = RequestColumns.of(trace)
    run = opened_simulation(engine, LinearCost(STEP_TIME), size=len(trace), computed_by="reference")
    queued: dict[int, float] = {}
    for number, row in enumerate(load.rows()):
        run.advance_before(row[0])
        seen = run.state_at(row[0])
        for index in seen.waiting.number.tolist():
            queued.setdefault(index, seen.ready_seconds)  # queued by the next step, not earlier
        foretold = foretold_by_sums({"seen": seen, "queued": queued}, engine, trace, number)
        exact = exact_first_token_seconds(
            run,
            arrival_seconds=row[0],
            candidate=Candidate(prompt_tokens=row[1]),
            output_tokens=1,
            ttft_budget_seconds=row[4],
        )
        assert foretold == pytest.approx(exact - row[0], rel=1e-9)
        run.receive(*row)


WORKS = st.builds(
    PrefillWork,
    tokens=st.integers(1, 2000),
    context_tokens=st.integers(0, 2000),
    factor=st.sampled_from([1.0, 0.5, 0.3]),
)
QUEUED = st.lists(st.tuples(st.integers(0, 50), WORKS, st.none() | st.floats(0, 3)), max_size=12)


@given(QUEUED, st.integers(0, 50), st.integers(0, 40), st.floats(0.8, 1.5))
def test_work_within_the_least_slack_leaves_every_promise_that_could_be_kept(queued, place, decodes, drift):
    pace = StepPace.of(STEP_TIME, DecodeLoad(tokens=decodes, context_tokens=900 * decodes), chunk_size=128)
    ahead = LookAhead(STEP_TIME)
    for name, (first, work, due) in enumerate(queued):
        ahead.add(name, (first, name), work, due_seconds=due)
    key = (place, len(queued))
    before = ahead._ends(pace)
    slack = ahead.least_slack_seconds(key, pace, ready_seconds=0.25, drift=drift)
    behind = [name for name, (first, _, due) in enumerate(queued) if (first, name) > key and due is not None]
    order = sorted(range(len(queued)), key=lambda name: (queued[name][0], name))
    for name in behind:
        due, end = queued[name][2], 0.25 + drift * before[order.index(name)]
        if end <= due:
            assert end + drift * min(slack, 100) <= due + 1e-9
    if all(0.25 + drift * before[order.index(name)] > queued[name][2] for name in behind):
        assert slack == np.inf


@given(QUEUED, st.data())
def test_kept_up_sums_are_those_of_what_is_left(queued, data):
    pace = StepPace.of(STEP_TIME, DecodeLoad(tokens=3, context_tokens=900), chunk_size=128)
    kept, left = LookAhead(STEP_TIME), {}
    for name, (first, work, due) in enumerate(queued):
        kept.add(name, (first, name), work, due_seconds=due)
        left[name] = (first, work, due)
    for name in list(left):
        change = data.draw(st.sampled_from(["stay", "gone", "less"]))
        if change == "gone":
            kept.remove(name)
            del left[name]
        elif change == "less":
            first, work, due = left[name]
            left[name] = (first, replace(work, tokens=(work.tokens + 1) // 2), due)
            kept.change(name, left[name][1])
    fresh = LookAhead(STEP_TIME)
    for name, (first, work, due) in left.items():
        fresh.add(name, (first, name), work, due_seconds=due)
    candidates = [PrefillWork(tokens=100), PrefillWork(tokens=700, factor=0.4)]
    for place in (0, 17, 60):
        assert kept.outlooks((place, 99), candidates, pace) == fresh.outlooks((place, 99), candidates, pace)
        slacks = [each.least_slack_seconds((place, 99), pace, ready_seconds=0.0) for each in (kept, fresh)]
        assert slacks[0] == slacks[1]


def test_a_wait_is_longer_for_those_who_stand_later_and_for_larger_prompts():
    random = Random(1)
    ahead = LookAhead(STEP_TIME)
    for name in range(100):
        ahead.add(name, (float(name), name), PrefillWork(tokens=random.randint(1, 500)))
    pace = StepPace.of(STEP_TIME, DecodeLoad(tokens=5, context_tokens=5000), chunk_size=256)
    waits = [
        ahead.outlooks((place + 0.5, 0), [PrefillWork(tokens=64)], pace)[0].wait_seconds for place in range(-1, 100)
    ]
    assert (np.diff(waits) >= -pace.step_seconds).all() and waits[-1] > 10 * waits[0]
    sizes = ahead.outlooks((50.5, 0), [PrefillWork(tokens=tokens) for tokens in (1, 200, 2000)], pace)
    assert sizes[0].work_seconds < sizes[1].work_seconds < sizes[2].work_seconds
