"""What is asked of a model and what comes of it, whichever model it is; and what became of a request, for its line in the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from paceline.records import KnobConfig, Sampling
from paceline.server.engine import HandOn, Unwanted
from paceline.serving.answer import EngineTimes

Caps = Sequence[int | None] | None  # the most tokens of each picture
OUTCOME = "paceline.outcome"  # in a request's scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A chat as it came, its pictures still encoded: `messages` hold a part of type `image` for each, in their order."""

    messages: tuple[dict[str, Any], ...]
    pictures: tuple[str, ...] = field(repr=False)  # data: URLs
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    to_the_last: bool = False  # no end token ends the answer: benchmarks ask for so many tokens
    sampling: Sampling | None = None
    template_arguments: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """When the first token was there, by the clock of receipts, and the stages before it in milliseconds."""

    seconds: float
    preprocess_ms: float
    vision_ms: float
    prefill_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of a question: `rest` is the text that was not handed on yet."""

    rest: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """Tokens as OpenAI counts them."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class AnswersQuestions(Protocol):
    """A model behind a server: `LocalModel`."""

    @property
    def context(self) -> int | None:
        """The most tokens of a chat and its answer together, None where nothing says it."""
        ...

    @property
    def largest_picture_tokens(self) -> int:
        """The most tokens of one picture."""
        ...

    def whole(self, *, low: bool = False) -> KnobConfig:
        """Return the configuration of a request without a budget."""
        ...

    def answer(
        self, question: Question, config: KnobConfig, caps: Caps, hand_on: HandOn, unwanted: Unwanted
    ) -> Answered:
        """Answer a question; hands on a FirstToken before the first of its texts, one text a token."""
        ...


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one chat's line in the log and its spans say beside its promise."""

    request_id: str = ""
    streamed: bool = False
    pictures: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    config: KnobConfig | None = None
    times: EngineTimes = field(default_factory=EngineTimes)
    ended_seconds: float | None = None
