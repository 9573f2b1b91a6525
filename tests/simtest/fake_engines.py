"""Engines made of time alone: what a model would take, what it would say, and how it fails."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from virtual_loop import VirtualLoop

from paceline.errors import ModelError, RequestRefusedError
from paceline.records import KnobConfig
from paceline.server.question import Answered, FirstToken, Question

WORDS = ("one", " two", " three", " four", " five", " six", " seven", " eight")


@dataclass(kw_only=True)
class Machine:
    """What requests take on it: a table's milliseconds times a factor of each request, and times `slowdown` at a moment.

    `failing` and `stalls` are spans of time in which every answer fails, or stands still.
    """

    first_ms: dict[tuple[str | None, int | None, int | None], float]
    a_token_ms: float
    noise: tuple[float, ...] = (1.0,)
    tier_noise: dict[str | None, tuple[float, ...]] = field(default_factory=dict)
    slow: list[tuple[float, float, float]] = field(default_factory=list)
    failing: list[tuple[float, float, str]] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)

    def ttft_ms(self, config: KnobConfig) -> float:
        """Return what a configuration takes up to its first token, without noise; all of the model takes most."""
        found = self.first_ms.get((config.tier, config.top_k, config.num_active_blocks))
        if found is not None:
            return found
        if config.tier is None and config.top_k is not None:  # no picture
            return min(ms for (_, top_k, _), ms in self.first_ms.items() if top_k == config.top_k)
        tiers = {tier for tier, _, _ in self.first_ms}
        return max(ms for (tier, _, _), ms in self.first_ms.items() if config.tier not in tiers or tier == config.tier)

    def slowdown(self, now: float) -> float:
        return max((factor for first, last, factor in self.slow if first <= now < last), default=1.0)

    def stalled_seconds(self, now: float) -> float:
        return max((last - now for first, last in self.stalls if first <= now < last), default=0.0)

    def failure(self, now: float) -> str | None:
        return next((kind for first, last, kind in self.failing if first <= now < last), None)


@dataclass(kw_only=True)
class Running:
    """One answer while it is generated, as the oracle sees it."""

    number: int
    config: KnobConfig
    began: float
    began_tick: int
    first_token: float | None = None
    ended: float | None = None
    tokens: int = 0
    wanted_tokens: int = 0
    unwanted_after: int | None = None
    failed: str | None = None
    token_times: list[float] = field(default_factory=list)
    token_ticks: list[int] = field(default_factory=list)


class FakeModel:
    """A model behind a server, whose answers are generators of the seconds that they take."""

    context, largest_picture_tokens = 4096, 90

    def __init__(self, loop: VirtualLoop, machine: Machine, rng: Random, trace: Callable[..., None]) -> None:
        self.loop, self.machine, self._rng, self._trace = loop, machine, rng, trace
        self.runs: list[Running] = []
        self.current: Running | None = None
        self.problems: list[str] = []
        self.on_begin: Callable[[Running], None] = lambda run: None
        self.on_end: Callable[[], None] = lambda: None

    def whole(self, *, low: bool = False) -> KnobConfig:
        return KnobConfig(tier="low" if low else "high", top_k=None, num_active_blocks=None)

    def answer(
        self, question: Question, config: KnobConfig, caps: Any, hand_on: Any, unwanted: Any
    ) -> Generator[float, None, Answered]:
        number, tokens = number_in(question.messages), question.max_tokens or 3
        run = Running(
            number=number, config=config, began=self.loop.now, began_tick=self.loop.ticks, wanted_tokens=tokens
        )
        if self.current is not None:
            self.problems.append(f"request {number} has the model while {self.current.number} has it")
        self.runs.append(run)
        self.current = run
        self._trace("begin", number, self.loop.now, config.key)
        self.on_begin(run)
        try:
            return (yield from self._answer(run, question, hand_on, unwanted))
        finally:
            run.ended, self.current = self.loop.now, None
            self._trace("model", number, self.loop.now, run.tokens)
            self.on_end()

    def _answer(
        self, run: Running, question: Question, hand_on: Any, unwanted: Any
    ) -> Generator[float, None, Answered]:
        machine = self.machine
        noise = self._rng.choice(machine.tier_noise.get(run.config.tier, machine.noise))
        whole = machine.ttft_ms(run.config) * noise
        shares = (0.1, 0.4, 0.5) if question.pictures else (0.2, 0.0, 0.8)
        stages = []
        for share in shares:
            self._fail(run)
            seconds = self._seconds(whole * share)
            stages.append(1e3 * seconds)
            yield seconds
        self._fail(run)
        run.first_token = self.loop.now
        hand_on(FirstToken(seconds=self.loop.now, preprocess_ms=stages[0], vision_ms=stages[1], prefill_ms=stages[2]))
        for place in range(run.wanted_tokens):
            if place:
                yield self._seconds(machine.a_token_ms * noise)
                self._fail(run)
            run.tokens += 1
            run.token_times.append(self.loop.now)
            run.token_ticks.append(self.loop.ticks)
            hand_on(word(run.number, place))
            if unwanted():
                run.unwanted_after = run.tokens
                break
        return Answered(rest="", finish_reason="length", prompt_tokens=7, completion_tokens=run.tokens)

    def _seconds(self, ms: float) -> float:
        now = self.loop.now
        return ms * self.machine.slowdown(now) / 1e3 + self.machine.stalled_seconds(now)

    def _fail(self, run: Running) -> None:
        run.failed = self.machine.failure(self.loop.now)
        if run.failed == "refuses":
            raise RequestRefusedError("a picture cannot be read", code="invalid_image", param="messages")
        if run.failed == "model":
            raise ModelError("this model has no such thing")
        if run.failed is not None:
            raise ZeroDivisionError(run.failed)


def word(number: int, place: int) -> str:
    """Return the text of one token of one answer: no two requests have the same answer."""
    return f"{number}{WORDS[place % len(WORDS)]} "


def text_of(number: int, tokens: int) -> str:
    return "".join(word(number, place) for place in range(tokens))


def number_in(messages: Any) -> int:
    """Return the number of the request that a chat is: its text says `request 17`."""
    for message in messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        for text in parts:
            if "request " in text:
                return int(text.split("request ")[1].split()[0])
    return -1
