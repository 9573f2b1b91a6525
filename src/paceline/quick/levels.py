"""What is asked: levels of picture size, detail and budget, the body of a request, and what came of each level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from paceline.quick.asking import Answer
from paceline.slo import Interval, Proportion, percentile, percentile_interval

QUESTION = "Which digits do you see, in order?"
MOST_NEW_TOKENS = 1  # a time to first token needs no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One way of asking: the picture's side in pixels (None without a picture), OpenAI's `detail`, Paceline's budget."""

    side_px: int | None
    detail: str | None = None
    budget_ms: float | None = None
    more: tuple[tuple[str, Any], ...] = ()

    def body(self, model: str, picture: str | None, *, streams: bool = True, usage: bool = True) -> dict[str, Any]:
        """Return the request."""
        content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
        if picture is not None:
            image = {"url": picture} if self.detail is None else {"url": picture, "detail": self.detail}
            content.insert(0, {"type": "image_url", "image_url": image})
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": MOST_NEW_TOKENS,
            "temperature": 0,
            **dict(self.more),
        }
        if streams:
            body["stream"] = True
        if streams and usage:
            body["stream_options"] = {"include_usage": True}
        return body if self.budget_ms is None else {**body, "latency_budget_ms": self.budget_ms}


@dataclass(slots=True, kw_only=True)
class LevelTimes:
    """What was measured at one level under a budget: times of those that answered, and what went wrong with the others.

    A request that failed, or was given up after the budget had passed, is not kept. `image_tokens` are those that the server's
    usage tells of each answer.
    """

    level: Level
    budget_ms: float
    times_ms: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    image_tokens: list[int] = field(default_factory=list[int])
    given_up: int = 0

    def add(self, answer: Answer, time_ms: float | None, image_tokens: int | None) -> None:
        """Note one answer; `time_ms` is None where it has none."""
        if time_ms is not None:
            self.times_ms.append(time_ms)
        else:
            self.errors.append(answer.error or "no token came")
        if image_tokens is not None:
            self.image_tokens.append(image_tokens)

    @property
    def kept(self) -> Proportion | None:
        """Of all requests those within the budget; None before the first."""
        count = len(self.times_ms) + len(self.errors) + self.given_up
        within = sum(ms <= self.budget_ms for ms in self.times_ms)
        return Proportion(successes=within, count=count) if count else None

    @property
    def tokens(self) -> int | None:
        """The median of its image tokens; None where the server tells none."""
        return round(median(self.image_tokens)) if self.image_tokens else None

    def percentile(self, percent: float) -> tuple[float, Interval | None] | None:
        """Return a percentile of the answered requests' times with its interval; None without one."""
        if not self.times_ms:
            return None
        return percentile(self.times_ms, percent), percentile_interval(self.times_ms, percent)

    def document(self) -> dict[str, Any]:
        """Return the level as a part of a JSON document."""
        kept = self.kept
        interval = None if kept is None else kept.interval()
        times = {f"p{percent}": self.percentile(percent) for percent in (50, 95)}
        return {
            "side_px": self.level.side_px,
            "detail": self.level.detail,
            "latency_budget_ms": self.level.budget_ms,
            "image_tokens": self.tokens,
            "n": 0 if kept is None else kept.count,
            "errors": len(self.errors),
            "ttft_ms": {name: None if found is None else round(found[0], 3) for name, found in times.items()},
            "kept": None if kept is None else kept.share,
            "ci": None if interval is None else [interval.low, interval.high],
        }


def levels_of(sides_px: Sequence[int], *, budget_ms: float, obeyed: Mapping[str, bool]) -> list[Level]:
    """Return the levels to ask: every size, the largest in low detail where that changes anything, and with a budget where
    the server chooses by it."""
    levels = [Level(side_px=side) for side in sides_px]
    if obeyed.get("detail"):
        levels.append(Level(side_px=sides_px[-1], detail="low"))
    if obeyed.get("latency_budget_ms"):
        levels.append(Level(side_px=sides_px[-1], budget_ms=budget_ms))
    return levels
