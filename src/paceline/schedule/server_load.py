"""What a server has yet to do, from what it sees of its requests; and the choice for the next one.

A server hears of a request when it accepts it, when its first token is there and when it ends, and of an engine's steps where
the engine tells them. Between these the requests before in the order are taken to be computed as fast as the step-time model
says. What that gets wrong is in the scores of the first tokens, and so in the bounds.

Where requests are served one at a time, a host says which one it has `started`: that one stands first, until it ends.

Times are of the host's monotonic clock. One that is set back counts as standing still, and one that jumps ahead as time that
has passed.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from paceline.schedule.load_control import LoadCandidate, LoadController, LoadDecision
from paceline.schedule.look_ahead import PrefillWork, StepPace, own_seconds
from paceline.schedule.requests import DecodeLoad
from paceline.schedule.step_time import LinearStepTime, StepLoad

# a token stands for a millisecond of a request alone, where nobody fitted an engine's steps: `work_of` then says how many
MILLISECONDS = LinearStepTime(
    base_ms=0.0,
    per_decode_token_ms=0.0,
    per_decode_context_token_ms=0.0,
    per_prefill_token_ms=1.0,
    per_prefill_attention_token_ms=0.0,
)
LEFT_OF_NOTHING = PrefillWork(tokens=1, factor=1e-9)  # of a prompt that is computed and still holds the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """One request from its acceptance to its end."""

    arrival_seconds: float
    context_tokens: int
    after_seconds: float


class ServerLoad:
    """The requests of one server, decided by a `LoadController`; for one thread, such as an event loop's.

    `by_configuration` has step-time models of single configurations, where an engine was measured under each. `takes_turns`
    says that requests are served one at a time, and that each is told of when it is `started`.
    """

    def __init__(
        self,
        controller: LoadController,
        *,
        by_configuration: Mapping[str, LinearStepTime] | None = None,
        takes_turns: bool = False,
    ) -> None:
        self.controller, self._by_configuration = controller, by_configuration or {}
        self._served: dict[Hashable, _Served] = {}
        self._decoding: dict[Hashable, int] = {}  # by how many steps with decodes had been told of at the first token
        self._decode_steps = 0
        self._time = 0.0
        self._seen: float | None = None
        self._steps_told = False
        self._started = 0
        self._takes_turns, self._holder = (
            takes_turns,
            None,
        )  # who has the engine, where requests are served one at a time
        self._begun_token: tuple[Hashable, float] = (None, 0.0)  # whose, and the seconds that it was computed for

    def __len__(self) -> int:
        return len(self._served)

    @property
    def decodes(self) -> DecodeLoad:
        """Who decodes now, as far as is known: each with its prompt behind it, and a token of each step since it decodes."""
        prompts = sum(self._served[name].context_tokens for name in self._decoding)
        said = len(self._decoding) * self._decode_steps - sum(self._decoding.values())
        return DecodeLoad(tokens=len(self._decoding), context_tokens=prompts + said)

    def work_of(self, tokens: int, seconds: float, *, configuration: str | None = None) -> PrefillWork:
        """Return the work of a prompt that takes so many seconds alone, queue apart: the model's tokens times a factor.

        Alone a step's fixed cost, too, shrinks with experts and blocks; beside others it is paid for them anyway. Where the
        `configuration`, by `KnobConfig.step_key`, has a model of its own, a prompt is therefore what its tokens add to a step
        by that, with what its request takes besides steps.
        """
        model, chunk, prompt = self.controller.model, self.controller.planner.chunk_size, PrefillWork(tokens=tokens)
        steps = -(-tokens // chunk) if model.base_ms else 0
        taken, alone = seconds, steps * model.base_ms / 1e3 + own_seconds(model, prompt)
        own = None if configuration is None else self._by_configuration.get(configuration)
        if own is not None:
            added, alone = own_seconds(own, prompt), own_seconds(model, prompt)
            taken = added + max(0.0, seconds - steps * own.base_ms / 1e3 - added)
        return PrefillWork(tokens=tokens, factor=max(taken, 1e-9) / max(alone, 1e-9))

    def decide(
        self, candidates: Sequence[LoadCandidate], *, now_seconds: float, ttft_budget_seconds: float | None
    ) -> LoadDecision:
        """Return the choice for a request that arrives now; `admit` takes it."""
        now = self._passed(now_seconds)
        return self.controller.decide(
            candidates,
            arrival_seconds=now,
            ready_seconds=now,
            ttft_budget_seconds=ttft_budget_seconds,
            decodes=self.decodes,
        )

    def predicted_seconds(
        self, candidates: Sequence[LoadCandidate], *, now_seconds: float, ttft_budget_seconds: float | None
    ) -> list[float]:
        """Return when a request that arrives now would have its first token under each candidate, in seconds from now."""
        now = self._passed(now_seconds)
        found = self.controller.outlooks(candidates, ttft_budget_seconds, now, self._pace())
        return [self.controller.drift.factor * each.wait_seconds for each in found]

    def price_at(self, now_seconds: float) -> float:
        """Return what accuracy a second of prefill must bring to a request that arrives now; nothing changes."""
        return self.controller.price_at(self._time + self._elapsed(now_seconds))

    def wait_seconds(self, *, now_seconds: float, ttft_budget_seconds: float | None = None) -> float:
        """Return what a request of this budget that arrives now is expected to wait before it is computed."""
        nothing = LoadCandidate(accuracy=0.0, work=LEFT_OF_NOTHING)
        (found,) = self.predicted_seconds([nothing], now_seconds=now_seconds, ttft_budget_seconds=ttft_budget_seconds)
        return found if len(self.controller.ahead) else 0.0

    def admit(
        self,
        name: Hashable,
        decision: LoadDecision,
        work: PrefillWork,
        *,
        now_seconds: float,
        after_seconds: float = 0.0,
    ) -> None:
        """Take note that a request was queued as decided, with the work of the chosen candidate.

        `after_seconds` is how long it keeps others waiting beyond its first token, where requests are served one at a time.
        """
        now = self._passed(now_seconds)
        self.controller.admit(name, decision, work, arrival_seconds=now, ready_seconds=now, after_seconds=after_seconds)
        self._served[name] = _Served(
            arrival_seconds=now, context_tokens=work.context_tokens + work.tokens, after_seconds=after_seconds
        )

    def started(self, name: Hashable, *, now_seconds: float) -> None:
        """Take note that a request is served from now on and nobody before it ends: it stands first."""
        self._passed(now_seconds)
        ahead = self.controller.ahead
        self._takes_turns, self._holder = True, name
        if name in ahead:
            work = ahead.work_of(name)
            ahead.remove(name)
            self._first(name, work, self._served[name].after_seconds)

    def prefilled(self, name: Hashable, *, now_seconds: float) -> None:
        """Take note that a request's first token is there; whoever is unknown or has one already changes nothing."""
        served = self._served.get(name)
        if served is None or name in self._decoding:
            return
        self._passed(now_seconds)
        self.controller.computed(name, None)
        self._decoding[name] = self._decode_steps
        if served.after_seconds:
            self._first(name, LEFT_OF_NOTHING, served.after_seconds)

    def measured(self, name: Hashable, ttft_seconds: float) -> None:
        """Take note of a time to first token: what was predicted becomes a score of its class."""
        served = self._served.get(name)
        if served is not None and 0 <= ttft_seconds < math.inf:
            held = name in self._decoding and name in self.controller.ahead
            self.controller.finished(name, served.arrival_seconds + ttft_seconds)
            if held:
                self._first(name, LEFT_OF_NOTHING, served.after_seconds)

    def broken(self, name: Hashable) -> None:
        """Take note that a request ends without its first token once its promised time has passed."""
        self.controller.broken(name)

    def ended(self, name: Hashable, *, now_seconds: float) -> None:
        """Take note that a request has ended, however; one that is unknown changes nothing."""
        self._passed(now_seconds)
        self.controller.gone(name)
        self._holder = None if name == self._holder else self._holder
        self._decoding.pop(name, None)
        self._served.pop(name, None)

    def stepped(self, *, prefill_tokens: int, decode_tokens: int, seconds: float, now_seconds: float) -> None:
        """Take note of an engine's step that has ended now: who was prefilled follows from the order, the drift from the time."""
        self._steps_told = True
        self._passed(now_seconds)
        context = self.decodes.context_tokens if decode_tokens else 0
        self._decode_steps += bool(decode_tokens)
        left, tokens, attention, weighted = prefill_tokens, 0, 0.0, 0.0
        for name in list(self.controller.ahead):
            if left <= 0:
                break
            work = self.controller.ahead.work_of(name)
            chunk = min(left, work.tokens)
            left, tokens, weighted = left - chunk, tokens + chunk, weighted + chunk * work.factor
            attention += chunk * (work.context_tokens + chunk / 2)
            self._computed(name, work, chunk)
        load = StepLoad(
            decode_tokens=decode_tokens,
            decode_context_tokens=context,
            prefill_tokens=prefill_tokens,
            prefill_attention_tokens=attention,
        )
        # of a prompt that nobody here knows of nothing is learned
        if self.controller.model.base_ms and left <= 0:
            self.controller.stepped(load, seconds, factor=weighted / tokens if tokens else 1.0)

    def _passed(self, now_seconds: float) -> float:
        """Let time pass until now, and return the time that has passed in all."""
        elapsed = self._elapsed(now_seconds)
        self._seen = now_seconds
        self._time += elapsed
        if elapsed and not self._steps_told:
            self._compute(elapsed / self.controller.drift.factor)
        return self._time

    def _elapsed(self, now_seconds: float) -> float:
        return 0.0 if self._seen is None else max(0.0, now_seconds - self._seen)

    def _compute(self, seconds: float) -> None:
        """Let the requests at the head of the order be computed for so long; the last token waits to be seen."""
        ahead, pace = self.controller.ahead, self._pace()
        a_token = pace.step_seconds / pace.prefill_tokens
        (begun, begun_seconds), self._begun_token = self._begun_token, (None, 0.0)
        for name in list(ahead):
            if self._takes_turns and name != self._holder:
                return  # it has yet to be started, whatever is thought of the one before it
            seconds += begun_seconds if name == begun else 0.0
            if name in self._decoding:  # its prompt is done, and its answer ends when the host says so
                self._shorten(name, seconds)
                return
            work = ahead.work_of(name)
            fixed = a_token * work.tokens * (work.factor if pace.shared else 1.0)
            needed = fixed + own_seconds(self.controller.model, work)
            if seconds < needed:
                done = math.floor(work.tokens * seconds / needed)
                self._computed(name, work, done)
                self._begun_token = (name, seconds - needed * done / work.tokens)
                return
            self._computed(name, work, work.tokens)
            seconds -= needed
            if self._served[name].after_seconds:  # its answer follows, and nobody's prompt beside it
                return

    def _computed(self, name: Hashable, work: PrefillWork, tokens: int) -> None:
        done = min(tokens, work.tokens - 1)
        if done > 0:
            left = replace(work, tokens=work.tokens - done, context_tokens=work.context_tokens + done)
            self.controller.computed(name, left)

    def _shorten(self, name: Hashable, seconds: float) -> None:
        served = self._served[name]
        left = max(0.0, served.after_seconds - seconds)
        self._served[name] = replace(served, after_seconds=left)
        self.controller.ahead.remove(name)
        self._first(name, LEFT_OF_NOTHING, left)

    def _first(self, name: Hashable, work: PrefillWork, after_seconds: float) -> None:
        self._started += 1
        self.controller.ahead.add(name, (-math.inf, self._started), work, after_seconds=after_seconds)

    def _pace(self) -> StepPace:
        return StepPace.of(self.controller.model, self.decodes, chunk_size=self.controller.planner.chunk_size)
