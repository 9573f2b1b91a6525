"""One request of a trace: when it arrives, how long its prompt and its answer are."""

import math
from dataclasses import dataclass

from paceline.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """A request to be replayed; arrival counts from the trace's start, the budget is for its first token."""

    request_id: str
    arrival_seconds: float
    prompt_tokens: int
    output_tokens: int
    ttft_budget_ms: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival_seconds) and self.arrival_seconds >= 0):
            raise InvalidValueError("arrival_seconds", self.arrival_seconds, "a number of seconds of at least 0")
        require_lengths(self.prompt_tokens, self.output_tokens)
        require_ttft_budget(self.ttft_budget_ms)


def require_lengths(prompt_tokens: object, output_tokens: object) -> None:
    """Raise InvalidValueError unless both are whole numbers of at least 1."""
    for name, value in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidValueError(name, value, "a whole number of at least 1")


def require_ttft_budget(budget_ms: float | None) -> None:
    """Raise InvalidValueError unless the budget is None or a number of milliseconds above 0."""
    if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms > 0):
        raise InvalidValueError("ttft_budget_ms", budget_ms, "a number of milliseconds above 0, or None for no budget")
