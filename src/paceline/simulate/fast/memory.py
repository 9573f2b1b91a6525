"""Blocks that running requests take in a step, and who gives way when there are too few: the last that runs."""

from paceline.simulate.fast.blocks import blocks_of, place_in_block
from paceline.simulate.fast.compiling import compiled
from paceline.simulate.fast.queues import is_live, queue_first
from paceline.simulate.fast.state import (
    QUEUED,
    VIDUR,
    Records,
    Rules,
    State,
)


@compiled
def decodes_fit(s: State, rules: Rules) -> bool:
    """Whether all decodes of this step get their blocks, and under Vidur's rules find one free whether they need it or not."""
    needed = s.phase[place_in_block(rules, 1 - s.now[0].tick)]
    spare = 1 if rules.rules == VIDUR and s.now[0].decodes else 0
    return needed + spare <= s.now[0].free


@compiled
def serve_decodes(s: State, rules: Rules, records: Records) -> None:
    """Take the decodes' blocks; where they do not all fit, one decode after another in the order in which they run."""
    if decodes_fit(s, rules):
        s.now[0].free -= s.phase[place_in_block(rules, 1 - s.now[0].tick)]
        return
    place = 0
    while place < s.now[0].ordered:
        if is_live(s, place):
            request = s.order[place]
            grows = place_in_block(rules, s.requests[request].base + s.now[0].tick - 1) == 0
            wants = rules.rules == VIDUR or grows
            while wants and s.now[0].free < 1:
                if _preempt_last(s, rules, records) == request:
                    return
            s.now[0].free -= grows
        place += 1


@compiled
def room_for_chunk(s: State, rules: Rules, records: Records, request: int, tokens: int) -> bool:
    """Take the blocks of a partial prefill's chunk; False when it had to give way itself."""
    while True:
        needed = blocks_of(rules, s.requests[request].computed + tokens) - s.requests[request].blocks
        if needed <= s.now[0].free:
            s.requests[request].blocks += needed
            s.now[0].free -= needed
            return True
        if _preempt_last(s, rules, records) == request:
            return False


@compiled
def leave_decoding(s: State, rules: Rules, request: int, step: int, records: Records) -> None:
    """Take a request out of the decodes: what they share is without it, its blocks are free."""
    tokens = s.requests[request].base + s.now[0].tick
    s.now[0].decodes -= 1
    s.now[0].context -= tokens - 1
    s.now[0].free += blocks_of(rules, tokens - 1)
    s.phase[place_in_block(rules, s.requests[request].base)] -= 1
    s.requests[request].execution += s.now[0].busy - s.requests[request].busy_before
    if records.wanted:
        records.spans[s.requests[request].span].end = step


@compiled
def _preempt_last(s: State, rules: Rules, records: Records) -> int:
    now = s.now[0]
    if now.partials:
        now.partials -= 1
        request = s.partials[now.partials]
        now.free += s.requests[request].blocks
        if rules.rules == VIDUR:
            s.requests[request].tokens = s.requests[request].computed  # it loses the rest of its prompt
    else:
        while not is_live(s, now.ordered - 1):
            now.ordered -= 1
        now.ordered -= 1
        request = s.order[now.ordered]
        s.requests[request].tokens = s.requests[request].base + now.tick
        leave_decoding(s, rules, request, now.step, records)
    _requeue(s, rules, request, records)
    return request


@compiled
def _requeue(s: State, rules: Rules, request: int, records: Records) -> None:
    now = s.now[0]
    s.requests[request].status = QUEUED
    s.requests[request].computed = s.requests[request].blocks = 0
    s.requests[request].restart_tokens = s.requests[request].tokens
    s.requests[request].preemptions += 1
    now.serial += 1
    now.preempted += 1
    queue_first(s, rules, request, now.serial)
    if records.wanted:
        records.preempted[now.logged_preempted] = request
        now.logged_preempted += 1
