"""Many equal engines behind a router: their states are rows of shared arrays, over one table of requests.

A request that arrives while its engine is in a step is queued at once, by the clock at that step's end: as the engine does
at the start of its next step. An engine is looked at anew only after it did something.
"""

from math import inf
from typing import NamedTuple

import numpy as np

from paceline.simulate.fast.compiling import compiled, compiled_once
from paceline.simulate.fast.loop import queue_now, run_until
from paceline.simulate.fast.planning import predict_ms
from paceline.simulate.fast.rows import ChunkRow, EndRow, NowRow, RequestRow, grid, rows, set_column
from paceline.simulate.fast.state import (
    AGING,
    EDF,
    FCFS,
    FINISHED,
    LINEAR,
    NEVER_ADMITTED,
    PACELINE,
    QUEUE_FULL,
    SPF,
    Cost,
    Records,
    Rules,
    State,
    new_requests,
)
from paceline.simulate.fast.work import tabled_seconds, varied
from paceline.simulate.load import Floats, Integers
from paceline.simulate.predicted_ttft import FACTOR_UNITS

BY_QUEUE, BY_TTFT = range(2)  # routers
FIRST_QUEUE = 64  # waiting requests that an engine has room for at first, beside those that it runs


class Fleet(NamedTuple):
    """The engines' states, [engine, …] in each array but `requests`, and what a router knows of each."""

    now: list[NowRow]
    requests: list[RequestRow]
    heap: Integers
    phase: Integers
    order: Integers
    ends: list[list[EndRow]]
    partials: Integers
    chunks: list[list[ChunkRow]]
    candidates: Integers
    ready: Floats  # when the engine can take its next step; infinite when it has nothing to do
    chunk: Integers  # tokens of a full step beside today's decodes
    full: Floats  # its seconds
    before: Integers  # what the engine has left to prefill, in FACTOR_UNITS of a token


def new_fleet(size: int, *, engines: int, usable_blocks: int, most: int, block_size: int) -> Fleet:
    """Return idle engines, with room for so many requests in all and `most` at once on each."""

    def numbers(entries: int) -> Integers:
        return np.zeros((engines, entries), dtype=np.int64)

    fleet = Fleet(
        now=rows(NowRow, engines),
        requests=new_requests(size),
        heap=numbers(FIRST_QUEUE + 2 * most),
        phase=numbers(block_size),
        order=numbers(2 * most + 2),
        ends=grid(EndRow, engines, 2 * most + 2),
        partials=numbers(most + 1),
        chunks=grid(ChunkRow, engines, most + 1),
        candidates=numbers(most + 1),
        ready=np.full(engines, inf),
        chunk=np.zeros(engines, dtype=np.int64),
        full=np.full(engines, np.nan),
        before=np.zeros(engines, dtype=np.int64),
    )
    set_column(fleet.now, "free", usable_blocks)
    return fleet


def with_longer_queues(fleet: Fleet) -> Fleet:
    """Return the fleet with twice the room for waiting requests."""
    return fleet._replace(heap=np.concatenate([fleet.heap, np.zeros_like(fleet.heap)], axis=1))


@compiled_once
def route_all(
    fleet: Fleet, rules: Rules, cost: Cost, records: Records, router: int, first: int, engine_of: Integers
) -> tuple[int, int, int]:
    """Let all requests arrive from number `first` on; return FINISHED or a fault, at which engine, and at which request."""
    for request in range(first, len(fleet.requests)):
        fault, engine = choose(fleet, rules, cost, records, router, request)
        if fault == FINISHED:
            fault = admit(fleet, rules, cost, engine, request)
        if fault != FINISHED:
            return fault, engine, request
        engine_of[request] = engine
    return FINISHED, 0, len(fleet.requests)


@compiled_once
def route_one(fleet: Fleet, rules: Rules, cost: Cost, records: Records, router: int, request: int) -> tuple[int, int]:
    """Return FINISHED or a fault, and the engine that the router gives a request to, which is not there yet."""
    return choose(fleet, rules, cost, records, router, request)


@compiled_once
def admit_one(fleet: Fleet, rules: Rules, cost: Cost, engine: int, request: int) -> int:
    """Let a request arrive at an engine; return FINISHED, or QUEUE_FULL before anything is done."""
    return admit(fleet, rules, cost, engine, request)


@compiled
def choose(fleet: Fleet, rules: Rules, cost: Cost, records: Records, router: int, request: int) -> tuple[int, int]:
    """Take every step that starts before a request arrives, then compare the engines; the first among equals is chosen."""
    arrival = fleet.requests[request].arrival
    for engine in range(len(fleet.ready)):
        if fleet.ready[engine] < arrival:
            fault = run_until(_engine(fleet, engine), rules, cost, records, arrival)
            if fault != FINISHED and fault != NEVER_ADMITTED:  # who is not admitted yet may be told so at the end
                return fault, engine
            _look(fleet, engine)
    if router == BY_QUEUE:
        return FINISHED, _shortest_queue(fleet)
    return _earliest_token(fleet, rules, cost, request)


@compiled
def admit(fleet: Fleet, rules: Rules, cost: Cost, engine: int, request: int) -> int:
    """Queue a request that arrives now; its engine has taken every step that starts before."""
    now, row = fleet.now[engine], fleet.requests[request]
    if now.waiting + 2 * fleet.partials.shape[1] > fleet.heap.shape[1]:
        return QUEUE_FULL
    if now.decodes == 0 and now.partials == 0:
        now.clock = max(now.clock, row.arrival)
    now.unfinished += 1
    queue_now(_engine(fleet, engine), rules, request)
    fleet.now[engine].clock += cost.request_seconds
    _look(fleet, engine)
    return FINISHED


@compiled
def _engine(fleet: Fleet, engine: int) -> State:
    return State(
        fleet.now[engine : engine + 1],
        fleet.requests,
        fleet.heap[engine],
        fleet.phase[engine],
        fleet.order[engine],
        fleet.ends[engine],
        fleet.partials[engine],
        fleet.chunks[engine],
        fleet.candidates[engine],
    )


@compiled
def _look(fleet: Fleet, engine: int) -> None:
    """Note what a router knows of an engine that did something; the seconds of a full step are worked out when asked for."""
    now = fleet.now[engine]
    fleet.ready[engine] = now.clock if now.unfinished else inf
    fleet.full[engine] = np.nan
    before = 0
    for at in range(now.partials):
        before += _left(fleet, fleet.partials[engine, at])
    for at in range(now.waiting):
        before += _left(fleet, fleet.heap[engine, at])
    fleet.before[engine] = before


@compiled
def _left(fleet: Fleet, request: int) -> int:
    row = fleet.requests[request]
    return (row.tokens - row.computed) * units_of(row.factor)


@compiled
def units_of(factor: float) -> int:
    """Return a prefill factor in whole units, so that sums are the same in any order."""
    return int(np.rint(factor * FACTOR_UNITS))


@compiled
def _shortest_queue(fleet: Fleet) -> int:
    best = 0
    for engine in range(len(fleet.ready)):
        if fleet.now[engine].waiting < fleet.now[best].waiting:
            best = engine
    return best


@compiled
def _earliest_token(fleet: Fleet, rules: Rules, cost: Cost, request: int) -> tuple[int, int]:
    row = fleet.requests[request]
    own = row.prompt * units_of(row.factor)
    by_policy = rules.rules == PACELINE and rules.policy != FCFS
    key = _key(rules, fleet, request, row.prompt)
    best, best_seconds = 0, inf
    for engine in range(len(fleet.ready)):
        if np.isnan(fleet.full[engine]):
            fault = _work_out(fleet, rules, cost, engine)
            if fault != FINISHED:
                return fault, engine
        ahead = max(fleet.now[engine].clock, row.arrival) - row.arrival
        before = fleet.before[engine]
        if by_policy and before:
            if ahead + (own / FACTOR_UNITS) / fleet.chunk[engine] * fleet.full[engine] >= best_seconds:
                continue  # not the earliest, whoever stands before
            before = _before(fleet, rules, engine, key)
        seconds = ahead + ((before + own) / FACTOR_UNITS) / fleet.chunk[engine] * fleet.full[engine]
        if seconds < best_seconds:
            best, best_seconds = engine, seconds
    return FINISHED, best


@compiled
def _work_out(fleet: Fleet, rules: Rules, cost: Cost, engine: int) -> int:
    now = fleet.now[engine]
    chunk = max(1, rules.chunk_size - now.decodes)
    if cost.kind == LINEAR:
        fault = FINISHED
        seconds = predict_ms(cost.linear, now.decodes, now.context, chunk, chunk * (0 + chunk / 2)) / 1e3
    else:
        fault, seconds = tabled_seconds(
            _engine(fleet, engine), cost, now.decodes, now.context, 1, 0, chunk * chunk, chunk
        )
    fleet.chunk[engine], fleet.full[engine] = chunk, varied(cost, 0, seconds)
    return fault


@compiled
def _before(fleet: Fleet, rules: Rules, engine: int, key: float) -> int:
    """Return what stands before a request of that key, in units of a token."""
    now = fleet.now[engine]
    before = 0
    for at in range(now.partials + now.waiting):
        other = fleet.partials[engine, at] if at < now.partials else fleet.heap[engine, at - now.partials]
        row = fleet.requests[other]
        left = row.tokens - row.computed
        if row.preemptions or _key(rules, fleet, other, left) <= key:
            before += left * units_of(row.factor)
    return before


@compiled
def _key(rules: Rules, fleet: Fleet, request: int, left: int) -> float:
    """Return the policy's key by when a request arrived: what a router goes by, which does not see queues."""
    row = fleet.requests[request]
    if rules.policy == SPF:
        return row.prompt
    if rules.policy == AGING:
        return rules.time_weight * row.arrival - rules.prompt_weight * left
    if rules.policy == EDF:
        return row.arrival + (row.budget if row.budget < inf else rules.no_budget_seconds)
    return left
