from collections.abc import Iterator
from itertools import accumulate

from closed_loop import ClosedLoop, Seen
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.schedule import (
    POLICIES,
    DecodeLoad,
    LinearStepTime,
    PlannerSettings,
    PolicyWeights,
    PrefillRequest,
    StepLoad,
    TraceRequest,
    plan_step,
    request_order,
)
from paceline.schedule.step_time import with_chunk

# binary fractions, so that sums are exact and a chunk on the edge of the target is on it for both sides
COEFFICIENTS = st.sampled_from([0.0, 0.125, 0.5, 1.0])
STEP_TIMES = st.builds(
    LinearStepTime,
    base_ms=st.sampled_from([0.0, 1.0, 4.0]),
    per_decode_token_ms=COEFFICIENTS,
    per_decode_context_token_ms=st.sampled_from([0.0, 0.0078125]),
    per_prefill_token_ms=COEFFICIENTS,
    per_prefill_attention_token_ms=st.sampled_from([0.0, 0.0078125]),
)


@st.composite
def planner_settings(draw: st.DrawFn) -> PlannerSettings:
    chunk_size = draw(st.integers(4, 64))
    max_chunk = draw(st.none() | st.integers(1, chunk_size))
    return PlannerSettings(
        policy=draw(st.sampled_from(sorted(POLICIES))),
        weights=PolicyWeights(prompt_weight=draw(st.sampled_from([-0.01, -0.5, 0.0]))),
        chunk_size=chunk_size,
        min_chunk_threshold=draw(st.integers(0, (3 * chunk_size - 1) // 10)),
        min_chunk_tokens=draw(st.integers(0, max_chunk or chunk_size)),
        target_time_ms=draw(st.none() | st.sampled_from([2.0, 8.0, 20.0])),
        max_partial_prefills=draw(st.none() | st.integers(1, 3)),
        max_chunk_tokens=max_chunk,
    )


@st.composite
def traces(draw: st.DrawFn) -> list[TraceRequest]:
    count = draw(st.integers(1, 14))
    return [
        TraceRequest(
            request_id=f"r{index}",
            arrival_seconds=draw(st.integers(0, 60)) / 128,
            prompt_tokens=draw(st.integers(1, 12) | st.integers(1, 200)),
            output_tokens=draw(st.integers(1, 12)),
        )
        for index in range(count)
    ]


@st.composite
def closed_loops(draw: st.DrawFn) -> ClosedLoop:
    return ClosedLoop(
        settings=draw(planner_settings()),
        trace=draw(traces()),
        max_running=draw(st.integers(1, 10)),
        step_time=draw(STEP_TIMES),
        preemptions=draw(st.integers(0, 8)),
        seed=draw(st.integers(0, 1000)),
    )


def by_id(seen: Seen) -> dict[str, PrefillRequest]:
    return {request.request_id: request for request in [*seen.partial, *seen.waiting]}


def served(seen: Seen) -> Iterator[tuple[PrefillRequest, int, StepLoad]]:
    """The chunks in the plan's order, each with the load before it."""
    requests = by_id(seen)
    load = StepLoad(decode_tokens=seen.plan.decode_tokens, decode_context_tokens=seen.decodes.context_tokens)
    for request_id, chunk in seen.plan.chunks.items():
        request = requests[request_id]
        yield request, chunk, load
        load = with_chunk(load, chunk_tokens=chunk, context_tokens=request.context_tokens)


def used_tokens(load: StepLoad) -> int:
    return load.decode_tokens + load.prefill_tokens


def limit_ms(loop: ClosedLoop, seen: Seen, first: PrefillRequest) -> float | None:
    """The time that the chunks of a step have to keep, by the first request that is looked at; None for none."""
    own = loop.settings
    decodes = StepLoad(decode_tokens=seen.plan.decode_tokens, decode_context_tokens=seen.decodes.context_tokens)
    if own.target_time_ms is None or not decodes.decode_tokens:
        return None
    base_ms = loop.step_time.predict_ms(StepLoad())

    def base_share(size: int) -> float:
        alone_ms = loop.step_time.predict_ms(with_chunk(StepLoad(), chunk_tokens=size, context_tokens=0))
        return base_ms / alone_ms if alone_ms else 0.0

    sizes = [size for size in range(1, own.chunk_size + 1) if base_share(size) <= own.target_base_share]
    useful = max(min(sizes, default=own.chunk_size), own.min_chunk_threshold, own.min_chunk_tokens)
    with_useful = with_chunk(decodes, chunk_tokens=useful, context_tokens=first.context_tokens)
    return max(own.target_time_ms, loop.step_time.predict_ms(with_useful))


def fits(loop: ClosedLoop, limit: float | None, load: StepLoad, request: PrefillRequest, chunk: int) -> bool:
    after = with_chunk(load, chunk_tokens=chunk, context_tokens=request.context_tokens)
    within = limit is None or loop.step_time.predict_ms(after) <= limit
    return within and used_tokens(after) <= loop.settings.chunk_size


def obeys(loop: ClosedLoop, request: PrefillRequest, chunk: int) -> bool:
    """Whether a chunk is one that min_chunk_tokens and max_chunk_tokens allow."""
    own, tail = loop.settings, request.remaining_tokens - chunk
    if tail == 0:  # a last piece below min_chunk_tokens may come along
        return own.max_chunk_tokens is None or chunk < own.max_chunk_tokens + max(1, own.min_chunk_tokens)
    return own.min_chunk_tokens <= min(chunk, tail) and chunk <= (own.max_chunk_tokens or chunk)


def best_chunk(loop: ClosedLoop, limit: float | None, load: StepLoad, request: PrefillRequest) -> int:
    """What the rules give a request, by trying every chunk."""
    fitting = [size for size in range(1, request.remaining_tokens + 1) if fits(loop, limit, load, request, size)]
    left = loop.settings.chunk_size - used_tokens(load)
    if len(fitting) < min(left, request.remaining_tokens):
        left = len(fitting)
    if left < loop.settings.min_chunk_threshold:
        return 0
    return max((size for size in fitting if obeys(loop, request, size)), default=0)


@settings(deadline=None, max_examples=150)
@given(closed_loops())
def test_every_step_keeps_the_budget_and_every_request_ends(loop: ClosedLoop) -> None:
    for step, seen in enumerate(loop.steps()):
        plan, requests = seen.plan, by_id(seen)
        assert plan.decode_tokens == min(seen.decodes.tokens, loop.settings.chunk_size)
        assert plan.prefill_tokens == sum(plan.chunks.values())
        assert plan.decode_tokens + plan.prefill_tokens <= loop.settings.chunk_size
        assert plan.decode_tokens + plan.prefill_tokens > 0, "a step with work pending makes progress"
        assert all(1 <= chunk <= requests[name].remaining_tokens for name, chunk in plan.chunks.items())
        assert plan.admitted == sum(request.request_id in plan.chunks for request in seen.waiting) <= seen.room
        alive = [live.trace.request_id for live in [*loop.queue, *loop.running]]
        coming = [each.request_id for each in loop.coming]
        assert sorted([*alive, *coming, *loop.finished]) == sorted(each.request_id for each in loop.trace)
        assert step < 20_000
    assert len(loop.finished) == len(loop.trace)


@settings(deadline=None, max_examples=150)
@given(closed_loops())
def test_none_passes_another_in_the_order(loop: ClosedLoop) -> None:
    order = request_order(loop.settings.policy, loop.settings.weights)
    for seen in loop.steps():
        keys = [order(request) for request, _, _ in served(seen)]
        assert keys == sorted(keys)
        assert list(map(order, seen.waiting)) == sorted(map(order, seen.waiting))
        unserved = [request for request in [*seen.partial, *seen.waiting] if request.request_id not in seen.plan.chunks]
        first_unserved = min((order(request) for request in unserved), default=(float("inf"),))
        for request in seen.waiting:  # a waiting one is started only when all before it got something
            assert request.request_id not in seen.plan.chunks or order(request) <= first_unserved
        held_back = seen.plan.admitted >= seen.room or loop.settings.max_partial_prefills is not None
        refused_for_budget = [request for request in unserved if request in seen.partial or not held_back]
        for request in refused_for_budget:
            assert all(key <= order(request) for key in keys)


@settings(deadline=None, max_examples=150)
@given(closed_loops())
def test_every_chunk_is_the_largest_that_the_rules_allow(loop: ClosedLoop) -> None:
    for seen in loop.steps():
        last = StepLoad(decode_tokens=seen.plan.decode_tokens, decode_context_tokens=seen.decodes.context_tokens)
        queue = sorted(by_id(seen).values(), key=request_order(loop.settings.policy, loop.settings.weights))
        limit = limit_ms(loop, seen, first_looked_at(seen, queue)) if queue else None
        for request, chunk, load in served(seen):
            best = best_chunk(loop, limit, load, request)
            if best:
                assert chunk == best
            else:  # only to make progress in an empty step, where no target holds
                assert used_tokens(load) == 0
                cap = loop.settings.max_chunk_tokens or chunk
                assert fits(loop, limit, load, request, chunk) and chunk <= cap
            last = with_chunk(load, chunk_tokens=chunk, context_tokens=request.context_tokens)
        plain = loop.settings.max_partial_prefills is None
        unserved = [each for each in queue if each.request_id not in seen.plan.chunks]
        if plain and unserved and seen.plan.admitted < seen.room:
            assert best_chunk(loop, limit, last, unserved[0]) == 0, "nothing that fits is left out"


def first_looked_at(seen: Seen, queue: list[PrefillRequest]) -> PrefillRequest:
    """The first in order that may be served: a waiting one without room is not looked at."""
    return next((each for each in queue if seen.room or each in seen.partial), queue[0])


@settings(deadline=None, max_examples=150)
@given(closed_loops())
def test_threshold_target_and_small_chunks(loop: ClosedLoop) -> None:
    own = loop.settings
    for seen in loop.steps():
        queue = sorted(by_id(seen).values(), key=request_order(own.policy, own.weights))
        limit = limit_ms(loop, seen, first_looked_at(seen, queue)) if queue else None
        for request, chunk, load in served(seen):
            tail = request.remaining_tokens - chunk
            assert fits(loop, limit, load, request, chunk)
            if used_tokens(load):
                assert own.chunk_size - used_tokens(load) >= own.min_chunk_threshold
                assert tail == 0 or min(chunk, tail) >= own.min_chunk_tokens
            elif 0 < tail < own.min_chunk_tokens:  # unavoidable only if no chunk that fits obeys the rule
                assert best_chunk(loop, limit, load, request) == 0


@settings(deadline=None, max_examples=150)
@given(closed_loops())
def test_partial_prefills_stay_within_their_limit(loop: ClosedLoop) -> None:
    limit = loop.settings.max_partial_prefills
    for seen in loop.steps():
        requests = by_id(seen)
        ended = sum(chunk == requests[name].remaining_tokens for name, chunk in seen.plan.chunks.items())
        left_partial = len(seen.partial) + seen.plan.admitted - ended
        assert limit is None or left_partial <= max(limit, len(seen.partial))


@given(st.integers(1, 40), st.integers(0, 6), st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_waiting_is_read_no_further_than_needed(chunk_size: int, room: int, prompts: list[int]) -> None:
    read: list[str] = []

    def waiting() -> Iterator[PrefillRequest]:
        for index, prompt in enumerate(prompts):
            read.append(str(index))
            yield PrefillRequest(
                request_id=str(index),
                queue_number=index,
                arrival_seconds=float(index),
                prompt_tokens=prompt,
                remaining_tokens=prompt,
            )

    plan = plan_step(
        settings=PlannerSettings(chunk_size=chunk_size),
        decodes=DecodeLoad(tokens=0, context_tokens=0),
        partial=[],
        waiting=waiting(),
        room=room,
    )
    starts = [0, *accumulate(prompts)]
    assert plan.admitted == min(room, sum(start < chunk_size for start in starts[:-1]))
    assert list(plan.chunks) == read[: plan.admitted]
    assert len(read) <= plan.admitted + 1
