"""Routers in compiled code give each request to the engine that the reference gives it to, however many there are."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from simulated_loads import STEP_TIME, differences, random_case

from paceline.errors import StepTimeError
from paceline.schedule import PlannerSettings
from paceline.simulate import (
    Candidate,
    Choices,
    LinearCost,
    ReplayedCost,
    RequestColumns,
    SimulatedEngine,
    VidurTables,
    simulate_replicas,
)

CASES = 60
ROUTERS = ("least_outstanding", "least_predicted_ttft")


def both(load, engine, cost, **named):
    return [simulate_replicas(load, engine, cost, computed_by=which, **named) for which in ("fast", "reference")]


def require_equal(fast, reference, words):
    assert len(fast) == len(reference), words
    for one, other in zip(fast, reference, strict=True):
        assert np.array_equal(one.requests, other.requests), words
        assert differences(one.run, other.run) == [], words


def routed_case(number):
    """A random case, its prompts of several prices in half of them."""
    random = Random(f"routed {number}")
    case = random_case(number)
    load = case.load
    if random.random() < 0.5 and not isinstance(case.cost, ReplayedCost):
        factors = np.array([random.choice([1.0, 0.5, random.uniform(0.1, 3)]) for _ in range(len(load))])
        load = replace(load, prefill_factor=factors)
    engine = replace(case.engine, target_model=STEP_TIME)
    return load, engine, case.cost, random.randint(2, 9)


@pytest.mark.parametrize("router", ROUTERS)
def test_the_compiled_router_chooses_as_the_reference_does(router):
    used = 0
    for number in range(CASES):
        load, engine, cost, replicas = routed_case(number)
        fast, reference = both(load, engine, cost, replicas=replicas, router=router)
        require_equal(fast, reference, f"case {number}, {router}")
        used += len(fast)
    assert used > 2 * CASES


@pytest.mark.parametrize("router", ROUTERS)
def test_who_is_chosen_among_candidates_is_where_the_router_sent_it(router):
    for number in range(CASES // 3):
        load, engine, cost, replicas = routed_case(number)
        if isinstance(cost, ReplayedCost):
            continue
        ways = [
            [Candidate(prompt_tokens=tokens), Candidate(prompt_tokens=max(1, tokens // 3), prefill_factor=0.7)]
            for tokens in load.prompt_tokens.tolist()
        ]

        def choose(state, request):
            return (len(state.waiting) + request.index) % 2

        choices = Choices(candidates=ways, choose=choose)
        fast, reference = both(
            replace(load, prefill_factor=None), engine, cost, replicas=replicas, router=router, choices=choices
        )
        require_equal(fast, reference, f"case {number}, {router}")
        for one, other in zip(fast, reference, strict=True):
            assert np.array_equal(one.run.chosen, other.run.chosen)


@pytest.mark.parametrize("router", ROUTERS)
def test_queues_grow_as_long_as_a_load_makes_them(router):
    """Far more requests at once than the router makes room for at first, and one engine's run grows with them."""
    count = 700
    load = RequestColumns(
        arrival_seconds=np.repeat([0.0, 0.01], count // 2),
        prompt_tokens=np.arange(count) % 50 + 1,
        output_tokens=np.full(count, 3),
    )
    engine = SimulatedEngine(rules="vllm", planner=PlannerSettings(chunk_size=64), max_num_seqs=4, num_blocks=100)
    fast, reference = both(load, engine, LinearCost(STEP_TIME), replicas=2, router=router)
    require_equal(fast, reference, router)
    choices = Choices(
        candidates=[[Candidate(prompt_tokens=each)] for each in load.prompt_tokens.tolist()], choose=lambda *_: 0
    )
    chosen, _ = both(load, engine, LinearCost(STEP_TIME), replicas=2, router=router, choices=choices)
    require_equal(chosen, reference, router)


def test_a_table_that_is_too_small_for_a_routers_prediction_is_named():
    tables = VidurTables.load("tests/golden/data/vidur/tables_8b.npz")
    engine = SimulatedEngine(rules="vidur", planner=PlannerSettings(chunk_size=8192), max_num_seqs=4, num_blocks=9000)
    load = RequestColumns(
        arrival_seconds=np.array([0.0, 1.0]), prompt_tokens=np.array([10, 10]), output_tokens=np.array([2, 2])
    )
    sentences = []
    for which in ("fast", "reference"):
        with pytest.raises(StepTimeError, match="attn_prefill has no entry") as raised:
            simulate_replicas(load, engine, tables, replicas=2, router="least_predicted_ttft", computed_by=which)
        sentences.append(str(raised.value))
    assert sentences[0] == sentences[1]
