"""What a chooser or a router sees of the fast engine, read from its arrays between two steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from paceline.schedule.policies import request_order
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.simulate.choosing import EngineState, ExecutedSteps, PromptColumns, executed_steps
from paceline.simulate.engine_settings import PACELINE, SimulatedEngine
from paceline.simulate.fast.rows import RequestRow, taken
from paceline.simulate.fast.state import Records, State
from paceline.simulate.load import Floats, Integers

Rows = NDArray[np.void]
KEY = ("flag", "key", "rank")


def state_at(
    state: State, engine: SimulatedEngine, records: Records, seconds: float, request_seconds: float
) -> EngineState:
    """Return the state once every step that starts before this time has been formed."""
    now = taken(state.now, slice(0, 1))[0]
    coming = np.arange(now["arrived"], now["received"])
    queued = list(accumulate([request_seconds] * len(coming), initial=max(float(now["clock"]), seconds)))
    partial = state.partials[: now["partials"]].copy()
    if engine.rules == PACELINE and len(partial) > 1:
        partial = partial[_order(_keys(taken(state.requests, partial), engine, partial, None))]
    return EngineState(
        now_seconds=seconds,
        ready_seconds=queued[-1],
        decodes=DecodeLoad(tokens=int(now["decodes"]), context_tokens=int(now["context"])),
        partial=_prompts(state.requests, partial),
        waiting=_prompts(state.requests, _waiting(state, engine, int(now["waiting"]), coming, queued[:-1])),
        free_blocks=int(now["free"]),
        progress=Progress(state.requests, records, int(now["step"]), seconds),
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run had done by a time."""

    requests: list[RequestRow]
    records: Records
    steps: int
    until: float

    def first_token_seconds(self, number: int) -> float:
        """Return when a request had its first token; NaN while it has none."""
        seconds = float(taken(self.requests, slice(number, number + 1))["first_token"][0])
        return seconds if seconds <= self.until else math.nan

    def executed(self, first: int) -> ExecutedSteps:
        """Return the steps from number `first` on that have ended."""
        end, log = self.steps, taken(self.records.steps, slice(0, self.steps))
        while end > first and log["started"][end - 1] + log["seconds"][end - 1] > self.until:
            end -= 1
        steps = log[first:end]
        begins = int(log["chunk_end"][min(first, end) - 1]) if min(first, end) else 0
        ends = int(steps["chunk_end"][-1]) if len(steps) else begins
        chunks = taken(self.records.chunks, slice(begins, ends))
        return executed_steps(
            seconds=steps["seconds"].copy(),
            decode_tokens=steps["decodes"].copy(),
            decode_context_tokens=steps["context"].copy(),
            chunk_ends=steps["chunk_end"] - begins,
            chunk_tokens=chunks["tokens"].copy(),
            chunk_context_tokens=chunks["context"].copy(),
            chunk_factors=taken(self.requests, chunks["request"])["factor"].copy(),
        )


def _waiting(state: State, engine: SimulatedEngine, count: int, coming: Integers, times: Sequence[float]) -> Integers:
    """Return who waits, in order: those who are queued by the keys that they were queued with, with those who come."""
    queued = state.heap[:count]
    if count + len(coming) < 2:
        return np.concatenate([queued, coming])
    rows = taken(state.requests, queued)
    kept = np.stack([rows[name].astype(np.float64) for name in KEY])
    if engine.rules == PACELINE:
        new = _keys(taken(state.requests, coming), engine, coming, times)
    else:
        new = np.stack([np.ones(len(coming)), np.zeros(len(coming)), coming.astype(np.float64)])
    return np.concatenate([queued, coming])[_order(np.concatenate([kept, new], axis=1))]


def _keys(requests: Rows, engine: SimulatedEngine, numbers: Integers, queued: Sequence[float] | None) -> Floats:
    """Return the policy's keys of a few requests, as columns of flag, key and rank; None for when they were queued."""
    order = request_order(engine.planner.policy, engine.planner.weights)
    keys = np.zeros((3, len(numbers)))
    for place, (number, row) in enumerate(zip(numbers.tolist(), requests, strict=True)):
        view = PrefillRequest(
            request_id=str(number),
            queue_number=number,
            arrival_seconds=float(row["queued_seconds"]) if queued is None else queued[place],
            prompt_tokens=int(row["prompt"]),
            remaining_tokens=int(row["tokens"] - row["computed"]),
            context_tokens=int(row["computed"]),
            resumed=bool(row["preemptions"] > 0),
            ttft_budget_seconds=None if row["budget"] == math.inf else float(row["budget"]),
        )
        _, flag, *middle, rank = order(view)
        keys[:, place] = (flag, middle[0] if middle else 0.0, rank)
    return keys


def _order(keys: Floats) -> Integers:
    return np.lexsort(keys[::-1]).astype(np.int64)


def _prompts(requests: list[RequestRow], at: Integers) -> PromptColumns:
    rows = taken(requests, at)
    return PromptColumns(
        number=at,
        prompt_tokens=rows["prompt"],
        remaining_tokens=rows["tokens"] - rows["computed"],
        context_tokens=rows["computed"],
        arrival_seconds=rows["arrival"],
        prefill_factor=rows["factor"],
        resumed=rows["preemptions"] > 0,
        ttft_budget_seconds=rows["budget"].copy(),
    )
