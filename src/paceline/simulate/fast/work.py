"""The seconds of a step, by the additions of the reference's step-time models."""

from math import sqrt

import numpy as np

from paceline.simulate.fast.compiling import compiled
from paceline.simulate.fast.planning import predict_ms
from paceline.simulate.fast.state import (
    ADD,
    BEFORE_ATTENTION,
    COMMUNICATION,
    DECODE_TABLE,
    EXECUTE,
    FINISHED,
    LAYERNORM,
    LINEAR,
    LOG_ENDS,
    MLP,
    PREFILL_TABLE,
    REPLAYED,
    TOKEN_TABLE,
    VIDUR,
    Cost,
    Rules,
    State,
)

CONTEXT_STEP = 64


@compiled
def no_earlier(s: State, cost: Cost, row: int) -> None:
    """Let the clock go on to when the step is known to have closed its queue, or to have started."""
    if s.now[0].step < cost.replayed.shape[1]:
        s.now[0].clock = max(s.now[0].clock, cost.replayed[row, s.now[0].step])


@compiled
def decode_seconds(cost: Cost, decodes: int, context: int) -> float:
    """Return the seconds of a step that only decodes, not of a replayed one; below 0 where the tables are too small."""
    if cost.kind == LINEAR:
        model = cost.linear
        return (model[0] + model[1] * decodes + model[2] * context) / 1e3
    column = ((context + decodes) // decodes + CONTEXT_STEP - 1) // CONTEXT_STEP
    table = cost.decode_seconds
    return table[decodes, column] if decodes < table.shape[0] and column < table.shape[1] else -1.0


@compiled
def varied(cost: Cost, step: int, seconds: float) -> float:
    """Return what a step takes of which the model says so many seconds."""
    if len(cost.varying) == 0:
        return seconds
    return seconds * cost.varying[min(step, len(cost.varying) - 1)]


@compiled
def decode_step(s: State, cost: Cost) -> tuple[int, float]:
    """Return a fault, FINISHED for none, and the seconds of a step that only decodes."""
    if cost.kind == REPLAYED:
        return _replayed(s, cost)
    decodes, context = s.now[0].decodes, s.now[0].context
    seconds = decode_seconds(cost, decodes, context)
    if seconds >= 0:
        return FINISHED, varied(cost, s.now[0].step, seconds)
    if decodes >= cost.by_tokens.shape[0]:
        return _fault(s, TOKEN_TABLE, decodes, 0)
    return _fault(s, DECODE_TABLE, decodes, ((context + decodes) // decodes + CONTEXT_STEP - 1) // CONTEXT_STEP)


@compiled
def mixed_step(s: State, rules: Rules, cost: Cost) -> tuple[int, float]:
    """Return a fault, FINISHED for none, and the seconds of the step with its chunks."""
    fault, seconds = _by_model(s, rules, cost)
    if cost.has_factors and fault == FINISHED:
        return _with_factors(s, cost, seconds)
    return fault, seconds


@compiled
def _with_factors(s: State, cost: Cost, seconds: float) -> tuple[int, float]:
    """Share what a step's chunks add to its decodes by the prompts' own factors."""
    tokens, weighted = 0, 0.0
    for at in range(s.now[0].chunks):
        tokens += s.chunks[at].tokens
        weighted += s.requests[s.chunks[at].request].factor * s.chunks[at].tokens
    share = weighted / tokens if tokens else 1.0
    if share == 1.0:
        return FINISHED, seconds
    if s.now[0].decodes == 0:
        return FINISHED, share * seconds
    fault, alone = decode_step(s, cost)
    return fault, alone + share * (seconds - alone)


@compiled
def _by_model(s: State, rules: Rules, cost: Cost) -> tuple[int, float]:
    if cost.kind == REPLAYED:
        return _replayed(s, cost)
    if cost.kind == LINEAR:
        tokens, attention = 0, 0.0
        for at in range(s.now[0].chunks):
            chunk = s.chunks[at].tokens
            tokens += chunk
            attention += chunk * (s.requests[s.chunks[at].request].computed + chunk / 2)
        seconds = predict_ms(cost.linear, s.now[0].decodes, s.now[0].context, tokens, attention) / 1e3
        return FINISHED, varied(cost, s.now[0].step, seconds)
    fault, seconds = _tabled(s, rules, cost)
    return fault, varied(cost, s.now[0].step, seconds)


@compiled
def _replayed(s: State, cost: Cost) -> tuple[int, float]:
    if s.now[0].step >= cost.replayed.shape[1]:
        return _fault(s, LOG_ENDS, cost.replayed.shape[1], 0)
    return FINISHED, cost.replayed[EXECUTE, s.now[0].step]


@compiled
def _tabled(s: State, rules: Rules, cost: Cost) -> tuple[int, float]:
    decodes, context = s.now[0].decodes, s.now[0].context
    chunks = before = squares = prefill_tokens = 0
    for at in range(s.now[0].chunks):
        request, chunk = s.chunks[at].request, s.chunks[at].tokens
        is_last = (
            s.requests[request].tokens - s.requests[request].computed == 1
            and s.requests[request].tokens > s.requests[request].prompt
        )
        if is_last and rules.rules != VIDUR:  # costs what a decode costs
            decodes, context = decodes + 1, context + s.requests[request].computed
        else:
            chunks += 1
            before += (s.requests[request].computed + CONTEXT_STEP - 1) // CONTEXT_STEP
            squares += chunk * chunk
            prefill_tokens += chunk
    return tabled_seconds(s, cost, decodes, context, chunks, before, squares, prefill_tokens)


@compiled
def tabled_seconds(
    s: State, cost: Cost, decodes: int, context: int, chunks: int, before: int, squares: int, prefill_tokens: int
) -> tuple[int, float]:
    """Return a fault, FINISHED for none, and the tables' seconds of so many decodes and chunks.

    `before` is the sum over chunks of the context in steps of 64 tokens, `squares` that of their squared tokens.
    """
    size = int(np.rint(sqrt(squares)))
    column = ((context + decodes) // max(decodes, 1) + CONTEXT_STEP - 1) // CONTEXT_STEP
    if decodes and (decodes >= cost.decode.shape[0] or column >= cost.decode.shape[1]):
        return _fault(s, DECODE_TABLE, decodes, column)
    if chunks and (before >= cost.prefill.shape[0] or size >= cost.prefill.shape[1]):
        return _fault(s, PREFILL_TABLE, before, size)
    if decodes + prefill_tokens >= cost.by_tokens.shape[0]:
        return _fault(s, TOKEN_TABLE, decodes + prefill_tokens, 0)
    decode = cost.decode[decodes, column] * (cost.decode_factor if decodes > 1 else 1.0) if decodes else 0.0
    prefill = cost.prefill[before, size] * (cost.prefill_factor if chunks > 1 else 1.0) if chunks else 0.0
    return FINISHED, _layers(cost, decodes + prefill_tokens, decode, prefill)


@compiled
def _layers(cost: Cost, tokens: int, decode: float, prefill: float) -> float:
    table = cost.by_tokens
    attention = (
        table[tokens, BEFORE_ATTENTION] + decode + prefill + table[tokens, COMMUNICATION] + table[tokens, LAYERNORM]
    )
    return ((attention + table[tokens, MLP] + table[tokens, ADD]) * cost.layers) * 1e-3


@compiled
def _fault(s: State, fault: int, row: int, column: int) -> tuple[int, float]:
    s.now[0].fault_row, s.now[0].fault_column = row, column
    return fault, 0.0
