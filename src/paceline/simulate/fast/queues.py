"""The waiting requests, a heap in the order of the rules; the decodes, in the order in which they run and by their ends."""

from math import inf

from paceline.simulate.fast.compiling import compiled
from paceline.simulate.fast.state import (
    AGING,
    DECODING,
    EDF,
    FCFS,
    PACELINE,
    SPF,
    Rules,
    State,
)


@compiled
def set_key(s: State, rules: Rules, request: int) -> None:
    """Give a request its key in the order of the policy, from what it has left to compute now."""
    remaining = s.requests[request].tokens - s.requests[request].computed
    s.requests[request].flag = 0 if s.requests[request].preemptions else 1
    s.requests[request].rank = s.requests[request].queue_number
    if rules.policy == FCFS:
        s.requests[request].key = 0.0
    elif rules.policy == SPF:
        s.requests[request].key = s.requests[request].prompt
    elif rules.policy == AGING:
        s.requests[request].key = (
            rules.time_weight * s.requests[request].queued_seconds - rules.prompt_weight * remaining
        )
    elif rules.policy == EDF:
        budget = s.requests[request].budget
        s.requests[request].key = s.requests[request].queued_seconds + (
            budget if budget < inf else rules.no_budget_seconds
        )
    else:
        s.requests[request].key = remaining


@compiled
def queue_first(s: State, rules: Rules, request: int, serial: int) -> None:
    """Queue a preempted request: at the head of the queue, or where the policy has it among the resumed."""
    if rules.rules == PACELINE:
        set_key(s, rules, request)
    else:
        s.requests[request].flag, s.requests[request].key, s.requests[request].rank = 0, 0.0, -serial
    push(s, request)


@compiled
def comes_first(s: State, one: int, other: int) -> bool:
    """Whether one request stands before another."""
    if s.requests[one].flag != s.requests[other].flag:
        return s.requests[one].flag < s.requests[other].flag
    if s.requests[one].key != s.requests[other].key:
        return s.requests[one].key < s.requests[other].key
    return s.requests[one].rank < s.requests[other].rank


@compiled
def push(s: State, request: int) -> None:
    """Put a request with its key into the queue."""
    at = s.now[0].waiting
    s.now[0].waiting = at + 1
    while at > 0:
        parent = (at - 1) >> 1
        if not comes_first(s, request, s.heap[parent]):
            break
        s.heap[at] = s.heap[parent]
        at = parent
    s.heap[at] = request


@compiled
def pop(s: State) -> int:
    """Take the first request out of the queue."""
    first = s.heap[0]
    size = s.now[0].waiting - 1
    s.now[0].waiting = size
    moved = s.heap[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and comes_first(s, s.heap[child + 1], s.heap[child]):
            child += 1
        if not comes_first(s, s.heap[child], moved):
            break
        s.heap[at] = s.heap[child]
        at = child
    s.heap[at] = moved
    return first


@compiled
def sort_partials(s: State, rules: Rules, count: int) -> None:
    """Put the partial prefills into the order of the policy."""
    for at in range(count):
        request = s.partials[at]
        set_key(s, rules, request)
        while at > 0 and comes_first(s, request, s.partials[at - 1]):
            s.partials[at] = s.partials[at - 1]
            at -= 1
        s.partials[at] = request


@compiled
def is_live(s: State, place: int) -> bool:
    """Whether a decode stands at a place of the order, not a gap."""
    request = s.order[place]
    return s.requests[request].status == DECODING and s.requests[request].place == place


@compiled
def append_decode(s: State, request: int) -> None:
    """Put a decode last in the order; gaps are closed when there is no room."""
    if s.now[0].ordered == len(s.order):
        kept = 0
        for place in range(len(s.order)):
            if is_live(s, place):
                s.order[kept] = s.order[place]
                s.requests[s.order[kept]].place = kept
                kept += 1
        s.now[0].ordered = kept
    s.requests[request].place = s.now[0].ordered
    s.order[s.now[0].ordered] = request
    s.now[0].ordered += 1


@compiled
def push_end(s: State, request: int) -> None:
    """Note the tick at which a decode completes; entries of those that decode no more go when there is no room."""
    if s.now[0].ends == len(s.ends):
        size, s.now[0].ends = s.now[0].ends, 0
        for at in range(size):
            if is_current(s, at):
                _sift_end(s, s.ends[at].request, s.ends[at].tick, s.ends[at].stamp)
    _sift_end(s, request, s.requests[request].end_tick, s.requests[request].stamp)


@compiled
def is_current(s: State, at: int) -> bool:
    """Whether an entry of the ends is of a request that still decodes as it did when the entry was made."""
    request = s.ends[at].request
    return s.requests[request].status == DECODING and s.requests[request].stamp == s.ends[at].stamp


@compiled
def _sift_end(s: State, request: int, tick: int, stamp: int) -> None:
    at = s.now[0].ends
    s.now[0].ends = at + 1
    while at > 0 and tick < s.ends[(at - 1) >> 1].tick:
        s.ends[at] = s.ends[(at - 1) >> 1]
        at = (at - 1) >> 1
    end = s.ends[at]
    end.request, end.tick, end.stamp = request, tick, stamp


@compiled
def drop_end(s: State) -> None:
    """Take out the entry of the decode that completes first."""
    size = s.now[0].ends - 1
    s.now[0].ends = size
    request, tick, stamp = s.ends[size].request, s.ends[size].tick, s.ends[size].stamp
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and s.ends[child + 1].tick < s.ends[child].tick:
            child += 1
        if tick <= s.ends[child].tick:
            break
        s.ends[at] = s.ends[child]
        at = child
    end = s.ends[at]
    end.request, end.tick, end.stamp = request, tick, stamp
