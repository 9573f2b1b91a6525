"""What a chooser sees of the fast engine, read from its arrays between two steps."""

import math
from dataclasses import dataclass

import numpy as np

from paceline.schedule.policies import request_order
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.simulate.choosing import EngineState, ExecutedSteps, PromptColumns, executed_steps
from paceline.simulate.engine_settings import PACELINE, SimulatedEngine
from paceline.simulate.fast.rows import RequestRow, column, entries
from paceline.simulate.fast.state import Records, State
from paceline.simulate.load import Floats, Integers

KEY = ("flag", "key", "rank")


def state_at(state: State, engine: SimulatedEngine, records: Records, seconds: float) -> EngineState:
    """Return the state once every step that starts before this time has been formed."""

    def now(name: str) -> int:
        return int(column(state.now, name)[0])

    ready = max(float(column(state.now, "clock")[0]), seconds)
    coming = np.arange(now("arrived"), now("received"))
    partial = state.partials[: now("partials")].copy()
    if engine.rules == PACELINE:
        partial = partial[_order(_keys(state.requests, engine, partial, None))]
    return EngineState(
        now_seconds=seconds,
        ready_seconds=ready,
        decodes=DecodeLoad(tokens=now("decodes"), context_tokens=now("context")),
        partial=_prompts(state.requests, partial),
        waiting=_prompts(state.requests, _waiting(state, engine, now("waiting"), coming, ready)),
        free_blocks=now("free"),
        progress=Progress(state.requests, records, now("step"), seconds),
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
        seconds = float(entries(self.requests, "first_token", slice(number, number + 1))[0])
        return seconds if seconds <= self.until else math.nan

    def executed(self, first: int) -> ExecutedSteps:
        """Return the steps from number `first` on that have ended."""

        def floats(name: str) -> Floats:
            return entries(self.records.steps, name, slice(first, end)).astype(np.float64)

        def integers(name: str) -> Integers:
            return entries(self.records.steps, name, slice(first, end)).astype(np.int64)

        end = self.steps
        while end > first and self._ends(end - 1) > self.until:
            end -= 1
        begins = self._chunks_before(min(first, end))
        chunks = slice(begins, self._chunks_before(end))
        request, tokens, context = (
            entries(self.records.chunks, name, chunks).astype(np.int64) for name in ("request", "tokens", "context")
        )
        return executed_steps(
            seconds=floats("seconds"),
            decode_tokens=integers("decodes"),
            decode_context_tokens=integers("context"),
            chunk_ends=integers("chunk_end") - begins,
            chunk_tokens=tokens,
            chunk_context_tokens=context,
            chunk_factors=entries(self.requests, "factor", request).astype(np.float64),
        )

    def _ends(self, step: int) -> float:
        started, seconds = (
            entries(self.records.steps, name, slice(step, step + 1))[0] for name in ("started", "seconds")
        )
        return float(started + seconds)

    def _chunks_before(self, step: int) -> int:
        return int(entries(self.records.steps, "chunk_end", slice(step - 1, step))[0]) if step else 0


def _waiting(state: State, engine: SimulatedEngine, count: int, coming: Integers, ready: float) -> Integers:
    """Return who waits, in order: those who are queued by the keys that they were queued with, with those who come."""
    queued = state.heap[:count]
    kept: Floats = np.stack([entries(state.requests, name, queued).astype(np.float64) for name in KEY])
    if engine.rules == PACELINE:
        new = _keys(state.requests, engine, coming, ready)
    else:
        new = np.stack([np.ones(len(coming)), np.zeros(len(coming)), coming.astype(np.float64)])
    return np.concatenate([queued, coming])[_order(np.concatenate([kept, new], axis=1))]


def _keys(requests: list[RequestRow], engine: SimulatedEngine, at: Integers, queued_seconds: float | None) -> Floats:
    """Return the policy's keys of a few requests, as columns of flag, key and rank; None for when they were queued."""
    order = request_order(engine.planner.policy, engine.planner.weights)
    keys = np.zeros((3, len(at)))
    names = ("prompt", "tokens", "computed", "queued_seconds", "preemptions")
    for place, (number, *values) in enumerate(
        zip(at.tolist(), *(entries(requests, name, at).tolist() for name in names), strict=True)
    ):
        prompt, tokens, computed, queued, preemptions = values
        view = PrefillRequest(
            request_id=str(number),
            queue_number=number,
            arrival_seconds=queued if queued_seconds is None else queued_seconds,
            prompt_tokens=prompt,
            remaining_tokens=tokens - computed,
            context_tokens=computed,
            resumed=preemptions > 0,
        )
        _, flag, *middle, rank = order(view)
        keys[:, place] = (flag, middle[0] if middle else 0.0, rank)
    return keys


def _order(keys: Floats) -> Integers:
    return np.lexsort(keys[::-1]).astype(np.int64)


def _prompts(requests: list[RequestRow], at: Integers) -> PromptColumns:
    def integers(name: str) -> Integers:
        return entries(requests, name, at).astype(np.int64)

    def floats(name: str) -> Floats:
        return entries(requests, name, at).astype(np.float64)

    computed = integers("computed")
    return PromptColumns(
        number=at,
        prompt_tokens=integers("prompt"),
        remaining_tokens=integers("tokens") - computed,
        context_tokens=computed,
        arrival_seconds=floats("arrival"),
        prefill_factor=floats("factor"),
        resumed=integers("preemptions") > 0,
    )
