"""Requests that can be served in several ways, and whoever chooses one at each arrival, seeing what the engine has to do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from paceline.errors import InvalidValueError
from paceline.schedule.requests import DecodeLoad
from paceline.simulate.load import Floats, Integers, RequestColumns

Truths = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way of serving a request: the prompt tokens that it has then, text and image, and what a token of it costs.

    `prefill_factor` is the share of the time of its prompt's chunks: with k experts or b blocks instead of all, from a
    profile. Where it was not measured on the device in question it is an assumption. `RequestColumns` says how it acts.
    """

    prompt_tokens: int
    prefill_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1:
            raise InvalidValueError("prompt_tokens", self.prompt_tokens, "at least 1 token")
        if not (math.isfinite(self.prefill_factor) and self.prefill_factor > 0):
            raise InvalidValueError("prefill_factor", self.prefill_factor, "a finite number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivingRequest:
    """A request that a way is chosen for; `index` is its place in the load, `number` its place among those of its engine.

    `engine` is the place of that engine among equals. `ttft_budget_seconds` is infinite without a budget.
    """

    index: int
    number: int
    arrival_seconds: float
    candidates: Sequence[Candidate]
    ttft_budget_seconds: float = math.inf
    engine: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The index of the candidate that serves a request, and the budget that the request is queued with.

    Infinite for none: an order by deadline then puts it where requests without a budget stand.
    """

    candidate: int
    ttft_budget_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptColumns:
    """Requests with tokens left to prefill, one entry each, in the order in which they are served.

    `number` counts the requests of this engine as they arrived. `remaining_tokens` includes, after a preemption, what was
    generated before it. `ttft_budget_seconds` is infinite for a request that is queued without a budget.
    """

    number: Integers
    prompt_tokens: Integers
    remaining_tokens: Integers
    context_tokens: Integers
    arrival_seconds: Floats
    prefill_factor: Floats
    resumed: Truths
    ttft_budget_seconds: Floats

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExecutedSteps:
    """Steps that have ended: what each computed, as a step-time model takes it, and how long it took.

    `prefill_factor` is the mean over a step's prompt tokens, 1 without any.
    """

    seconds: Floats
    decode_tokens: Integers
    decode_context_tokens: Integers
    prefill_tokens: Integers
    prefill_attention_tokens: Floats
    prefill_factor: Floats

    def __len__(self) -> int:
        return len(self.seconds)


class Progress(Protocol):
    """What an engine has done by now; it answers until the request that is chosen for has been received."""

    def first_token_seconds(self, number: int) -> float:
        """Return when a request of this engine had its first token; NaN while it has none."""
        ...

    def executed(self, first: int) -> ExecutedSteps:
        """Return the steps from number `first` on that have ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineState:
    """What an engine has to do when a request arrives.

    The step under way is part of it as if it were over: `ready_seconds` is when it ends, and the earliest start of the
    next. An engine can only predict that; its own end is the one thing here that lies ahead of `now_seconds`. `partial`
    and `waiting` stand each in the order of the rules; those that arrived during the step are among the waiting.
    """

    now_seconds: float
    ready_seconds: float
    decodes: DecodeLoad
    partial: PromptColumns
    waiting: PromptColumns
    free_blocks: int
    progress: Progress


# the index of the candidate alone leaves the request its own budget
Chooser = Callable[[EngineState, ArrivingRequest], int | Choice]


class ChoosingRun(Protocol):
    """A run that is given its requests as they arrive, and says in what state they find it."""

    def advance_before(self, seconds: float) -> None:
        """Form and execute every step that starts before this time."""
        ...

    def state_at(self, seconds: float) -> EngineState:
        """Return the state once every step that starts before this time has been formed."""
        ...

    def receive(
        self,
        arrival_seconds: float,
        prompt_tokens: int,
        output_tokens: int,
        prefill_factor: float = ...,
        ttft_budget_seconds: float = ...,
    ) -> None:
        """Take note of a request that arrives then."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The candidates of each request of a load, and who chooses among them."""

    candidates: Sequence[Sequence[Candidate]]
    choose: Chooser

    def require(self, load: RequestColumns) -> None:
        """Raise InvalidValueError unless there are candidates for each request of the load."""
        if len(self.candidates) != len(load):
            expected = f"{len(load)}, a sequence of candidates for each request of the load"
            raise InvalidValueError("number of candidates", len(self.candidates), expected)
        for index, each in enumerate(self.candidates):
            if not each:
                raise InvalidValueError(f"candidates[{index}]", each, "at least one way to serve the request")

    def receive(
        self,
        run: ChoosingRun,
        index: int,
        number: int,
        row: tuple[float, int, int, float, float],
        *,
        engine: int = 0,
    ) -> int:
        """Let a request, a row of the load, arrive at an engine as it was chosen, and return the candidate."""
        arrival_seconds, _, output_tokens, _, budget = row
        request = ArrivingRequest(
            index=index,
            number=number,
            arrival_seconds=arrival_seconds,
            candidates=self.candidates[index],
            ttft_budget_seconds=budget,
            engine=engine,
        )
        run.advance_before(arrival_seconds)
        answer = self.choose(run.state_at(arrival_seconds), request)
        choice = answer if isinstance(answer, Choice) else Choice(candidate=answer, ttft_budget_seconds=budget)
        chosen = choice.candidate
        if not 0 <= chosen < len(request.candidates):
            expected = f"the index of one of its {len(request.candidates)} candidates"
            raise InvalidValueError(f"choice for request {index}", chosen, expected)
        candidate = request.candidates[chosen]
        run.receive(
            arrival_seconds,
            candidate.prompt_tokens,
            output_tokens,
            candidate.prefill_factor,
            choice.ttft_budget_seconds,
        )
        return chosen


def executed_steps(
    *,
    seconds: Floats,
    decode_tokens: Integers,
    decode_context_tokens: Integers,
    chunk_ends: Integers,
    chunk_tokens: Integers,
    chunk_context_tokens: Integers,
    chunk_factors: Floats,
) -> ExecutedSteps:
    """Put steps together; a step's chunks are those up to its entry of `chunk_ends`, from the first chunk given on."""

    def by_step(values: Floats | Integers) -> Floats:
        sums = np.concatenate(([0.0], np.cumsum(values)))
        return np.diff(sums[np.concatenate(([0], chunk_ends))])

    tokens = by_step(chunk_tokens)
    factors = by_step(chunk_tokens * (chunk_factors - 1.0)) / np.maximum(tokens, 1.0)
    return ExecutedSteps(
        seconds=seconds,
        decode_tokens=decode_tokens,
        decode_context_tokens=decode_context_tokens,
        prefill_tokens=tokens.astype(np.int64),
        prefill_attention_tokens=by_step(chunk_tokens * (chunk_context_tokens + chunk_tokens / 2)),
        prefill_factor=1.0 + factors,
    )
