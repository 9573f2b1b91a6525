"""What the benchmarks in virtual time rest on: the same figures each time, and vLLM's own steps under fcfs."""

import pytest
from steady_state import LOADS, SHAPES, STOCK, at_once, burst_figures, central_rate, serving, window_figures
from timed_loads import tiny_config

COUNT = 150


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_config(str(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def servers(config):
    return serving(config, -0.0001, {})


@pytest.mark.parametrize("kind", LOADS)
@pytest.mark.parametrize("name", [STOCK, "fcfs", "spf", "srtf", "aging"])
def test_every_request_is_served_whole_and_a_run_is_the_same_each_time(servers, kind, name):
    load = LOADS[kind](COUNT, rate=40.0, seed=1)
    first, second = (servers[name](load, SHAPES[kind]) for _ in range(2))
    assert (first.steps, first.requests) == (second.steps, second.requests)
    lengths = {str(each.number): (each.prompt_tokens, each.output_tokens) for each in load}
    assert {each.request_id: (each.prompt_tokens, each.output_tokens) for each in first.requests} == lengths
    arrivals = {str(each.number): each.arrival_seconds for each in load}
    assert all(each.arrival_seconds == arrivals[each.request_id] for each in first.requests)


@pytest.mark.parametrize("kind", ["text", "short and long"])
def test_texts_under_fcfs_take_the_stock_schedulers_steps(servers, kind):
    for load in (LOADS[kind](COUNT, rate=60.0, seed=2), at_once(LOADS[kind](COUNT, rate=1.0, seed=2))):
        ours, theirs = (servers[name](load, SHAPES[kind]) for name in ("fcfs", STOCK))
        assert ours.requests == theirs.requests
        assert [step.chunks for step in ours.steps] == [step.chunks for step in theirs.steps]


def test_below_capacity_every_policy_serves_what_is_offered(servers):
    capacity = central_rate(servers[STOCK](at_once(LOADS["text"](COUNT, rate=1.0, seed=3)), SHAPES["text"]))
    load = LOADS["text"](COUNT, rate=0.7 * capacity, seed=3)
    found = {name: window_figures(serve(load, SHAPES["text"]), load) for name, serve in servers.items()}
    for figures in found.values():
        assert figures["tokens_per_second"] == pytest.approx(found[STOCK]["tokens_per_second"], rel=0.03)


def test_what_a_burst_takes_longer_is_the_fixed_cost_of_the_steps_that_it_takes_more(servers):
    load = at_once(LOADS["short and long"](COUNT, rate=1.0, seed=4))
    found = {name: burst_figures(serve(load, SHAPES["short and long"])) for name, serve in servers.items()}
    assert found["spf"]["steps"] != found[STOCK]["steps"]
    for figures in found.values():
        longer = figures["seconds"] - found[STOCK]["seconds"]
        assert longer == pytest.approx(figures["fixed_seconds"] - found[STOCK]["fixed_seconds"], abs=1e-6)
