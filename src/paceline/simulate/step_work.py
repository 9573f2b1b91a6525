"""What one simulated step computes, and what its time depends on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paceline.schedule.step_log import PrefillChunk, step_load
from paceline.schedule.step_time import EngineTime, LinearStepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """Decodes, one token each, with the sum of the tokens before these; prefill chunks with their contexts.

    `last_tokens` are further chunks, of one token each: the last that a preempted request has to compute again before it
    decodes. An engine counts them to its prefills; what they cost is what a decode costs.
    """

    decodes: int = 0
    decode_context_tokens: int = 0
    chunks: Sequence[PrefillChunk] = field(default=())
    last_tokens: Sequence[PrefillChunk] = field(default=())


class StepCost(Protocol):
    """The seconds of a step, from its number and its work alone, and of receiving a request before one."""

    @property
    def request_seconds(self) -> float:
        """What each request that is queued before a step takes; another that arrives meanwhile is queued before it, too."""
        ...

    def seconds(self, step: int, work: StepWork) -> float:
        """Return how long the step takes; raises StepTimeError for work that the model knows no time for."""
        ...

    def queue_closes_seconds(self, step: int, now_seconds: float) -> float:
        """Return until when requests are queued for a step that could start now."""
        ...

    def start_seconds(self, step: int, now_seconds: float) -> float:
        """Return when a step starts that could start now: later where the engine is known to have been late."""
        ...


@dataclass(frozen=True, slots=True)
class LinearCost:
    """Steps that last as a fitted linear model says, and requests that take the same time each to be received."""

    model: LinearStepTime
    request_seconds: float = 0.0

    @staticmethod
    def of(time: EngineTime) -> "LinearCost":
        """Return the cost of an engine's steps up to the next ones, and of what comes between."""
        return LinearCost(time.step, request_seconds=time.per_request_ms / 1e3)

    def seconds(self, step: int, work: StepWork) -> float:  # noqa: ARG002
        """Return the predicted time."""
        chunks = [*work.chunks, *work.last_tokens]
        load = step_load(work.decodes, decode_context_tokens=work.decode_context_tokens, chunks=chunks)
        return self.model.predict_ms(load) / 1e3

    def start_seconds(self, step: int, now_seconds: float) -> float:  # noqa: ARG002
        """Return now."""
        return now_seconds

    def queue_closes_seconds(self, step: int, now_seconds: float) -> float:  # noqa: ARG002
        """Return now."""
        return now_seconds
