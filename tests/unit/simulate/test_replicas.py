"""Routers: who serves which request."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_loads import STEP_TIME, differences, random_case

from paceline.errors import InvalidValueError
from paceline.schedule import PlannerSettings, PolicyWeights
from paceline.simulate import (
    ROUTERS,
    Candidate,
    Choices,
    LinearCost,
    ReplayedCost,
    RequestColumns,
    SimulatedEngine,
    simulate,
    simulate_replicas,
)
from paceline.simulate.predicted_ttft import predicted_ttft_seconds

ENGINE = SimulatedEngine(rules="vllm", planner=PlannerSettings(chunk_size=32), max_num_seqs=2, num_blocks=200)
COST = LinearCost(STEP_TIME)


def load(seed=0, count=80):
    numbers = np.random.default_rng(seed)
    return RequestColumns(
        arrival_seconds=np.cumsum(numbers.exponential(0.05, count) * (numbers.random(count) < 0.7)),
        prompt_tokens=numbers.integers(1, 200, count),
        output_tokens=numbers.integers(1, 40, count),
    )


def routed(router, replicas, whole):
    return simulate_replicas(whole, ENGINE, COST, replicas=replicas, router=router, computed_by="reference")


def test_round_robin_takes_turns():
    whole = load()
    runs = routed("round_robin", 3, whole)
    assert [run.requests[:3].tolist() for run in runs] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    for run in runs:
        assert differences(run.run, simulate(whole.part(run.requests), ENGINE, COST)) == []


def test_the_shortest_queue_is_chosen_at_every_arrival():
    for seed in range(5):
        whole = load(seed)
        runs = routed("least_outstanding", 3, whole)
        assert np.array_equal(np.sort(np.concatenate([run.requests for run in runs])), np.arange(len(whole)))
        replica_of = np.empty(len(whole), dtype=int)
        for number, run in enumerate(runs):
            replica_of[run.requests] = number
            # what each engine did is what it does alone with these requests
            assert differences(run.run, simulate(whole.part(run.requests), ENGINE, COST)) == []
        for index, arrival in enumerate(whole.arrival_seconds):
            # waiting when it arrived: came before it, first scheduled in no step that started before
            waiting = [
                sum(
                    run.run.first_scheduled_seconds[place] >= arrival
                    for place, request in enumerate(run.requests)
                    if request < index
                )
                for run in runs
            ]
            assert replica_of[index] == waiting.index(min(waiting)), f"seed {seed}, request {index}"


def test_both_engines_route_alike():
    for seed in range(12):
        case = random_case(seed, rules=(("vidur", "vllm", "paceline")[seed % 3],))
        for router in ROUTERS:
            fast, reference = (
                simulate_replicas(case.load, case.engine, case.cost, replicas=3, router=router, computed_by=engine)
                for engine in ("fast", "reference")
            )
            assert len(fast) == len(reference)
            for one, other in zip(fast, reference, strict=True):
                assert np.array_equal(one.requests, other.requests)
                assert differences(one.run, other.run) == [], f"seed {seed}, {router}"


def test_the_least_work_is_chosen_and_not_the_shortest_queue():
    """One engine gets a long prompt, the other short ones; they arrive at once."""
    whole = RequestColumns(
        arrival_seconds=np.zeros(6),
        prompt_tokens=np.array([64, 64, 600, 40, 40, 40]),
        output_tokens=np.full(6, 2),
    )
    by_count, by_time = (
        [run.requests.tolist() for run in routed(router, 2, whole)]
        for router in ("least_outstanding", "least_predicted_ttft")
    )
    assert by_count == [[0, 2, 4], [1, 3, 5]]
    assert by_time == [[0, 2], [1, 3, 4, 5]]


def predicting(whole, engine, model, candidates):
    """Serve a load with one candidate a request; return each TTFT and what was predicted of it."""
    predicted = []

    def choose(state, request):
        (candidate,) = request.candidates
        tokens, factor = candidate.prompt_tokens, candidate.prefill_factor
        predicted.append(
            predicted_ttft_seconds(
                state,
                engine,
                LinearCost(model),
                prompt_tokens=tokens,
                prefill_factor=factor,
                ttft_budget_seconds=request.ttft_budget_seconds,
            )
        )
        return 0

    choices = Choices(candidates=[[candidate] for candidate in candidates], choose=choose)
    run = simulate(whole, engine, LinearCost(model), choices=choices)
    return run.first_token_seconds - whole.arrival_seconds, np.array(predicted)


WITHOUT_ATTENTION = replace(STEP_TIME, per_prefill_attention_token_ms=0.0)  # every full chunk takes the same time


def test_a_lone_request_has_the_time_to_first_token_that_was_predicted():
    """Of whole chunks, on an engine that does nothing else."""
    apart = replace(load(count=12), arrival_seconds=np.arange(12.0) * 1000)
    candidates = [Candidate(prompt_tokens=32 * (1 + index), prefill_factor=1 / (1 + index)) for index in range(12)]
    ttft, predicted = predicting(apart, ENGINE, WITHOUT_ATTENTION, candidates)
    np.testing.assert_allclose(ttft, predicted, rtol=1e-6)


@pytest.mark.parametrize("policy", ["fcfs", "spf", "srtf", "aging", "edf"])
def test_what_stands_before_a_request_is_what_its_policy_serves_before_it(policy):
    """Predicted for the last of a queue of whole chunks, where nobody decodes: the order decides, and nothing else."""
    planner = PlannerSettings(chunk_size=32, policy=policy, weights=PolicyWeights(time_weight=1.0, prompt_weight=-0.01))
    engine = replace(ENGINE, rules="paceline", planner=planner, max_num_seqs=30)
    for seed in range(30):
        numbers = np.random.default_rng(seed)
        whole = RequestColumns(
            arrival_seconds=np.sort(numbers.random(12)) * 0.003,  # all while the first step lasts
            prompt_tokens=32 * numbers.integers(1, 8, 12),
            output_tokens=np.ones(12, dtype=int),
            ttft_budget_seconds=numbers.choice([0.1, 0.4, 2.0, np.inf], 12),
        )
        candidates = [Candidate(prompt_tokens=int(tokens)) for tokens in whole.prompt_tokens]
        ttft, predicted = predicting(whole, engine, WITHOUT_ATTENTION, candidates)
        assert ttft[-1] == pytest.approx(predicted[-1], rel=1e-9), f"seed {seed}"


def test_a_log_predicts_nothing_for_a_router():
    log = ReplayedCost(closed_seconds=np.zeros(900), started_seconds=np.zeros(900), execute_seconds=np.full(900, 0.01))

    def served(engine):
        return simulate_replicas(load(count=20), engine, log, replicas=2, router="least_predicted_ttft")

    with pytest.raises(
        InvalidValueError, match="target_model is None; expected a step-time model beside a replayed log"
    ):
        served(ENGINE)
    assert sum(len(run.requests) for run in served(replace(ENGINE, target_model=STEP_TIME))) == 20


def test_one_engine_serves_all():
    whole = load()
    assert differences(routed("least_outstanding", 1, whole)[0].run, simulate(whole, ENGINE, COST)) == []
