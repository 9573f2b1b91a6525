"""What the step planner knows of a request: sizes and an arrival time, of whatever host it runs in."""

from dataclasses import dataclass

from paceline.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRequest:
    """A request whose prompt is not fully computed yet, waiting or partly prefilled.

    `arrival_seconds` is of any clock, the same one for all requests. `prompt_tokens` is the prompt as it arrived;
    `remaining_tokens` is what is still to compute, after a preemption the tokens generated so far included.
    `context_tokens` are computed already or found in the prefix cache. A `resumed` request was preempted before and
    goes before every other. `indivisible_tokens` is the smallest chunk it can take without finishing: the size of an
    image that must not be split, so that a chunk that starts at the image covers it.
    """

    request_id: str
    arrival_seconds: float
    prompt_tokens: int
    remaining_tokens: int
    context_tokens: int = 0
    resumed: bool = False
    indivisible_tokens: int = 0

    def __post_init__(self) -> None:
        if self.remaining_tokens < 1:
            raise InvalidValueError("remaining_tokens", self.remaining_tokens, "at least 1: nothing is left to prefill")
        if self.prompt_tokens < 1:
            raise InvalidValueError("prompt_tokens", self.prompt_tokens, "at least 1")
        if self.context_tokens < 0:
            raise InvalidValueError("context_tokens", self.context_tokens, "at least 0")
        if self.indivisible_tokens < 0:
            raise InvalidValueError("indivisible_tokens", self.indivisible_tokens, "at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLoad:
    """All decoding requests of a step together: one token a request, more with speculation, and their contexts' sum."""

    tokens: int
    context_tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.context_tokens < 0:
            raise InvalidValueError("decode load", (self.tokens, self.context_tokens), "tokens of at least 0")
