"""A minute with a server: what it is, which knobs it obeys, and then all levels in rounds, each in an order drawn anew.

One request at a time. Every round asks one new scene at every level, so that a machine that becomes slower is so for all alike.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from paceline.errors import InvalidValueError, RemoteServerError
from paceline.quick.asking import Answer, Caller
from paceline.quick.levels import Level, LevelTimes, levels_of
from paceline.quick.pictures import picture_url
from paceline.remote import ServerAddress

DEFAULT_SIDES_PX = (224, 448, 896, 1344)
LARGEST_SIDE_PX = 4096
LEAST_TIMEOUT_SECONDS = 20.0
TIMES_OF_BUDGET = 10  # that one request may take
SMALL_PIXELS = 200_704  # 448 by 448: what the processors of the largest picture are asked to go down to
# limits of image processors under the names of their families: Qwen2.5-VL's and most others', Qwen3-VL's
PROCESSOR_LIMITS: tuple[dict[str, Any], ...] = (
    {"max_pixels": SMALL_PIXELS},
    {"size": {"shortest_edge": 3136, "longest_edge": SMALL_PIXELS}},
)
Obedience = Literal["obeyed", "ignored", "refused", "not told"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobFound:
    """What a server did with a knob, and in words how that was seen."""

    name: str
    what: Obedience
    how: str


@dataclass(slots=True, kw_only=True)
class QuickResult:
    """What was found out about one server under one budget."""

    server: str
    model: str
    budget_ms: float
    streams: bool
    knobs: tuple[KnobFound, ...]
    levels: list[LevelTimes]
    seed: int
    rounds: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list[str])


class QuickJudge:
    """Asks one server; `clock` is monotonic, in seconds, `on_progress` hears of the seconds that have passed, of all."""

    def __init__(
        self,
        address: ServerAddress,
        *,
        budget_ms: float = 300.0,
        seconds: float = 60.0,
        sides_px: Sequence[float] = DEFAULT_SIDES_PX,
        model: str | None = None,
        key: str | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        _require("budget", budget_ms, 3_600_000, "milliseconds")
        _require("seconds", seconds, 86_400, "seconds")
        sides = list(sides_px)
        whole = all(32 <= side <= LARGEST_SIDE_PX and side == int(side) for side in sides)
        if not sides or not whole or sides != sorted(set(sides)):
            expected = f"sides of pictures in pixels, rising, from 32 to {LARGEST_SIDE_PX}, for example 224 448 896"
            raise InvalidValueError("sizes", sides, expected)
        self.address, self.budget_ms, self.seconds = address, budget_ms, seconds
        self.sides_px = tuple(map(int, sides))
        self.model, self.seed, self.clock, self.on_progress = model, seed, clock, on_progress
        self._caller = Caller(address=address, clock=clock, key=key)
        self._timeout = max(LEAST_TIMEOUT_SECONDS, TIMES_OF_BUDGET * budget_ms / 1e3)
        self._random = Random(seed)
        self._scene = self._variant = 0
        self._streams = self._usage = True
        self._text_tokens: int | None = None

    def run(self) -> QuickResult:
        """Return what was found out after about `seconds`, or when stopped by Ctrl-C once there is something.

        Raises RemoteServerError for a server that cannot be asked, and UnknownChoiceError for a model that it has not.
        """
        started = self.clock()
        model = self._caller.model(self.model, timeout_seconds=LEAST_TIMEOUT_SECONDS)
        self._first_answer(model)
        found = self._knobs(model)
        obeyed = {each.name: each.what == "obeyed" for each in found}
        levels = [
            LevelTimes(level=level, budget_ms=self.budget_ms)
            for level in levels_of(self.sides_px, budget_ms=self.budget_ms, obeyed=obeyed)
        ]
        result = QuickResult(
            server=str(self.address),
            model=model,
            budget_ms=self.budget_ms,
            streams=self._streams,
            knobs=tuple(found),
            levels=levels,
            seed=self.seed,
        )
        self._rounds(model, result, started)
        return result

    def _rounds(self, model: str, result: QuickResult, started: float) -> None:
        end = started + self.seconds
        try:
            while self.clock() < end or not result.rounds:
                self._scene += 1
                for times in self._random.sample(result.levels, len(result.levels)):
                    if self.clock() >= end and result.rounds:
                        break
                    self._one(model, times, end if result.rounds else end + self._timeout)
                    self.on_progress(min(round(self.clock() - started), round(self.seconds)), round(self.seconds))
                result.rounds += 1
        except KeyboardInterrupt:
            if not result.rounds:
                raise
        result.seconds = self.clock() - started

    def _one(self, model: str, times: LevelTimes, end: float) -> None:
        timeout = max(min(self._timeout, end - self.clock()), 0.05)
        answer = self._ask(model, times.level, timeout_seconds=timeout)
        if answer.status is None and answer.waited_ms >= 1e3 * timeout and timeout < self._timeout:
            times.given_up += (
                answer.waited_ms > self.budget_ms
            )  # the time is over: known only if the budget was before it
            return
        time_ms = None if answer.error is not None else answer.first_token_ms if self._streams else answer.waited_ms
        times.add(answer, time_ms, self._image_tokens(answer))

    def _ask(self, model: str, level: Level, *, timeout_seconds: float | None = None) -> Answer:
        picture = None
        if level.side_px is not None:
            self._variant += 1
            size_px = (level.side_px, level.side_px)
            picture = picture_url(seed=self.seed, scene=self._scene, variant=self._variant, size_px=size_px)
        body = level.body(model, picture, streams=self._streams, usage=self._usage)
        return self._caller.ask(body, timeout_seconds=timeout_seconds or self._timeout)

    def _first_answer(self, model: str) -> None:
        """Find out how the server is asked: with usage in the stream, without, or without a stream; and warm it up."""
        smallest = Level(side_px=self.sides_px[0])
        answer = self._ask(model, smallest)
        if answer.status == 400:
            self._usage = False
            answer = self._ask(model, smallest)
        if answer.status == 400 or (answer.error is None and answer.first_token_ms is None):
            self._streams = False
            answer = self._ask(model, smallest)
        if answer.error is not None:
            mend = "name a model that takes pictures with --model, or see the server's own log"
            raise RemoteServerError(
                str(self.address), f"did not answer a question about a picture: {answer.error}", mend=mend
            )
        self._text_tokens = self._ask(model, Level(side_px=None)).prompt_tokens
        for side in self.sides_px[1:]:  # a size's first request is slow
            self._ask(model, Level(side_px=side))

    def _image_tokens(self, answer: Answer) -> int | None:
        if answer.report is not None and isinstance(answer.report.get("image_tokens"), int):
            return answer.report["image_tokens"]
        if answer.prompt_tokens is None or self._text_tokens is None:
            return None
        return max(0, answer.prompt_tokens - self._text_tokens)

    def _knobs(self, model: str) -> list[KnobFound]:
        side = self.sides_px[-1]
        plain = self._ask(model, Level(side_px=side))
        low = self._ask(model, Level(side_px=side, detail="low"))
        found = [_compared("detail", plain, low)]
        for limits in PROCESSOR_LIMITS:
            limited = self._ask(model, Level(side_px=side, more=(("mm_processor_kwargs", limits),)))
            told = _compared("mm_processor_kwargs", plain, limited)
            if told.what == "obeyed" or limits is PROCESSOR_LIMITS[-1]:
                found.append(told)
                break
        return [*found, _by_budget(self._ask(model, Level(side_px=side, budget_ms=self.budget_ms)))]


def _compared(name: str, plain: Answer, asked: Answer) -> KnobFound:
    """Tell from the tokens of two prompts about pictures of one size whether a knob that asks for fewer had an effect."""
    stripped = asked.headers.get("x-paceline-stripped", "")
    if asked.error is not None:
        return KnobFound(name=name, what="refused", how=asked.error)
    if name in stripped:
        return KnobFound(name=name, what="ignored", how="the server says that it leaves it out")
    if plain.prompt_tokens is None or asked.prompt_tokens is None:
        return KnobFound(name=name, what="not told", how="its answers do not say how many tokens a prompt has")
    how = f"{plain.prompt_tokens:,} tokens in the prompt without it, {asked.prompt_tokens:,} with it"
    return KnobFound(name=name, what="obeyed" if asked.prompt_tokens < plain.prompt_tokens else "ignored", how=how)


def _by_budget(answer: Answer) -> KnobFound:
    name = "latency_budget_ms"
    if answer.error is not None:
        return KnobFound(name=name, what="refused", how=answer.error)
    if answer.report is None and "x-paceline-config" not in answer.headers:
        return KnobFound(name=name, what="ignored", how="its answer says nothing of a budget")
    return KnobFound(name=name, what="obeyed", how="its answer says what was chosen and promised")


def _require(name: str, value: float, most: float, unit: str) -> None:
    if not 0 < value <= most:
        raise InvalidValueError(name, value, f"a number of {unit} above 0 and at most {most:,}")


def ignored(knobs: Sequence[KnobFound]) -> list[str]:
    """Return the names of the knobs that had no effect."""
    return [each.name for each in knobs if each.what in ("ignored", "refused")]


def document_of(result: QuickResult, *, sentences: Sequence[str], not_controlled: Sequence[str]) -> Mapping[str, Any]:
    """Return the result as one JSON document."""
    return {
        "servers": [{"url": result.server, "model": result.model, "streams": result.streams}],
        "budget_ms": result.budget_ms,
        "levels": [each.document() for each in result.levels],
        "knobs": {each.name: {"what": each.what, "how": each.how} for each in result.knobs},
        "ignored_knobs": ignored(result.knobs),
        "sentences": list(sentences),
        "not_controlled": list(not_controlled),
        "rounds": result.rounds,
        "seconds": round(result.seconds, 1),
        "seed": result.seed,
    }
