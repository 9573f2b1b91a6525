"""The fast engine's state.

What all decodes share is kept once: each step adds a token to every one of them. A decode is therefore its `base`, its
tokens less the `tick` it had them at; of the blocks that a step's decodes take one each is counted by `phase`, the
decodes by base modulo block size; and `ends` is a heap of the ticks at which they complete. Nothing of a request is
touched between the step that ends its prefill and its completion, unless memory runs out.
"""

from typing import NamedTuple

import numpy as np

from paceline.simulate.fast.rows import (
    ChunkRow,
    EndRow,
    NowRow,
    RequestRow,
    SpanRow,
    StepRow,
    column,
    empty,
    longer,
    rows,
    set_column,
)
from paceline.simulate.load import Floats, Integers

QUEUED, PARTIAL, DECODING, DONE = range(4)  # RequestRow.status
VIDUR, VLLM, PACELINE = range(3)  # Rules.rules
FCFS, SPF, SRTF, AGING, EDF = range(5)  # Rules.policy
LINEAR, TABLES, REPLAYED = range(3)  # Cost.kind
BEFORE_ATTENTION, COMMUNICATION, LAYERNORM, MLP, ADD = range(5)  # columns of Cost.by_tokens
CLOSED, STARTED, EXECUTE = range(3)  # rows of Cost.replayed

# what a run ends with
FINISHED, RECORDS_FULL, NEVER_ADMITTED, DECODE_TABLE, PREFILL_TABLE, TOKEN_TABLE, LOG_ENDS, QUEUE_FULL = range(8)


class State(NamedTuple):
    """Everything that changes."""

    now: list[NowRow]  # one row
    requests: list[RequestRow]
    heap: Integers  # waiting requests
    phase: Integers  # decodes by base modulo block size
    order: Integers  # decodes as they run, with gaps
    ends: list[EndRow]  # heap, with some that were preempted
    partials: Integers
    chunks: list[ChunkRow]  # of the present step
    candidates: Integers  # planned to be admitted


class Rules(NamedTuple):
    """The simulated engine and its planner in numbers; 0 stands for no `max_chunk`, a large number for no `max_partial`."""

    rules: int
    chunk_size: int
    max_num_seqs: int
    block_size: int
    block_shift: int  # its logarithm, -1 where it is no power of two
    watermark: int
    policy: int
    threshold: int
    min_chunk: int
    max_chunk: int
    max_partial: int
    has_target: bool
    useful_chunk: int
    time_weight: float
    prompt_weight: float
    no_budget_seconds: float
    target_ms: float
    target_model: Floats  # coefficients


class Cost(NamedTuple):
    """The step-time model; what its kind does not need is empty."""

    kind: int
    linear: Floats  # coefficients
    decode_seconds: Floats  # [decodes, context / 64] of steps that only decode
    by_tokens: Floats  # [tokens, BEFORE_ATTENTION …]: what one step needs stands together
    decode: Floats
    prefill: Floats
    decode_factor: float
    prefill_factor: float
    layers: float
    has_factors: bool  # some request's prompt costs another share than 1
    replayed: Floats  # [CLOSED, STARTED or EXECUTE, step]
    request_seconds: float  # of receiving a request before a step
    varying: Floats  # what each step takes in shares of its model's time; none where that is 1 always


class Records(NamedTuple):
    """Steps as they are executed, where `wanted`."""

    wanted: bool
    steps: list[StepRow]
    chunks: list[ChunkRow]
    preempted: Integers
    spans: list[SpanRow]


def new_state(size: int, *, usable_blocks: int, most: int, block_size: int, is_filled: bool) -> State:
    """Return the state before the first arrival, with room for so many requests, `most` at once; none is received yet.

    Where the rows of requests are filled at once they hold anything until then.
    """
    state = State(
        now=rows(NowRow, 1),
        requests=empty(RequestRow, size) if is_filled else new_requests(size),
        heap=np.zeros(size, dtype=np.int64),
        phase=np.zeros(block_size, dtype=np.int64),
        order=np.zeros(2 * most + 2, dtype=np.int64),
        ends=rows(EndRow, 2 * most + 2),
        partials=np.zeros(most + 1, dtype=np.int64),
        chunks=rows(ChunkRow, most + 1),
        candidates=np.zeros(most + 1, dtype=np.int64),
    )
    set_column(state.now, "free", usable_blocks)
    return state


def new_requests(size: int) -> list[RequestRow]:
    """Return rows of requests of which nothing is known yet."""
    requests = rows(RequestRow, size)
    for name in ("first_scheduled", "first_token", "completion"):
        set_column(requests, name, np.nan)
    return requests


def new_records(*, wanted: bool, steps: int, entries: int) -> Records:
    """Return room for so many steps, and for so many chunks, preemptions and spans."""
    steps, entries = (steps, entries) if wanted else (0, 0)
    return Records(
        wanted=wanted,
        steps=rows(StepRow, steps),
        chunks=rows(ChunkRow, entries),
        preempted=np.zeros(entries, dtype=np.int64),
        spans=rows(SpanRow, entries),
    )


def grown(records: Records, state: State) -> Records:
    """Return the records with twice the room of whatever is more than half full."""

    def used(name: str) -> int:
        return int(column(state.now, name)[0])

    preempted = records.preempted
    if 2 * used("logged_preempted") > len(preempted):
        preempted = np.concatenate([preempted, np.zeros(len(preempted) + 1, dtype=np.int64)])
    return records._replace(
        steps=longer(records.steps, used("step")),
        chunks=longer(records.chunks, used("logged_chunks")),
        preempted=preempted,
        spans=longer(records.spans, used("spans")),
    )
