"""One step in full: plan, blocks, admissions, its time, what it leaves."""

from math import isnan

from paceline.simulate.fast.blocks import blocks_of, place_in_block
from paceline.simulate.fast.compiling import compiled
from paceline.simulate.fast.memory import leave_decoding, room_for_chunk, serve_decodes
from paceline.simulate.fast.planning import give_back, plan
from paceline.simulate.fast.queues import append_decode, drop_end, is_current, pop, push_end
from paceline.simulate.fast.state import (
    DECODING,
    DONE,
    FINISHED,
    PACELINE,
    PARTIAL,
    VIDUR,
    Cost,
    Records,
    Rules,
    State,
)
from paceline.simulate.fast.work import mixed_step


@compiled
def full_step(s: State, rules: Rules, cost: Cost, records: Records) -> tuple[int, bool]:
    """Form and execute a step; return a fault, FINISHED for none, and whether anybody was served."""
    now = s.now[0]
    is_planned = rules.rules == PACELINE
    now.chunks = now.preempted = now.candidates = 0
    if is_planned:
        plan(s, rules)
    now.left = rules.chunk_size
    serve_decodes(s, rules, records)
    now.left -= now.decodes
    _serve_partials(s, rules, records, is_planned)
    if rules.rules == VIDUR:
        _admit_whole(s, rules)
    elif now.preempted == 0:
        _admit(s, rules, is_planned)
    give_back(s, 0)
    if now.decodes + now.chunks == 0:
        return FINISHED, False
    _note_blocked(s, rules)
    fault, seconds = mixed_step(s, rules, cost)
    if fault == FINISHED:
        _execute(s, rules, seconds, records)
    return fault, True


@compiled
def end_decode_tick(s: State, rules: Rules, seconds: float, records: Records) -> None:
    """Let a step's time pass: every decode has a token more, and those that have all of theirs complete."""
    now = s.now[0]
    s.now[0].clock += seconds
    s.now[0].busy += seconds
    now.step += 1
    now.tick += 1
    now.context += now.decodes
    while now.ends and s.ends[0].tick <= now.tick:
        if is_current(s, 0):
            request = s.ends[0].request
            leave_decoding(s, rules, request, now.step, records)
            _complete(s, request)
        drop_end(s)


@compiled
def record_step(s: State, seconds: float, records: Records) -> None:
    """Write a step down before it executes."""
    now = s.now[0]
    for at in range(now.chunks):
        chunk = records.chunks[now.logged_chunks]
        chunk.request, chunk.tokens = s.chunks[at].request, s.chunks[at].tokens
        chunk.context = s.requests[s.chunks[at].request].computed
        now.logged_chunks += 1
    row = records.steps[now.step]
    row.started, row.seconds = now.clock, seconds
    row.decodes, row.context = now.decodes, now.context
    row.waiting, row.running = now.waiting, now.decodes + now.partials
    row.free = now.free
    row.chunk_end, row.preempted_end = now.logged_chunks, now.logged_preempted


@compiled
def _serve_partials(s: State, rules: Rules, records: Records, is_planned: bool) -> None:
    at = 0
    while at < s.now[0].partials and s.now[0].left > 0:
        request = s.partials[at]
        tokens = min(s.requests[request].tokens - s.requests[request].computed, s.now[0].left)
        if is_planned:
            tokens = min(tokens, s.requests[request].planned)
        if tokens > 0:
            if rules.rules != VIDUR and not room_for_chunk(s, rules, records, request, tokens):
                return
            _add_chunk(s, request, tokens)
        at += 1


@compiled
def _admit_whole(s: State, rules: Rules) -> None:
    """Admit as Vidur does: the blocks of the whole prompt, and the watermark."""
    now = s.now[0]
    while now.left > 0 and now.waiting and now.decodes + now.partials < rules.max_num_seqs:
        request = s.heap[0]
        needed = blocks_of(rules, s.requests[request].tokens)
        if now.free - needed < rules.watermark:
            return
        _start(s, pop(s), needed, min(s.requests[request].tokens, now.left))


@compiled
def _admit(s: State, rules: Rules, is_planned: bool) -> None:
    """Admit as vLLM does: blocks of the prompt must be free, those of the chunk are taken."""
    now = s.now[0]
    at = 0
    while now.left > 0 and now.decodes + now.partials < rules.max_num_seqs:
        if at >= now.candidates if is_planned else now.waiting == 0:
            break
        request = s.candidates[at] if is_planned else s.heap[0]
        kept = rules.watermark if now.decodes + now.partials else 0
        if blocks_of(rules, s.requests[request].tokens) + kept > now.free:
            break
        tokens = min(s.requests[request].tokens, now.left)
        if is_planned:
            tokens = min(tokens, s.requests[request].planned)
            at += 1
        else:
            pop(s)
        _start(s, request, blocks_of(rules, tokens), tokens)
    give_back(s, at)


@compiled
def _start(s: State, request: int, blocks: int, tokens: int) -> None:
    s.now[0].free -= blocks
    s.requests[request].blocks = blocks
    s.requests[request].status = PARTIAL
    s.partials[s.now[0].partials] = request
    s.now[0].partials += 1
    if isnan(s.requests[request].first_scheduled):
        s.requests[request].first_scheduled = s.now[0].clock
    _add_chunk(s, request, tokens)


@compiled
def _add_chunk(s: State, request: int, tokens: int) -> None:
    s.chunks[s.now[0].chunks].request = request
    s.chunks[s.now[0].chunks].tokens = tokens
    s.now[0].chunks += 1
    s.now[0].left -= tokens


@compiled
def _note_blocked(s: State, rules: Rules) -> None:
    """Note whether nobody can be admitted until a request completes or another head of the queue arrives.

    A step that only decodes and admits nobody was refused for want of blocks, of room or of tokens, none of which comes
    back before that; under a time target a plan can change its mind as contexts grow.
    """
    now = s.now[0]
    only_decodes = now.chunks == 0 and now.partials == 0 and now.preempted == 0
    if only_decodes and rules.has_target and now.waiting:
        needed = blocks_of(rules, s.requests[s.heap[0]].tokens)
        only_decodes = needed + rules.watermark > now.free or now.decodes == rules.max_num_seqs
    now.blocked = only_decodes


@compiled
def _execute(s: State, rules: Rules, seconds: float, records: Records) -> None:
    now = s.now[0]
    if records.wanted:
        record_step(s, seconds, records)
    end_decode_tick(s, rules, seconds, records)
    for at in range(now.chunks):
        request = s.chunks[at].request
        s.requests[request].computed += s.chunks[at].tokens
        s.requests[request].execution += seconds
    kept = 0
    for at in range(now.partials):
        request = s.partials[at]
        if s.requests[request].computed == s.requests[request].tokens:
            _end_prefill(s, rules, request, records)
        else:
            s.partials[kept] = request
            kept += 1
    now.partials = kept


@compiled
def _end_prefill(s: State, rules: Rules, request: int, records: Records) -> None:
    """A prompt is computed: its last chunk generates a token."""
    now = s.now[0]
    s.requests[request].tokens += 1
    if isnan(s.requests[request].first_token):
        s.requests[request].first_token = s.now[0].clock
    if s.requests[request].tokens == s.requests[request].total:
        now.free += s.requests[request].blocks
        _complete(s, request)
        return
    s.requests[request].status = DECODING
    s.requests[request].base = s.requests[request].tokens - now.tick
    s.requests[request].end_tick = now.tick + s.requests[request].total - s.requests[request].tokens
    s.requests[request].stamp += 1
    s.requests[request].busy_before = s.now[0].busy
    s.phase[place_in_block(rules, s.requests[request].base)] += 1
    now.decodes += 1
    now.context += s.requests[request].tokens - 1
    append_decode(s, request)
    push_end(s, request)
    if records.wanted:
        s.requests[request].span = now.spans
        row = records.spans[now.spans]
        row.request, row.first, row.end = request, now.step, now.step
        now.spans += 1


@compiled
def _complete(s: State, request: int) -> None:
    s.requests[request].status = DONE
    s.requests[request].completion = s.now[0].clock
    s.now[0].unfinished -= 1
    s.now[0].blocked = 0
