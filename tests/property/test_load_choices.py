"""Choices under load: nobody starves, ties go by arrival, and what is only asked changes nothing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_loads import STEP_TIME

from paceline.control.work_price import PriceSettings
from paceline.schedule import (
    DecodeLoad,
    LoadCandidate,
    LoadController,
    LoadSettings,
    PlannerSettings,
    PolicyWeights,
    PrefillWork,
)
from paceline.simulate import Candidate, Choices, LinearCost, LoadChooser, RequestColumns, SimulatedEngine, simulate

FAR = 0.5  # the budget that a request without one counts with
PLANNER = PlannerSettings(chunk_size=128, policy="edf", weights=PolicyWeights(no_budget_seconds=FAR))
ENGINE = SimulatedEngine(rules="paceline", planner=PLANNER, max_num_seqs=120, num_blocks=90_000, target_model=STEP_TIME)
PRICED = LoadSettings(price=PriceSettings(floor=0.2, step=1.0, share=0.5))
WAYS = [Candidate(prompt_tokens=tokens, prefill_factor=factor) for tokens in (900, 300, 64) for factor in (1.0, 0.5)]
ACCURACIES = [0.95, 0.9, 0.85, 0.8, 0.7, 0.6]


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(0.002, 0.05), st.integers(1, 20))
def test_nobody_who_arrives_after_a_deadline_is_served_before_it_whatever_was_chosen(seed, gap, longest):
    numbers, requests = np.random.default_rng(seed), 120
    load = RequestColumns(
        arrival_seconds=np.cumsum(numbers.exponential(gap, requests)),
        prompt_tokens=np.full(requests, 900),
        output_tokens=numbers.integers(1, longest + 1, requests),
        ttft_budget_seconds=numbers.choice([0.03, 0.1, 0.4, math.inf], requests),
    )
    chooser = LoadChooser(LoadController(PRICED, PLANNER, STEP_TIME), np.tile(ACCURACIES, (requests, 1)))
    choices = Choices(candidates=[WAYS] * requests, choose=chooser)
    run = simulate(load, ENGINE, LinearCost(STEP_TIME), choices=choices)
    first = run.first_token_seconds
    queued_late = float(run.steps.seconds.max())  # a request is queued when the step under way ends
    for index, decision in enumerate(chooser.decisions):
        budget = FAR if decision.ttft_budget_seconds is None else decision.ttft_budget_seconds
        later = load.arrival_seconds >= load.arrival_seconds[index] + queued_late + budget
        assert (first[later] >= first[index]).all()


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 0.3),  # since the one before
        st.sampled_from([None, 0.02, 0.1, 0.1, 0.4]),
        st.integers(1, 900),
        st.booleans(),  # whether it gets its first token at once
    ),
    min_size=1,
    max_size=25,
)
NOBODY = DecodeLoad(tokens=0, context_tokens=0)


def asked(controller, now, budget, tokens):
    ways = [
        LoadCandidate(accuracy=0.9, work=PrefillWork(tokens=tokens)),
        LoadCandidate(accuracy=0.6, work=PrefillWork(tokens=max(1, tokens // 4), factor=0.5)),
    ]
    decision = controller.decide(
        ways, arrival_seconds=now, ready_seconds=now, ttft_budget_seconds=budget, decodes=NOBODY
    )
    return decision, ways[decision.chosen].work


@given(EVENTS, st.lists(st.floats(0, 5), max_size=3))
def test_what_is_only_asked_changes_nothing(events, asks):
    told, also_asked = (LoadController(PRICED, PLANNER, STEP_TIME) for _ in range(2))
    now = 0.0
    for name, (gap, budget, tokens, ends) in enumerate(events):
        now += gap
        for later in asks:
            asked(also_asked, now + later, budget, tokens)
            also_asked.price_at(now + later)
        found = [asked(controller, now, budget, tokens) for controller in (told, also_asked)]
        assert found[0] == found[1]
        for controller in (told, also_asked):
            controller.admit(name, *found[0], arrival_seconds=now, ready_seconds=now)
            if ends:
                controller.finished(name, now + 0.01)


@given(st.lists(st.sampled_from([None, 0.1, 0.2]), min_size=2, max_size=12))
def test_who_is_due_at_the_same_time_stands_in_the_order_of_arrival(budgets):
    controller = LoadController(LoadSettings(relegates=False), PLANNER, STEP_TIME)
    for name, budget in enumerate(budgets):
        decision, work = asked(controller, 1.0, budget, 200)
        outlook = decision.predicted_seconds
        controller.admit(name, decision, work, arrival_seconds=1.0, ready_seconds=1.0)
        before = [other for other in range(name) if (budgets[other] or FAR) <= (budget or FAR)]
        assert list(controller.ahead).index(name) == len(before)
        alone = asked(LoadController(LoadSettings(), PLANNER, STEP_TIME), 1.0, budget, 200)[0].predicted_seconds
        assert outlook >= alone or outlook == pytest.approx(alone)
