"""What the step planner knows of a request: its place in the queue, sizes and images, of whatever host it runs in."""

from dataclasses import dataclass

from paceline.errors import InvalidValueError
from paceline.schedule.encoder import PromptImage


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRequest:
    """A request whose prompt is not fully computed yet, waiting or partly prefilled.

    `queue_number` counts requests as they were queued. `arrival_seconds` is of one clock that never steps back, the same
    for all requests. Of a lower `priority` goes before every other. `prompt_tokens` is the prompt as it arrived;
    `remaining_tokens` is what is still to compute, after a preemption the tokens generated so far included.
    `context_tokens` are computed already or found in the prefix cache. A `resumed` request was preempted before, or holds
    memory while it waits, and goes before every other of its priority. `images` are those that do not end before
    `context_tokens`, in order; those that start beyond what a step can compute may be left out. `ttft_budget_seconds` is
    what the request has for its first token from its arrival on; None where it has no budget, or was relegated.
    """

    request_id: str
    queue_number: int
    arrival_seconds: float
    prompt_tokens: int
    remaining_tokens: int
    context_tokens: int = 0
    resumed: bool = False
    priority: int = 0
    images: tuple[PromptImage, ...] = ()
    ttft_budget_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.remaining_tokens < 1:
            raise InvalidValueError("remaining_tokens", self.remaining_tokens, "at least 1: nothing is left to prefill")
        if self.prompt_tokens < 1:
            raise InvalidValueError("prompt_tokens", self.prompt_tokens, "at least 1")
        if self.context_tokens < 0:
            raise InvalidValueError("context_tokens", self.context_tokens, "at least 0")

    @property
    def image_tokens_ahead(self) -> int:
        """How many tokens are left of the image that the next token belongs to; 0 for text."""
        for image in self.images:
            if image.start <= self.context_tokens < image.end:
                return image.end - self.context_tokens
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLoad:
    """All decoding requests of a step together: one token a request, more with speculation, and their contexts' sum."""

    tokens: int
    context_tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.context_tokens < 0:
            raise InvalidValueError("decode load", (self.tokens, self.context_tokens), "tokens of at least 0")
