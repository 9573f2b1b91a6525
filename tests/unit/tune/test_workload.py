"""Synthetic loads, and what scaling does to a load."""

import math
from itertools import pairwise
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import InvalidValueError
from paceline.schedule.trace_request import TraceRequest
from paceline.tune.workload import LoadScaling, SyntheticLoad, Workload, at_once, require_context, scaled

LOADS = st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 5000), st.integers(1, 500)), min_size=1, max_size=30).map(
    lambda rows: Workload(
        requests=tuple(
            TraceRequest(request_id=str(index), arrival_seconds=arrival, prompt_tokens=prompt, output_tokens=output)
            for index, (arrival, prompt, output) in enumerate(sorted(rows))
        ),
        source="generated",
        synthetic=True,
    )
)


def test_a_synthetic_load_is_what_its_settings_say():
    load = SyntheticLoad(
        count=4000, rate=5.0, prompt_median=500, prompt_sigma=0.5, longest_prompt=900, output_median=50
    )
    workload = load.workload(seed=7)
    prompts = [request.prompt_tokens for request in workload.requests]
    arrivals = [request.arrival_seconds for request in workload.requests]
    assert workload.synthetic and workload.label.startswith("synthetic load (Poisson arrivals, lognormal lengths")
    assert arrivals[0] == 0 and arrivals == sorted(arrivals)
    gaps = [later - sooner for sooner, later in pairwise(arrivals)]
    # within five standard errors of an exponential distribution: mean 1/rate, median ln 2 / rate
    assert fmean(gaps) == pytest.approx(0.2, rel=5 / math.sqrt(4000))
    assert median(gaps) == pytest.approx(0.2 * math.log(2), rel=5 / math.sqrt(4000))
    assert median(prompts) == pytest.approx(500, rel=0.05)
    assert max(prompts) == 900 and min(prompts) >= 1
    logs = [math.log(prompt) for prompt in prompts if prompt < 500]
    assert fmean(logs) == pytest.approx(math.log(500) - 0.5 * math.sqrt(2 / math.pi), abs=0.05)  # half-normal below


def test_a_seed_draws_the_same_load_and_another_seed_another():
    load = SyntheticLoad(count=20)
    assert load.workload(1) == load.workload(1) != load.workload(2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": 0}, "count is 0"),
        ({"rate": 0.0}, "requests a second above 0"),
        ({"rate": math.inf}, "rate is inf"),
        ({"output_sigma": -1.0}, "output_sigma is -1.0"),
        ({"longest_prompt": 0}, "longest_prompt is 0"),
        ({"rate": 1e-320}, "all requests arrive within"),
    ],
)
def test_synthetic_loads_that_cannot_be_are_refused(settings, words):
    with pytest.raises(InvalidValueError, match=words):
        SyntheticLoad(**settings)


@given(LOADS, st.integers(1, 40), st.floats(0.01, 10), st.floats(0.01, 100))
def test_scaling_keeps_first_requests_lengths_and_gaps_in_proportion(load, limit, length_scale, speed):
    changed = scaled(load, LoadScaling(limit=limit, length_scale=length_scale, speed=speed, ttft_budget_ms=100))
    kept = load.requests[:limit]
    assert [each.request_id for each in changed.requests] == [each.request_id for each in kept]
    for before, after in zip(kept, changed.requests, strict=True):
        assert after.prompt_tokens == max(1, round(before.prompt_tokens * length_scale))
        assert after.output_tokens == max(1, round(before.output_tokens * length_scale))
        assert after.arrival_seconds * speed == pytest.approx(
            before.arrival_seconds - kept[0].arrival_seconds, abs=1e-6
        )
        assert after.ttft_budget_ms == 100
    assert changed.settings["length_scale"] == length_scale and changed.settings["limit"] == limit


@given(LOADS, st.floats(0.01, 1000))
def test_a_rate_is_met_or_refused_where_all_arrive_at_once(load, rate):
    if load.requests_per_second is None:
        with pytest.raises(InvalidValueError, match="all requests arrive at once"):
            scaled(load, LoadScaling(rate=rate))
    else:
        assert scaled(load, LoadScaling(rate=rate)).requests_per_second == pytest.approx(rate, rel=1e-6)


def test_own_budgets_stay():
    own = TraceRequest(request_id="a", arrival_seconds=0, prompt_tokens=1, output_tokens=1, ttft_budget_ms=5)
    load = Workload(requests=(own,), source="", synthetic=True)
    assert scaled(load, LoadScaling(ttft_budget_ms=100)).requests[0].ttft_budget_ms == 5


@given(LOADS)
def test_a_burst_is_the_same_requests_at_once(load):
    burst = at_once(load)
    assert {request.arrival_seconds for request in burst.requests} == {0.0} and burst.requests_per_second is None
    assert [(each.request_id, each.prompt_tokens) for each in burst.requests] == [
        (each.request_id, each.prompt_tokens) for each in load.requests
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"length_scale": 0.0}, "length scale is 0.0"),
        ({"speed": -1.0}, "speed is -1.0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"rate": 2.0, "speed": 2.0}, "both set the arrivals"),
    ],
)
def test_scaling_that_cannot_be_is_refused(changes, words):
    with pytest.raises(InvalidValueError, match=words):
        LoadScaling(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"length_scale": 1e300}, r"length scale is 1e\+300.*at most 1,000,000,000 tokens"),
        ({"length_scale": 1.7e308}, "length scale"),
        ({"speed": 1e-320}, "speed is .* all requests arrive within"),
        ({"rate": 1e-320}, "rate is .* all requests arrive within"),
    ],
)
def test_scaling_beyond_sense_is_refused(changes, words):
    requests = tuple(
        TraceRequest(request_id=str(index), arrival_seconds=index, prompt_tokens=100, output_tokens=5)
        for index in range(3)
    )
    with pytest.raises(InvalidValueError, match=words):
        scaled(Workload(requests=requests, source="", synthetic=True), LoadScaling(**changes))


def test_requests_beyond_the_context_are_refused_with_the_first_one_named():
    requests = tuple(
        TraceRequest(request_id=name, arrival_seconds=0, prompt_tokens=prompt, output_tokens=5)
        for name, prompt in (("a", 95), ("b", 96), ("c", 200))
    )
    load = Workload(requests=requests, source="", synthetic=True)
    require_context(load, 205)
    with pytest.raises(InvalidValueError, match=r"request 'b' is 101; expected at most 100 .*2 of 3 requests"):
        require_context(load, 100)
