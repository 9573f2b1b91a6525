"""`plan_step` once more, over the arrays: the same chunks for the same requests, held to it by test.

A load is its decodes, their context, prefill tokens and prefill attention, as in `StepLoad`.
"""

from paceline.simulate.fast.blocks import blocks_of, place_in_block
from paceline.simulate.fast.compiling import compiled
from paceline.simulate.fast.queues import comes_first, pop, push, sort_partials
from paceline.simulate.fast.state import (
    Rules,
    State,
)
from paceline.simulate.load import Floats

NOBODY = -1


@compiled
def predict_ms(model: Floats, decodes: int, context: int, tokens: int, attention: float) -> float:
    """Return what `LinearStepTime.predict_ms` returns, by the same additions."""
    return model[0] + model[1] * decodes + model[2] * context + model[3] * tokens + model[4] * attention


@compiled
def plan(s: State, rules: Rules) -> None:
    """Set the planned tokens of all partial prefills, and of the waiting requests to be admitted, which leave the queue."""
    _begin(s, rules)
    at = 0
    new = _offer(s, rules)
    while True:
        is_new = new != NOBODY and (at == s.now[0].partials or comes_first(s, new, s.partials[at]))
        if not is_new and at == s.now[0].partials:
            return
        request = new if is_new else s.partials[at]
        chunk = _wanted(s, rules, request)
        limited = (
            chunk < s.requests[request].tokens - s.requests[request].computed
            and s.now[0].plan_open >= rules.max_partial
        )
        if is_new and limited:
            new = NOBODY
            continue
        if chunk == 0:
            return
        _add(s, request, chunk, is_new)
        if is_new:
            new = _offer(s, rules)
        else:
            at += 1


@compiled
def give_back(s: State, first: int) -> None:
    """Put the requests that were planned and not admitted, from `first` on, back into the queue."""
    for at in range(first, s.now[0].candidates):
        push(s, s.candidates[at])
    s.now[0].candidates = 0


@compiled
def _begin(s: State, rules: Rules) -> None:
    now = s.now[0]
    partials = now.partials
    sort_partials(s, rules, partials)
    for at in range(partials):
        s.requests[s.partials[at]].planned = 0
    now.plan_tokens, now.plan_open, now.candidates = 0, partials, 0
    s.now[0].plan_attention, s.now[0].plan_limit = 0.0, -1.0
    now.plan_room = rules.max_num_seqs - now.decodes - partials
    now.plan_admits = now.plan_room > 0
    if partials:
        now.plan_free = now.free - rules.watermark - _running_blocks(s, rules)


@compiled
def _running_blocks(s: State, rules: Rules) -> int:
    """Return the blocks that running requests would take in this step, partial prefills before all new ones."""
    blocks = s.phase[place_in_block(rules, 1 - s.now[0].tick)]
    left = rules.chunk_size - s.now[0].decodes
    for at in range(s.now[0].partials):
        request = s.partials[at]
        tokens = min(left, s.requests[request].tokens - s.requests[request].computed)
        blocks += blocks_of(rules, s.requests[request].computed + tokens) - s.requests[request].blocks
        left -= tokens
    return blocks


@compiled
def _offer(s: State, rules: Rules) -> int:
    """Return the first waiting request if it may be planned for; it stays in the queue until it is."""
    if not s.now[0].plan_admits or s.now[0].waiting == 0:
        return NOBODY
    request = s.heap[0]
    if s.now[0].partials:
        s.now[0].plan_free -= blocks_of(rules, s.requests[request].tokens)
        if s.now[0].plan_free < 0:
            s.now[0].plan_admits = 0
            return NOBODY
    return request


@compiled
def _add(s: State, request: int, chunk: int, is_new: bool) -> None:
    now = s.now[0]
    s.requests[request].planned = chunk
    now.plan_tokens += chunk
    s.now[0].plan_attention += chunk * (s.requests[request].computed + chunk / 2)
    if chunk == s.requests[request].tokens - s.requests[request].computed:
        now.plan_open -= 1
    if is_new:
        s.candidates[now.candidates] = pop(s)
        now.candidates += 1
        now.plan_open += 1
        now.plan_admits = now.candidates < now.plan_room


@compiled
def _wanted(s: State, rules: Rules, request: int) -> int:
    remaining = s.requests[request].tokens - s.requests[request].computed
    used = s.now[0].decodes + s.now[0].plan_tokens
    left = rules.chunk_size - used
    most = min(remaining, left)
    fitting = most
    if rules.has_target and s.now[0].decodes:
        fitting = _fitting(s, rules, s.requests[request].computed, most)
    if fitting < most:
        left = fitting  # time runs out before tokens do
    chunk = 0
    if left >= rules.threshold:
        chunk = _useful_chunk(rules, remaining, fitting)
    if chunk == 0 and used == 0:
        return _progress_chunk(rules, fitting, most)
    return chunk


@compiled
def _useful_chunk(rules: Rules, remaining: int, fitting: int) -> int:
    least = rules.min_chunk
    chunk = min(fitting, rules.max_chunk) if rules.max_chunk else fitting
    if chunk < remaining < chunk + least:
        chunk = remaining if fitting == remaining else remaining - least
    return 0 if chunk < least and chunk < remaining else chunk


@compiled
def _progress_chunk(rules: Rules, fitting: int, most: int) -> int:
    chunk = min(fitting, rules.max_chunk) if rules.max_chunk else fitting
    return chunk if chunk >= 1 else min(most, max(1, rules.threshold, rules.min_chunk))


@compiled
def _step_ms(s: State, rules: Rules, context: int, chunk: int) -> float:
    """Return the predicted time of the planned step with one chunk more."""
    attention = s.now[0].plan_attention + chunk * (context + chunk / 2)
    tokens = s.now[0].plan_tokens + chunk
    return predict_ms(rules.target_model, s.now[0].decodes, s.now[0].context, tokens, attention)


@compiled
def _fitting(s: State, rules: Rules, context: int, most: int) -> int:
    if s.now[0].plan_limit < 0:
        s.now[0].plan_limit = max(rules.target_ms, _step_ms(s, rules, context, rules.useful_chunk))
    limit = s.now[0].plan_limit
    fits, exceeds = 0, most
    fits_ms, exceeds_ms = _step_ms(s, rules, context, 0), _step_ms(s, rules, context, most)
    if fits_ms > limit:
        return 0
    if exceeds_ms <= limit:
        return most
    interpolates = True
    while exceeds - fits > 1:
        share = (limit - fits_ms) / (exceeds_ms - fits_ms) if interpolates else 0.5
        chunk = min(max(fits + int(share * (exceeds - fits)), fits + 1), exceeds - 1)
        chunk_ms = _step_ms(s, rules, context, chunk)
        if chunk_ms <= limit:
            fits, fits_ms = chunk, chunk_ms
        else:
            exceeds, exceeds_ms = chunk, chunk_ms
        interpolates = not interpolates
    return fits
