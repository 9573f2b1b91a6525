from collections import defaultdict

import pytest
from closed_loop import ClosedLoop, Seen
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paceline.schedule import (
    PlannerSettings,
    PolicyQueue,
    PolicyWeights,
    PrefillRequest,
    TraceRequest,
    aging_priority,
    deadline_seconds,
    overtaking_ends_seconds,
    request_order,
)

# binary fractions: keys and priorities are exact, so that ties are ties
WEIGHTS = st.builds(
    PolicyWeights,
    time_weight=st.sampled_from([0.25, 1.0, 8.0]),
    prompt_weight=st.sampled_from([0.0, -0.0078125, -0.5, -1.0]),
)
SECONDS = st.integers(0, 4096).map(lambda ticks: ticks / 64)


@st.composite
def prefill_requests(draw: st.DrawFn) -> PrefillRequest:
    prompt = draw(st.integers(1, 5000))
    arrival = draw(SECONDS)
    return PrefillRequest(
        request_id=str(draw(st.integers(0, 10**9))),
        queue_number=round(64 * arrival),
        arrival_seconds=arrival,
        prompt_tokens=prompt,
        remaining_tokens=draw(st.integers(1, prompt)),
        ttft_budget_seconds=draw(st.none() | st.integers(1, 1280).map(lambda ticks: ticks / 64)),
    )


@given(st.lists(prefill_requests(), min_size=2, max_size=12), WEIGHTS, SECONDS)
def test_agings_key_orders_as_its_priority_at_any_time(
    requests: list[PrefillRequest], weights: PolicyWeights, later_seconds: float
) -> None:
    now = max(request.arrival_seconds for request in requests) + later_seconds
    ordered = sorted(requests, key=request_order("aging", weights))
    priorities = [aging_priority(request, weights, now_seconds=now) for request in ordered]
    assert priorities == sorted(priorities, reverse=True)


@given(prefill_requests(), prefill_requests(), WEIGHTS)
def test_overtaking_ends_when_it_is_said_to(
    first: PrefillRequest, later: PrefillRequest, weights: PolicyWeights
) -> None:
    order = request_order("aging", weights)
    assume(later.arrival_seconds > first.arrival_seconds)
    if later.arrival_seconds >= overtaking_ends_seconds(first, weights):
        assert order(first) < order(later)
    elif later.remaining_tokens == 1:  # the bound is tight: the shortest request just before it does overtake
        assert order(later) < order(first)


@pytest.mark.parametrize(("arrival", "passes"), [(49.75, True), (50.0, False), (50.25, False)])
def test_the_bound_on_overtaking_is_tight(arrival: float, passes: bool) -> None:
    # 100 tokens more at half a second each; at 50 s the keys are equal and the earlier arrival goes first
    weights = PolicyWeights(time_weight=1.0, prompt_weight=-0.5)
    first = PrefillRequest(
        request_id="first", queue_number=0, arrival_seconds=0.0, prompt_tokens=101, remaining_tokens=101
    )
    later = PrefillRequest(
        request_id="later", queue_number=1, arrival_seconds=arrival, prompt_tokens=1, remaining_tokens=1
    )
    order = request_order("aging", weights)
    assert overtaking_ends_seconds(first, weights) == 50.0
    assert (order(later) < order(first), order(first) < order(later)) == (passes, not passes)


@given(st.lists(st.tuples(st.sampled_from("prpk"), st.integers(0, 15), st.integers(0, 9)), max_size=200))
def test_queue_is_a_sorted_list_that_keeps_the_order_of_pushing(changes: list[tuple[str, int, int]]) -> None:
    key: dict[int, int] = {}
    queue: PolicyQueue[int] = PolicyQueue(lambda item: (key[item],))
    expected: list[tuple[int, int, int]] = []  # (key, push number, item)
    for number, (change, item, value) in enumerate(changes):
        if change == "p":
            key[item] = value
            queue.push(item)
            expected = [each for each in expected if each[2] != item] + [(value, number, item)]
        elif change == "r" and item in queue:
            queue.remove(item)
            expected = [each for each in expected if each[2] != item]
        elif change == "k" and expected:
            assert queue.peek() == min(expected)[2]
            assert queue.pop() == min(expected)[2]
            expected.remove(min(expected))
        assert list(queue) == [each[2] for each in sorted(expected)]
        assert (len(queue), bool(queue)) == (len(expected), bool(expected))


@given(st.lists(prefill_requests(), min_size=2, max_size=12), st.sampled_from([0.5, 10.0]))
def test_edf_orders_by_arrival_and_budget_with_ties_as_they_were_queued(
    requests: list[PrefillRequest], no_budget_seconds: float
) -> None:
    weights = PolicyWeights(no_budget_seconds=no_budget_seconds)
    ordered = sorted(requests, key=request_order("edf", weights))
    due = [
        (
            each.arrival_seconds
            + (no_budget_seconds if each.ttft_budget_seconds is None else each.ttft_budget_seconds),
            each.queue_number,
        )
        for each in ordered
    ]
    assert due == sorted(due)
    assert [each[0] for each in due] == [deadline_seconds(each, weights) for each in ordered]


@st.composite
def edf_loops(draw: st.DrawFn) -> ClosedLoop:
    weights = PolicyWeights(no_budget_seconds=draw(st.sampled_from([0.0625, 0.5, 4.0])))
    trace = [
        TraceRequest(
            request_id=str(index),
            arrival_seconds=draw(st.integers(0, 64)) / 128,
            prompt_tokens=draw(st.integers(1, 8) | st.integers(50, 300)),
            output_tokens=draw(st.integers(1, 6)),
            ttft_budget_ms=draw(st.none() | st.integers(1, 2000).map(float)),
        )
        for index in range(draw(st.integers(2, 20)))
    ]
    settings = PlannerSettings(policy="edf", weights=weights, chunk_size=draw(st.integers(8, 48)))
    return ClosedLoop(settings=settings, trace=trace, max_running=100)


@settings(deadline=None, max_examples=100)
@given(edf_loops())
def test_under_edf_only_work_that_is_due_before_a_request_is_done_before_it(loop: ClosedLoop) -> None:
    trace = {each.request_id: each for each in loop.trace}
    steps = list(loop.steps())
    for name in trace:
        own = [seen for seen in steps if name in unfinished(seen)]
        request = unfinished(own[0])[name]
        due = deadline_seconds(request, loop.settings.weights)
        passed_by = {other for seen in own if name not in seen.plan.chunks for other in seen.plan.chunks}
        # whoever arrives when it is due, or later, goes behind it: nobody starves, with a budget or without
        assert all(trace[other].arrival_seconds < due for other in passed_by)
        work = sum(seen.plan.prefill_tokens for seen in own[:-1])
        ahead = sum(each.remaining_tokens for other, each in unfinished(own[0]).items() if other != name)
        later = [each for each in trace.values() if own[0].clock_seconds < each.arrival_seconds < due]
        assert work <= ahead + sum(each.prompt_tokens for each in later) + request.remaining_tokens


@st.composite
def aging_loops(draw: st.DrawFn, *, plain: bool) -> ClosedLoop:
    """Long and short prompts in one stream; `plain` settings cut chunks by the budget alone."""
    chunk_size = draw(st.integers(8, 48))
    weights = draw(WEIGHTS)
    own = PlannerSettings(policy="aging", weights=weights, chunk_size=chunk_size)
    if not plain:
        own = PlannerSettings(
            policy="aging",
            weights=weights,
            chunk_size=chunk_size,
            min_chunk_threshold=draw(st.integers(0, (3 * chunk_size - 1) // 10)),
            min_chunk_tokens=draw(st.integers(0, chunk_size // 2)),
            max_partial_prefills=draw(st.none() | st.integers(1, 2)),
            max_chunk_tokens=draw(st.none() | st.integers(chunk_size // 2, chunk_size)),
        )
    trace = [
        TraceRequest(
            request_id=str(index),
            arrival_seconds=draw(st.integers(0, 64)) / 128,
            prompt_tokens=draw(st.integers(1, 8) | st.integers(50, 300)),
            output_tokens=draw(st.integers(1, 6)),
        )
        for index in range(draw(st.integers(2, 20)))
    ]
    return ClosedLoop(settings=own, trace=trace, max_running=draw(st.integers(1, 6)) if not plain else 100)


def unfinished(seen: Seen) -> dict[str, PrefillRequest]:
    return {request.request_id: request for request in [*seen.partial, *seen.waiting]}


@settings(deadline=None, max_examples=100)
@given(aging_loops(plain=False))
def test_agings_wait_is_bounded_in_work_and_in_steps(loop: ClosedLoop) -> None:
    trace = list(loop.trace)
    steps = list(loop.steps())
    longest_answer = max(each.output_tokens for each in trace)
    for request in trace:
        own = [seen for seen in steps if request.request_id in unfinished(seen)]
        bound = work_bound(loop, trace, request, own[0])
        passed_by: dict[str, int] = defaultdict(int)
        for seen in own:
            if request.request_id not in seen.plan.chunks:
                for name, chunk in seen.plan.chunks.items():
                    passed_by[name] += chunk
        assert sum(passed_by.values()) <= bound
        assert len(own) <= (bound + request.prompt_tokens) * (longest_answer + 1)
        ends = overtaking_ends_seconds(unfinished(own[0])[request.request_id], loop.settings.weights)
        arrivals = {each.request_id: each.arrival_seconds for each in trace}
        assert all(arrivals[name] < ends or arrivals[name] <= request.arrival_seconds for name in passed_by)


@settings(deadline=None, max_examples=100)
@given(aging_loops(plain=True))
def test_agings_work_bound_covers_all_prefill_where_only_the_budget_cuts_chunks(loop: ClosedLoop) -> None:
    trace = list(loop.trace)
    steps = list(loop.steps())
    for request in trace:
        own = [seen for seen in steps if request.request_id in unfinished(seen)]
        work = sum(seen.plan.prefill_tokens for seen in own[:-1])
        assert work <= work_bound(loop, trace, request, own[0]) + request.prompt_tokens


def work_bound(loop: ClosedLoop, trace: list[TraceRequest], request: TraceRequest, first: Seen) -> int:
    """Tokens that can be prefilled before a request's own: what was unfinished, and what arrives in time to overtake."""
    there = unfinished(first)
    ends = overtaking_ends_seconds(there[request.request_id], loop.settings.weights)
    later = [
        each for each in trace if each.request_id not in there and first.clock_seconds < each.arrival_seconds < ends
    ]
    backlog = sum(each.remaining_tokens for name, each in there.items() if name != request.request_id)
    return backlog + sum(each.prompt_tokens for each in later)


def steps_to_prefill_the_long_prompt(policy: str, shorts: int) -> int:
    """A prompt of 400 tokens, and for as long as `shorts` last each step brings as many tokens in short prompts."""
    chunk_size = 40
    long = TraceRequest(request_id="long", arrival_seconds=0.0, prompt_tokens=400, output_tokens=1)
    flood = [
        TraceRequest(request_id=f"short {index}", arrival_seconds=index / 4 * 0.01, prompt_tokens=10, output_tokens=1)
        for index in range(shorts)
    ]
    own = PlannerSettings(policy=policy, weights=PolicyWeights(prompt_weight=-0.001), chunk_size=chunk_size)
    loop = ClosedLoop(settings=own, trace=[long, *flood], max_running=100)
    return sum("long" in unfinished(seen) for seen in loop.steps())


def test_a_flood_of_short_prompts_starves_a_long_one_under_srtf_and_not_under_aging() -> None:
    # aging: D is 0.399 s, 40 steps of 10 ms, and then the long prompt takes 10 steps
    assert steps_to_prefill_the_long_prompt("srtf", 800) >= 200
    assert steps_to_prefill_the_long_prompt("srtf", 1600) >= 400
    assert steps_to_prefill_the_long_prompt("aging", 800) <= 52
    assert steps_to_prefill_the_long_prompt("aging", 1600) <= 52


def steps_without_a_first_token(policy: str, promised: int) -> int:
    """A request without a budget, and for as long as the others last each step brings its fill of those with one."""
    bare = TraceRequest(request_id="bare", arrival_seconds=0.0, prompt_tokens=40, output_tokens=1)
    flood = [
        TraceRequest(
            request_id=f"promised {index}",
            arrival_seconds=index / 4 * 0.01,
            prompt_tokens=10,
            output_tokens=1,
            ttft_budget_ms=20.0,
        )
        for index in range(promised)
    ]
    own = PlannerSettings(policy=policy, weights=PolicyWeights(no_budget_seconds=0.5), chunk_size=40)
    loop = ClosedLoop(settings=own, trace=[bare, *flood], max_running=100)
    return sum("bare" in unfinished(seen) for seen in loop.steps())


def test_a_flood_of_promised_requests_does_not_starve_one_without_a_budget() -> None:
    # due after half a second, 50 steps of 10 ms; nobody who arrives later than that goes before it
    assert steps_without_a_first_token("edf", 400) == steps_without_a_first_token("edf", 1600) <= 52
