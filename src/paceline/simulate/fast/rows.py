"""Rows of the fast engine's arrays: classes for the reader and the type checker, structured numpy arrays at run time."""

from functools import cache
from typing import TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

Row = TypeVar("Row")


class RequestRow:
    """A request; seconds and tokens. The key of its place in an order is `flag`, then `key`, then `rank`."""

    arrival: float
    budget: float  # seconds for the first token, infinite for none
    prompt: int
    total: int  # tokens at completion
    tokens: int  # prompt and generated, as long as it does not decode
    computed: int
    blocks: int
    base: int  # of a decode: its tokens less the tick it had them at
    end_tick: int
    stamp: int  # how often it began to decode
    status: int
    queued_seconds: float
    queue_number: int
    preemptions: int
    restart_tokens: int
    first_scheduled: float
    first_token: float
    completion: float
    execution: float
    busy_before: float  # the sum of all steps when it began to decode
    span: int  # where its decodes are recorded
    place: int  # of a decode in the order in which they run
    planned: int  # tokens of the present plan
    flag: int
    key: float
    rank: int
    factor: float  # of what its prompt's chunks take


class NowRow:
    """What there is one of: the clock, what all decodes share, how full everything is, and the step under way."""

    clock: float
    busy: float  # the sum of all steps
    tick: int
    step: int
    begun: int  # the steps whose queue is closed, this one included
    free: int  # blocks
    decodes: int
    context: int  # of all decodes
    partials: int
    ordered: int
    ends: int
    waiting: int
    received: int  # requests that are known of
    arrived: int  # of these, those that have been queued
    unfinished: int  # of those received
    serial: int  # of preemptions
    blocked: int  # nobody can be admitted until somebody completes or another head of the queue arrives
    left: int  # tokens of the step's budget
    chunks: int
    candidates: int
    preempted: int
    plan_tokens: int
    plan_attention: float
    plan_limit: float
    plan_open: int  # requests that the plan would leave partly prefilled
    plan_free: int  # blocks for requests that are offered
    plan_admits: int
    plan_room: int
    logged_chunks: int
    logged_preempted: int
    spans: int
    fault_row: int
    fault_column: int


class ChunkRow:
    """A chunk of a step."""

    request: int
    tokens: int
    context: int


class EndRow:
    """The tick at which a decode completes, if its stamp is still that."""

    request: int
    tick: int
    stamp: int


class SpanRow:
    """A request decodes from step `first` up to `end`, excluded."""

    request: int
    first: int
    end: int


class StepRow:
    """A step that was executed; its chunks and preemptions stand before `chunk_end` and `preempted_end`."""

    started: float
    seconds: float
    decodes: int
    context: int
    waiting: int
    running: int
    free: int  # blocks
    chunk_end: int
    preempted_end: int


def rows(kind: type[Row], length: int) -> list[Row]:
    """Return so many rows of zeros; an array, which a list is typed as because it is read and written like one."""
    return cast("list[Row]", np.zeros(length, dtype=_type_of(kind)))


def empty(kind: type[Row], length: int) -> list[Row]:
    """Return so many rows that hold anything."""
    return cast("list[Row]", np.empty(length, dtype=_type_of(kind)))


@cache
def _type_of(kind: type) -> np.dtype[np.void]:
    fields: list[tuple[str, DTypeLike]] = [(name, np.dtype(of)) for name, of in kind.__annotations__.items()]
    return np.dtype(fields)


def grid(kind: type[Row], lines: int, length: int) -> list[list[Row]]:
    """Return so many lines of rows of zeros."""
    array = cast("NDArray[np.void]", rows(kind, lines * length))
    return cast("list[list[Row]]", array.reshape(lines, length))


def column(table: list[Row], name: str, length: int | None = None) -> NDArray[np.generic]:
    """Return a copy of one field of the first rows."""
    array = cast("NDArray[np.void]", table)
    return np.ascontiguousarray(array[name][:length])


def taken(table: list[Row], at: NDArray[np.int64] | slice) -> NDArray[np.void]:
    """Return the rows at these places, whose fields are read by name: a copy for indexes, the rows themselves for a slice."""
    return cast("NDArray[np.void]", table)[at]


def set_column(table: list[Row], name: str, values: NDArray[np.generic] | float) -> None:
    """Set one field of all rows."""
    cast("NDArray[np.void]", table)[name] = values


def longer(table: list[Row], used: int) -> list[Row]:
    """Return an array with twice the room if more than half of it is used."""
    array = cast("NDArray[np.void]", table)
    if 2 * used <= len(array):
        return table
    wider = np.zeros(2 * len(array) + 1, dtype=array.dtype)
    wider[: len(array)] = array
    return cast("list[Row]", wider)
