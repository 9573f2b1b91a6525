"""When a request would have its first token, and whom it would make late, from sums over what an engine has yet to prefill.

Under an order by static keys a request is prefilled once everything before it is. With today's decodes a step has `p` tokens
left for prompts and takes the time A of its decodes besides what the prompts take, so that T tokens of prompts need T / p
steps: A · T / p, and the prompts' own times, which do not depend on how they are cut. Both are sums over the requests before
it; the last step is filled up by those behind. Where no decode runs A is a step's fixed cost.

What is not seen: requests yet to arrive, decodes that begin and end meanwhile, places (`max_num_seqs`) and memory that run
out, and rules of the planner beside the order. `paceline.simulate.exact_first_token` runs all of that, at the price of a run.
"""

import math
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add

from paceline.errors import InvalidValueError
from paceline.schedule.policies import SortKey
from paceline.schedule.requests import DecodeLoad
from paceline.schedule.step_time import LinearStepTime, StepLoad

LATE = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillWork:
    """Tokens to prefill, behind `context_tokens`; each costs the share `factor` of a token's time by the step-time model."""

    tokens: int
    context_tokens: int = 0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.context_tokens < 0:
            raise InvalidValueError("tokens", (self.tokens, self.context_tokens), "at least 1, behind at least 0")
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise InvalidValueError("factor", self.factor, "a finite number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPace:
    """What steps are made of at the moment: the seconds that one takes whatever it prefills, and its prefill tokens.

    `shared` says that nobody decodes, so that the fixed cost, too, is the prompts' own and is shared by their factors.
    """

    step_seconds: float
    prefill_tokens: int
    shared: bool

    @staticmethod
    def of(model: LinearStepTime, decodes: DecodeLoad, *, chunk_size: int) -> "StepPace":
        """Return the pace with these decodes."""
        load = StepLoad(decode_tokens=decodes.tokens, decode_context_tokens=decodes.context_tokens)
        return StepPace(
            step_seconds=model.predict_ms(load) / 1e3,
            prefill_tokens=max(1, chunk_size - decodes.tokens),
            shared=decodes.tokens == 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What awaits a request under one candidate: seconds to its first token from the next step on, and of its own work."""

    wait_seconds: float
    work_seconds: float


class LookAhead:
    """The prompts that an engine has yet to compute, in order, with their sums; a change costs O(waiting) moves at most."""

    def __init__(self, model: LinearStepTime) -> None:
        self._model = model
        self._key_of: dict[Hashable, SortKey] = {}
        self._keys: list[SortKey] = []
        self._names: list[Hashable] = []
        self._tokens: list[int] = []
        self._shares: list[float] = []  # factor · tokens
        self._seconds: list[float] = []  # of the tokens themselves
        self._after: list[float] = []  # seconds that the engine is held beyond the first token
        self._works: list[PrefillWork] = []
        self._due: list[float] = []  # of a promised first token, on the host's clock

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._key_of

    @property
    def names(self) -> set[Hashable]:
        """The requests that are not fully prefilled."""
        return set(self._key_of)

    def __iter__(self) -> Iterator[Hashable]:
        """The requests that are not fully prefilled, in their order."""
        return iter(self._names)

    def work_of(self, name: Hashable) -> PrefillWork:
        """Return what a request has left to prefill."""
        return self._works[bisect_left(self._keys, self._key_of[name])]

    def add(
        self,
        name: Hashable,
        key: SortKey,
        work: PrefillWork,
        *,
        due_seconds: float | None = None,
        after_seconds: float = 0.0,
    ) -> None:
        """Add a request; `due_seconds` is when its first token was promised for, None without a promise.

        `after_seconds` is how long it keeps others from the engine once it has its first token: nothing where decodes share
        steps with prompts, its whole answer where requests are served one at a time.

        Raises InvalidValueError for a name or a key that is there already: keys end in a number that no other has.
        """
        at = bisect_left(self._keys, key)
        if name in self._key_of or self._keys[at : at + 1] == [key]:
            raise InvalidValueError("request", (name, key), "a name and a key that no other unfinished request has")
        self._key_of[name] = key
        self._keys.insert(at, key)
        self._names.insert(at, name)
        self._after.insert(at, after_seconds)
        for column in (self._tokens, self._shares, self._seconds):
            column.insert(at, 0)
        self._works.insert(at, work)
        self._due.insert(at, LATE if due_seconds is None else due_seconds)
        self._set(at, work)

    def change(self, name: Hashable, work: PrefillWork) -> None:
        """Set what is left to compute of a request; its place in the order stays."""
        self._set(bisect_left(self._keys, self._key_of[name]), work)

    def remove(self, name: Hashable) -> None:
        """Take out a request that is fully prefilled, or gone."""
        at = bisect_left(self._keys, self._key_of.pop(name))
        columns = (
            self._keys,
            self._names,
            self._tokens,
            self._shares,
            self._seconds,
            self._after,
            self._works,
            self._due,
        )
        for column in columns:
            del column[at]

    def outlooks(self, key: SortKey, candidates: Sequence[PrefillWork], pace: StepPace) -> list[Outlook]:
        """Return what awaits a request of this key under each candidate, in their order."""
        at = bisect_left(self._keys, key)
        tokens, share = sum(self._tokens[:at]), sum(self._shares[:at])
        seconds = sum(self._seconds[:at]) + sum(self._after[:at])
        return [self._outlook(at, tokens, share, seconds, each, pace) for each in candidates]

    def least_slack_seconds(self, key: SortKey, pace: StepPace, *, ready_seconds: float, drift: float = 1.0) -> float:
        """Return how much work a request of this key may put before those behind it that were promised; below 0: late.

        `ready_seconds` is when the next step can start, by the clock of `due_seconds`. Requests that are late as it is, and
        would be without this one, hold nobody up. Infinite where nobody behind was promised anything.
        """
        at = bisect_left(self._keys, key)
        if at == len(self._keys) or min(self._due[at:]) == LATE:
            return math.inf
        ends = self._ends(pace)[at:]
        slacks = [due - ready_seconds - drift * end for due, end in zip(self._due[at:], ends, strict=True)]
        return min((slack for slack in slacks if slack >= 0), default=math.inf) / drift

    def _ends(self, pace: StepPace) -> list[float]:
        """Return when each request is prefilled, in seconds from the next step on."""
        a_token = pace.step_seconds / pace.prefill_tokens
        fixed = [a_token * tokens for tokens in (self._shares if pace.shared else self._tokens)]
        held = [0.0, *accumulate(self._after)]
        return list(map(add, accumulate(map(add, fixed, self._seconds)), held))

    def _outlook(
        self, at: int, tokens: int, share: float, seconds: float, work: PrefillWork, pace: StepPace
    ) -> Outlook:
        own = own_seconds(self._model, work)
        steps = -(-(tokens + work.tokens) // pace.prefill_tokens)
        spare = steps * pace.prefill_tokens - tokens - work.tokens
        total, shares, lasts = tokens + work.tokens, share + work.factor * work.tokens, seconds + own
        behind = at
        while spare > 0 and behind < len(self._works):  # at most a step's tokens of those behind
            there = self._works[behind]
            part = PrefillWork(
                tokens=min(spare, there.tokens), context_tokens=there.context_tokens, factor=there.factor
            )
            lasts += own_seconds(self._model, part)
            total, shares, spare = total + part.tokens, shares + part.factor * part.tokens, spare - part.tokens
            behind += 1
        fixed = pace.step_seconds * (shares / total if pace.shared else 1.0)
        a_token = pace.step_seconds / pace.prefill_tokens * (work.factor if pace.shared else 1.0)
        return Outlook(wait_seconds=steps * fixed + lasts, work_seconds=own + a_token * work.tokens)

    def _set(self, at: int, work: PrefillWork) -> None:
        self._works[at] = work
        self._tokens[at], self._shares[at] = work.tokens, work.factor * work.tokens
        self._seconds[at] = own_seconds(self._model, work)


def own_seconds(model: LinearStepTime, work: PrefillWork) -> float:
    """Return what the tokens themselves take, however they are cut into chunks: their own time and their attention's."""
    attention = work.tokens * (work.context_tokens + work.tokens / 2)
    ms = model.per_prefill_token_ms * work.tokens + model.per_prefill_attention_token_ms * attention
    return work.factor * ms / 1e3
