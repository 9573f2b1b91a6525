"""The choice at arrival under load: the worthiest configuration that keeps the request's own promise and breaks no other.

A budget counts from the arrival and covers waiting. What is promised is that the first token comes within it with
probability 1 − α, by the scores of its class and by how earlier promises were kept (`PromiseAccounts`); nothing is promised while
a class of requests has too few scores, nor where no configuration's bound fits. A request that no configuration is predicted to
serve in time is relegated: it gets the one of least work and gives up its place in the order, for late anyway it would make
others late. By the upper bound that would be done to many that are served in time.

A host tells what happens: `decide` and `admit` at an arrival, `computed` as prompts get on, `finished` for a first token, and
`stepped` after each step. Nothing here reads a clock.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from paceline.control.work_price import PriceSettings, WorkPrice, worthiest
from paceline.errors import InvalidValueError
from paceline.estimate.online_scores import DEFAULT_WINDOW, SMALLEST_SECONDS, OnlineScores, budget_class
from paceline.estimate.promises import PromiseAccounts
from paceline.estimate.step_drift import StepDrift
from paceline.schedule.look_ahead import LookAhead, Outlook, PrefillWork, StepPace
from paceline.schedule.policies import SortKey, request_order
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import LinearStepTime, StepLoad

DEFAULT_ALPHA = 0.1
DEADLINE_POLICIES = ("edf",)
COLD, NONE_FIT, RELEGATED, NO_BUDGET = "cold", "none_fit", "relegated", "no_budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How choices are made.

    - `alpha`: the share of bounds that may be exceeded; `window` the scores that a class keeps.
    - `price`: of a second of prefill. A floor of 0 with a step of 0 takes all that fits (not advised: docs/load.md).
    - `keeps_promises`: a choice leaves those behind it that were promised their time; only under orders by deadline is
      anybody behind.
    - `relegates`: who cannot be served in time gives up its place.
    - `weighs_chances`: an accuracy counts times the chance that it comes in time, by the scores of the class; where nothing's
      bound fits, that decides among all. Otherwise whatever fits counts as being in time, and the fastest is taken where
      nothing does.
    """

    alpha: float = DEFAULT_ALPHA
    window: int = DEFAULT_WINDOW
    price: PriceSettings = field(default_factory=PriceSettings)
    keeps_promises: bool = True
    relegates: bool = True
    weighs_chances: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCandidate:
    """One configuration as a choice sees it: what its answers are worth for such a request, and what it has to prefill."""

    accuracy: float
    work: PrefillWork


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDecision:
    """What is done with an arriving request.

    `chosen` is the place of a candidate. `ttft_budget_seconds` is what it is queued with, None without a budget or for one
    that is relegated. `predicted_seconds` and `bound_seconds` count from the arrival; the bound is None while nothing can
    be bounded. `unpromised` says why nothing is promised: `cold`, `none_fit`, `relegated` or `no_budget`; None for a promise.
    `withheld` says that a promise would have been given if earlier ones had been kept. `is_least` says that there was a
    choice, and none of less work, `found_empty` that nobody is in the engine.
    """

    chosen: int
    ttft_budget_seconds: float | None
    predicted_seconds: float
    bound_seconds: float | None
    work_seconds: float
    price_per_second: float
    unpromised: str | None
    withheld: bool = False
    is_least: bool = False
    found_empty: bool = False

    @property
    def promised(self) -> bool:
        """Whether the budget is promised."""
        return self.unpromised is None


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A first token that is yet to come."""

    arrival_seconds: float
    kind: Hashable
    predicted_seconds: float
    promised_seconds: float | None


class LoadController:
    """Choices for one engine; one instance sees all of its requests, in the order of arrival."""

    def __init__(self, settings: LoadSettings, planner: PlannerSettings, model: LinearStepTime) -> None:
        self.settings, self._planner, self._model = settings, planner, model
        self.scores = OnlineScores(alpha=settings.alpha, window=settings.window)
        self.promises = PromiseAccounts(settings.alpha)
        self.price = WorkPrice(settings.price)
        self.drift = StepDrift()
        self.ahead = LookAhead(model)
        self._order = request_order(planner.policy, planner.weights)
        self._by_budget = planner.policy in DEADLINE_POLICIES
        self._awaited: dict[Hashable, _Awaited] = {}
        self._queued = 0
        self._last_arrival: float | None = None

    @property
    def planner(self) -> PlannerSettings:
        """How the engine fills its steps."""
        return self._planner

    @property
    def model(self) -> LinearStepTime:
        """What its steps are predicted to take."""
        return self._model

    @property
    def awaited(self) -> set[Hashable]:
        """The requests whose first token is yet to come."""
        return set(self._awaited)

    def decide(
        self,
        candidates: Sequence[LoadCandidate],
        *,
        arrival_seconds: float,
        ready_seconds: float,
        ttft_budget_seconds: float | None,
        decodes: DecodeLoad,
    ) -> LoadDecision:
        """Return the choice for a request that arrives now; the next step can start at `ready_seconds`, by the same clock.

        Nothing changes: `admit` takes it.
        """
        if not candidates:
            raise InvalidValueError("candidates", [], "at least one configuration")
        pace = StepPace.of(self._model, decodes, chunk_size=self._planner.chunk_size)
        ahead_seconds = ready_seconds - arrival_seconds
        budget, is_empty = ttft_budget_seconds, not self.ahead and not decodes.tokens
        found = self.outlooks(candidates, budget, ready_seconds, pace)
        predicted = [ahead_seconds + self.drift.factor * each.wait_seconds for each in found]
        works = [each.work_seconds for each in found]
        # not the one that is predicted first: a larger prompt may stand in a step that others would fill without it
        fastest = min(range(len(found)), key=works.__getitem__)
        if budget is not None and self.settings.relegates and min(predicted) > budget:
            late = self._relegated(candidates, fastest, arrival_seconds, ready_seconds, pace)
            return replace(late, found_empty=is_empty)
        factor = self._factor(budget)
        slack = self._slack(budget, ready_seconds, pace)
        leaves = [each.work_seconds <= slack for each in found]
        fits = _fitting(predicted, leaves, budget, factor)
        price = self.price_at(arrival_seconds)
        worths = self._worths(candidates, predicted, budget)
        chosen = worthiest(worths, works, fits, price_per_second=price)
        if budget is None:
            reason = NO_BUDGET
        elif factor is None:
            reason = COLD
        else:
            reason = NONE_FIT if chosen is None else None
        calibrated = self.scores.factor(self.kind(budget))
        withheld = reason == NONE_FIT and calibrated != factor and any(_fitting(predicted, leaves, budget, calibrated))
        if chosen is None and self.settings.weighs_chances:
            chosen = worthiest(worths, works, leaves, price_per_second=price)
        taken = fastest if chosen is None else chosen
        return LoadDecision(
            chosen=taken,
            ttft_budget_seconds=budget,
            predicted_seconds=predicted[taken],
            bound_seconds=None if factor is None else predicted[taken] * factor,
            work_seconds=found[taken].work_seconds,
            price_per_second=price,
            unpromised=reason,
            withheld=withheld,
            is_least=len(works) > 1 and works[taken] <= works[fastest],
            found_empty=is_empty,
        )

    def price_at(self, now_seconds: float) -> float:
        """Return what accuracy a second of prefill must bring to a request that arrives at this time."""
        return self.price.per_second_after(self._since_last(now_seconds))

    def admit(
        self,
        name: Hashable,
        decision: LoadDecision,
        work: PrefillWork,
        *,
        arrival_seconds: float,
        ready_seconds: float,
        after_seconds: float = 0.0,
    ) -> None:
        """Take note that a request was queued as decided, with the work of the chosen candidate.

        `after_seconds` is how long it holds the engine beyond its first token, where requests are served one at a time.
        """
        gap = self._since_last(arrival_seconds)
        self._last_arrival = arrival_seconds
        self.price.take(
            work_seconds=decision.work_seconds,
            gap_seconds=gap,
            found_idle=not self.ahead,
            found_empty=decision.found_empty,
            is_least=decision.is_least,
            has_budget=decision.unpromised != NO_BUDGET,
        )
        budget = decision.ttft_budget_seconds
        due = arrival_seconds + budget if decision.promised and budget is not None else None
        self.ahead.add(name, self.key(work, budget, ready_seconds), work, due_seconds=due, after_seconds=after_seconds)
        self._queued += 1
        if decision.withheld:
            self.promises.withheld(budget_class(budget))
        promised = budget if decision.promised else None
        self._awaited[name] = _Awaited(arrival_seconds, self.kind(budget), decision.predicted_seconds, promised)

    def computed(self, name: Hashable, work: PrefillWork | None) -> None:
        """Take note of what is left to prefill of a request, None for nothing; of one that is unknown nothing is kept."""
        if name in self.ahead:
            if work is None:
                self.ahead.remove(name)
            else:
                self.ahead.change(name, work)

    def finished(self, name: Hashable, first_token_seconds: float) -> None:
        """Take note of a first token: what was predicted of it becomes a score of its class."""
        self.computed(name, None)
        awaited = self._awaited.pop(name, None)
        if awaited is None:
            return
        measured, promised = first_token_seconds - awaited.arrival_seconds, awaited.promised_seconds
        self.scores.observe(awaited.kind, measured_seconds=measured, predicted_seconds=awaited.predicted_seconds)
        if promised is not None:
            self.promises.observe(budget_class(promised), kept=measured <= promised)

    def broken(self, name: Hashable) -> None:
        """Take note that a request was given up without its first token once its promised time had passed."""
        awaited = self._awaited.get(name)
        self.gone(name)
        if awaited is not None and awaited.promised_seconds is not None:
            self.promises.observe(budget_class(awaited.promised_seconds), kept=False)

    def gone(self, name: Hashable) -> None:
        """Take note that a request was given up before its first token: it is measured no more."""
        self.computed(name, None)
        self._awaited.pop(name, None)

    def stepped(self, load: StepLoad, measured_seconds: float, *, factor: float = 1.0) -> None:
        """Take note of a step and of the mean factor of its prompt tokens; the machine's drift is learned from it."""
        predicted = self._model.predict_ms(load) / 1e3
        if load.prefill_tokens and factor != 1.0:
            decodes = replace(load, prefill_tokens=0, prefill_attention_tokens=0.0)
            alone = self._model.predict_ms(decodes) / 1e3 if load.decode_tokens else 0.0
            predicted = alone + factor * (predicted - alone)
        self.drift.observe(measured_seconds=measured_seconds, predicted_seconds=predicted)

    def outlooks(
        self, candidates: Sequence[LoadCandidate], budget: float | None, ready_seconds: float, pace: StepPace
    ) -> list[Outlook]:
        """Return what awaits a request of this budget under each candidate: under orders by size each has its own place."""
        works = [each.work for each in candidates]
        if not self._order_is_by_size:
            return self.ahead.outlooks(self.key(works[0], budget, ready_seconds), works, pace)
        return [self.ahead.outlooks(self.key(work, budget, ready_seconds), [work], pace)[0] for work in works]

    @property
    def _order_is_by_size(self) -> bool:
        return self._planner.policy not in ("fcfs", *DEADLINE_POLICIES)

    def _worths(
        self, candidates: Sequence[LoadCandidate], predicted: Sequence[float], budget: float | None
    ) -> list[float]:
        """Return the accuracies, times the chance to be in time where chances are weighed."""
        if budget is None or not self.settings.weighs_chances:
            return [each.accuracy for each in candidates]
        kind = self.kind(budget)
        return [
            each.accuracy * self.scores.chance(kind, ratio=budget / max(seconds, SMALLEST_SECONDS))
            for each, seconds in zip(candidates, predicted, strict=True)
        ]

    def _since_last(self, now_seconds: float) -> float:
        return 0.0 if self._last_arrival is None else now_seconds - self._last_arrival

    def _slack(self, budget: float | None, ready_seconds: float, pace: StepPace) -> float:
        """Return how much work may stand before those behind that were promised."""
        if not (self.settings.keeps_promises and self._by_budget):
            return math.inf
        key = self.key(PrefillWork(tokens=1), budget, ready_seconds)
        return self.ahead.least_slack_seconds(key, pace, ready_seconds=ready_seconds, drift=self.drift.factor)

    def _relegated(
        self,
        candidates: Sequence[LoadCandidate],
        fastest: int,
        arrival_seconds: float,
        ready_seconds: float,
        pace: StepPace,
    ) -> LoadDecision:
        work = candidates[fastest].work
        late = self.ahead.outlooks(self.key(work, None, ready_seconds), [work], pace)[0]
        predicted = ready_seconds - arrival_seconds + self.drift.factor * late.wait_seconds
        factor = self.scores.factor(self.kind(None))
        return LoadDecision(
            chosen=fastest,
            ttft_budget_seconds=None,
            predicted_seconds=predicted,
            bound_seconds=None if factor is None else predicted * factor,
            work_seconds=late.work_seconds,
            price_per_second=self.price_at(arrival_seconds),
            unpromised=RELEGATED,
            is_least=len(candidates) > 1,
        )

    def _factor(self, budget: float | None) -> float | None:
        """Return what a prediction is multiplied by to be promised under a budget."""
        shift = 0.0 if budget is None else self.promises.shift(budget_class(budget))
        return self.scores.factor(self.kind(budget), shift=shift)

    def kind(self, budget: float | None) -> Hashable:
        """Return the class of a budget's scores: one for each budget under orders by deadline, one for all otherwise."""
        return budget_class(budget) if self._by_budget else None

    def key(self, work: PrefillWork, budget: float | None, ready_seconds: float) -> SortKey:
        """Return where a request that is queued when the next step starts stands in the order."""
        return self._order(
            PrefillRequest(
                request_id="",
                queue_number=self._queued,
                arrival_seconds=ready_seconds,
                prompt_tokens=work.tokens,
                remaining_tokens=work.tokens,
                context_tokens=work.context_tokens,
                ttft_budget_seconds=budget,
            )
        )


def _fitting(
    predicted: Sequence[float], leaves: Sequence[bool], budget: float | None, factor: float | None
) -> list[bool]:
    """Return which candidates' bounds are within a budget, and leave others what they were promised."""
    limit = math.inf if budget is None else budget / (1.0 if factor is None else factor)
    return [seconds <= limit and one for seconds, one in zip(predicted, leaves, strict=True)]
