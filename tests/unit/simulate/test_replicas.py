"""Routers: who serves which request."""

import numpy as np
from simulated_loads import STEP_TIME, differences, random_case

from paceline.schedule import PlannerSettings
from paceline.simulate import LinearCost, RequestColumns, SimulatedEngine, simulate, simulate_replicas

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
        for router in ("round_robin", "least_outstanding"):
            fast, reference = (
                simulate_replicas(case.load, case.engine, case.cost, replicas=3, router=router, computed_by=engine)
                for engine in ("fast", "reference")
            )
            assert len(fast) == len(reference)
            for one, other in zip(fast, reference, strict=True):
                assert np.array_equal(one.requests, other.requests)
                assert differences(one.run, other.run) == [], f"seed {seed}, {router}"


def test_one_engine_serves_all():
    whole = load()
    assert differences(routed("least_outstanding", 1, whole)[0].run, simulate(whole, ENGINE, COST)) == []
