"""The loop of a run: arrivals, then a run of decodes where nothing else can happen, else a step in full."""

from paceline.simulate.fast.blocks import place_in_block
from paceline.simulate.fast.compiling import compiled, compiled_once
from paceline.simulate.fast.memory import decodes_fit
from paceline.simulate.fast.queues import push, set_key
from paceline.simulate.fast.state import (
    CLOSED,
    FINISHED,
    NEVER_ADMITTED,
    PACELINE,
    RECORDS_FULL,
    REPLAYED,
    STARTED,
    VIDUR,
    Cost,
    Records,
    Rules,
    State,
)
from paceline.simulate.fast.steps import end_decode_tick, full_step, record_step
from paceline.simulate.fast.work import decode_seconds, decode_step, no_earlier, varied


@compiled_once
def run_until(s: State, rules: Rules, cost: Cost, records: Records, until: float) -> int:
    """Take every step that starts before `until`; return FINISHED when there is none left, a fault, or RECORDS_FULL.

    With longer records, or with more requests, it goes on where it was.
    """
    now = s.now[0]
    while now.unfinished:
        if records.wanted and _is_full(s, records):
            return RECORDS_FULL
        if now.decodes == 0 and now.partials == 0 and now.waiting == 0:
            now.clock = max(now.clock, s.requests[now.arrived].arrival)
        if now.clock >= until or not _begins(s, rules, cost, until):
            return FINISHED
        fault, served = _decode_run(s, rules, cost, records, until)
        if fault == FINISHED and not served:
            fault, served = full_step(s, rules, cost, records)
        if fault == FINISHED and not served:
            fault = _wait(s)
        if fault != FINISHED:
            return fault
    return FINISHED


@compiled
def _decode_run(s: State, rules: Rules, cost: Cost, records: Records, until: float) -> tuple[int, bool]:
    """Take steps that only decode, as long as nobody can be admitted, nobody completes and blocks last."""
    now = s.now[0]
    now.chunks = 0
    is_served = False
    if now.decodes == 0 or now.partials:
        return FINISHED, False
    while _admits_nobody(s, rules) and decodes_fit(s, rules) and not (records.wanted and _is_full(s, records)):
        if cost.kind != REPLAYED and _plain_ticks(s, rules, cost, records, until):
            is_served = True
            if now.clock >= until or not _begins(s, rules, cost, until):
                break
            continue
        fault, seconds = decode_step(s, cost)
        if fault != FINISHED:
            return fault, is_served
        now.free -= s.phase[place_in_block(rules, 1 - now.tick)]
        if records.wanted:
            record_step(s, seconds, records)
        unfinished = now.unfinished
        end_decode_tick(s, rules, seconds, records)
        is_served = True
        if now.unfinished < unfinished or now.clock >= until or not _begins(s, rules, cost, until):
            break
    return FINISHED, is_served


@compiled
def _plain_ticks(s: State, rules: Rules, cost: Cost, records: Records, until: float) -> int:
    """Take the steps before the next completion or arrival, and return how many; what a step changes is four sums."""
    now, phase, log = s.now[0], s.phase, records.steps
    arrival = min(until, s.requests[now.arrived].arrival) if now.arrived < now.received else until
    most = s.ends[0].tick - now.tick - 1
    if records.wanted:
        most = min(most, len(log) - now.step - 1)
    spare = 1 if rules.rules == VIDUR else 0
    decodes, context, free, clock, busy = now.decodes, now.context, now.free, now.clock, now.busy
    at = place_in_block(rules, 1 - now.tick)
    ticks = 0
    while ticks < most and phase[at] + spare <= free and clock < arrival:
        seconds = decode_seconds(cost, decodes, context)
        if seconds < 0:
            break
        seconds = varied(cost, now.step + ticks, seconds)
        free -= phase[at]
        if records.wanted:
            row = log[now.step + ticks]
            row.started, row.seconds, row.decodes, row.context = clock, seconds, decodes, context
            row.waiting, row.running, row.free = now.waiting, decodes, free
            row.chunk_end, row.preempted_end = now.logged_chunks, now.logged_preempted
        at = (at if at else rules.block_size) - 1
        clock += seconds
        busy += seconds
        context += decodes
        ticks += 1
    now.context, now.free, now.clock, now.busy = context, free, clock, busy
    now.tick += ticks
    now.step += ticks
    return ticks


@compiled
def _admits_nobody(s: State, rules: Rules) -> bool:
    return s.now[0].waiting == 0 or s.now[0].decodes == rules.max_num_seqs or s.now[0].blocked != 0


@compiled
def _begins(s: State, rules: Rules, cost: Cost, until: float) -> bool:
    """Queue who arrived by the time that a step closes its queue, and let it start; once a step.

    False where receiving requests has taken all the time up to `until`.
    """
    now = s.now[0]
    if cost.kind != REPLAYED:
        _arrive(s, rules, cost)
    elif now.begun <= now.step:
        no_earlier(s, cost, CLOSED)
        _arrive(s, rules, cost)
        no_earlier(s, cost, STARTED)
        now.begun = now.step + 1
    return cost.request_seconds == 0 or s.now[0].clock < until


@compiled
def _arrive(s: State, rules: Rules, cost: Cost) -> None:
    """Queue whoever has arrived by now, and meanwhile."""
    now = s.now[0]
    while now.arrived < now.received and s.requests[now.arrived].arrival <= s.now[0].clock:
        queue_now(s, rules, now.arrived)
        s.now[0].clock += cost.request_seconds
        now.arrived += 1


@compiled
def queue_now(s: State, rules: Rules, request: int) -> None:
    """Queue a request by the present clock."""
    s.requests[request].queue_number, s.requests[request].queued_seconds = request, s.now[0].clock
    if rules.rules == PACELINE:
        set_key(s, rules, request)
    else:
        s.requests[request].flag, s.requests[request].rank = 1, request
    push(s, request)
    if s.heap[0] == request:
        s.now[0].blocked = 0


@compiled
def _wait(s: State) -> int:
    """Go on after a step that served nobody: at once where the next one may, else at the next arrival."""
    now = s.now[0]
    s.now[0].begun = 0
    if now.preempted:
        return FINISHED
    if now.arrived == now.received:
        return NEVER_ADMITTED
    s.now[0].clock = s.requests[now.arrived].arrival
    return FINISHED


@compiled
def _is_full(s: State, records: Records) -> bool:
    """Whether one step more may not fit into the records."""
    now, most = s.now[0], len(s.partials)
    is_full = now.step + 1 >= len(records.steps)
    is_full |= now.logged_chunks + most > len(records.chunks)
    is_full |= now.logged_preempted + 2 * most > len(records.preempted)
    return is_full or now.spans + most > len(records.spans)
