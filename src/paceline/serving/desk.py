"""Where a request with a budget is decided: its promise, its place in the line, and its body as the engine takes it.

A request that is alone is bounded by what others took that were alone. One that has others beside it is decided by what they
have yet to compute, and bounded by what others took that had some beside them. Promises that are broken more often than they may
be widen the bounds of those to come. Clocks and engines are the host's.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from paceline.control.choosing import choose, configurations, needed_ms, options
from paceline.control.controller import Controller
from paceline.control.work_price import PriceSettings, worthiest
from paceline.errors import InvalidValueError, RequestRefusedError
from paceline.records import Decision, RequestFeatures
from paceline.schedule.load_control import (
    NONE_FIT,
    RELEGATED,
    LoadCandidate,
    LoadController,
    LoadDecision,
    LoadSettings,
)
from paceline.schedule.look_ahead import PrefillWork
from paceline.schedule.server_load import MILLISECONDS, ServerLoad
from paceline.schedule.settings import PlannerSettings
from paceline.serving.alone import AloneBounds
from paceline.serving.chat import Chat, Sizes, read_chat
from paceline.serving.ledger import AcceptedRequest, Ledger
from paceline.serving.pricing import largest_ms
from paceline.serving.refusals import refusal_alone, refusal_beside
from paceline.serving.rewriting import KnobNames, rewrite
from paceline.serving.ticket import Reading, Ticket
from paceline.serving.verdict import Verdict, why_none_beside
from paceline.wire.body import Fields, body_of, fields_of, may_matter, strip_knobs, value_of
from paceline.wire.budget import BUDGET_FIELD, BUDGET_FIELDS, AskedBudget, default_budget, read_budget
from paceline.wire.cut_body import CutBody, cut_out
from paceline.wire.metrics import PromiseMetrics
from paceline.wire.report import Promise

CHAT_PATH = "/v1/chat/completions"
LARGEST_BODY_BYTES = 100 * 1024 * 1024
MOST_RECENT = 100  # reports that are kept for whoever watches
WARM_UP_REQUESTS = 3  # a process's first are slow, and say nothing of those to come
SMALLEST_LEFT_MS = 1e-3  # of a budget that waiting has used up: the fastest is taken, marked
NONE_BOUNDED = "no configuration is bounded by this budget"
Headers = Sequence[tuple[bytes, bytes]]


class Desk:
    """Decides requests with a budget by a controller, and learns from what they took; for one event loop.

    `controllers` has one for each kind of budget that can be promised; the page of metrics tells the calibration of the first.
    `line` knows in which order the engine serves, and what its steps take; without one, requests are taken to be computed one
    after the other as they came, each for as long as the controller says. `after_seconds()` is how long an answer keeps others
    waiting beyond its first token, where they are served one at a time. `price_at` says how an engine's time is priced where T0,
    what the largest configuration takes for a picture of a megapixel alone, is so many seconds: a price by the second means
    something else on a slower machine, and T0 is learned here. `most_pictures` are what the engine takes in one request, None
    for any number; one with more is refused with `too_many_status` before anything is decided. `default_budget_ms` is given to
    chats that ask for no budget, where they can be decided on; None leaves them whole.
    """

    def __init__(
        self,
        *,
        controllers: Mapping[str, Controller],
        sizes: Sizes,
        alpha: float,
        names: KnobNames,
        client_knobs: bool = False,
        most_pictures: int | None = None,
        too_many_status: int = 400,
        line: ServerLoad | None = None,
        after_seconds: Callable[[], float] = lambda: 0.0,
        price_at: Callable[[float], PriceSettings] | None = None,
        default_budget_ms: float | None = None,
    ) -> None:
        self.controllers, self.sizes, self.alpha, self.names = dict(controllers), sizes, alpha, names
        self.client_knobs, self.after_seconds = client_knobs, after_seconds
        self.most_pictures, self.too_many_status = most_pictures, too_many_status
        self.default_budget = default_budget(default_budget_ms)
        if self.default_budget is not None and self.default_budget.kind not in self.controllers:
            raise InvalidValueError("default_budget_ms", default_budget_ms, "none beside a controller of totals alone")
        plain = LoadController(LoadSettings(alpha=alpha), PlannerSettings(chunk_size=1), MILLISECONDS)
        self.line = ServerLoad(plain) if line is None else line
        self.ledger = Ledger()
        self.metrics = PromiseMetrics(alpha=alpha)
        self.recent: deque[Ticket] = deque(maxlen=MOST_RECENT)
        self.alone = {kind: AloneBounds(alpha) for kind in controllers}  # the line has the bounds of the others
        self._tiers = {kind: {each.tier for each in configurations(one)} for kind, one in controllers.items()}
        self._native: PrefillWork | None = None  # of a request that nobody decides on
        self._price_at = price_at
        self._set_price()

    def read(self, path: str, headers: Headers, body: bytes) -> Reading:
        """Return what a request holds; one without a budget or knobs keeps its body byte for byte.

        Raises RequestRefusedError for a budget that is none, and for one on another path than chat completions.
        """
        cut = cut_out(body)
        fields = fields_of(cut.text) if may_matter(cut.text) else None
        if path != CHAT_PATH:
            if fields is not None and value_of(fields, BUDGET_FIELD) is not None:
                message = f"{BUDGET_FIELD} is not read on {path}; expected it on {CHAT_PATH}"
                raise RequestRefusedError(message, param=BUDGET_FIELD)
            return self._stripped(body, cut, fields)
        said = {} if fields is None else {name: value_of(fields, name) for name in BUDGET_FIELDS}
        asked = read_budget(said, headers)
        if asked is not None and asked.from_proxy and asked.kind not in self.controllers:
            asked = None  # a proxy's ceiling on every request asks nobody for a promise that cannot be given
        if asked is None:
            return self._unasked(body, cut, fields)
        fields = fields_of(cut.text) if fields is None else fields
        if fields is None:  # no JSON: the engine's server says so
            return Reading(body=body)
        if len(body) > LARGEST_BODY_BYTES:
            message = f"the body has {len(body):,} bytes; expected at most {LARGEST_BODY_BYTES:,} with a budget"
            raise RequestRefusedError(message, status=413, code="request_too_large")
        self._require_kind(asked)
        return Reading(body=body, asked=asked, fields=fields, cut=cut)

    def whole(self, reading: Reading) -> Reading:
        """Return a request that was given a budget and cannot be decided on, as one without."""
        assert reading.cut is not None
        return self._stripped(reading.body, reading.cut, reading.fields)

    def accept(self, reading: Reading, *, received_seconds: float, now_seconds: float) -> Ticket:
        """Decide a request with a budget and enter it in the ledger and the line, until `finish`.

        What has passed since it was received is over, whatever it was spent on: bounds and budgets are of what is left.
        Raises RequestRefusedError for a chat that no decision can be made on, and where the caller would rather be refused:
        422 for a budget that not even an idle engine keeps, 429 for one that this engine does not keep now.
        """
        assert reading.asked is not None and reading.fields is not None and reading.cut is not None
        asked, fields, cut = reading.asked, dict(reading.fields), reading.cut
        chat = read_chat(
            fields, self.sizes, cut, most_pictures=self.most_pictures, too_many_status=self.too_many_status
        )
        stripped = () if self.client_knobs else strip_knobs(fields)
        alone, spent_ms = not len(self.ledger), max(0.0, 1e3 * (now_seconds - received_seconds))
        decided = self._alone if alone or asked.kind != "ttft" else self._beside
        verdict = decided(asked, chat, now_seconds, spent_ms)
        promise = self._promise(asked, chat, verdict)
        rewrite(fields, chat, verdict, self.names, reports=asked.is_callers)
        entry = self.ledger.accept(
            received_seconds, text_tokens=chat.text_tokens, image_tokens=promise.image_tokens, config=promise.config
        )
        self._admit(entry, verdict.load, verdict.work, now_seconds)
        self.metrics.decisions[promise.config, promise.degraded] += 1
        return Ticket(
            promise=promise,
            decision=verdict.taken,
            entry=entry,
            body=cut.whole(body_of(fields)),
            received_seconds=received_seconds,
            alone=alone,
            teaches=not self._unlike(chat),
            stripped=stripped,
            caps=chat.caps,
            queued_with_seconds=_later(verdict.load.ttft_budget_seconds, spent_ms),
            spent_ms=spent_ms,
        )

    def accept_native(self, now_seconds: float) -> AcceptedRequest:
        """Enter a request without a budget, which passes as it came, until `finish_native`.

        It counts as what the last one with a budget would have under its largest configuration: nobody looked into it.
        """
        entry = self.ledger.accept(now_seconds)
        if self._native is not None:
            candidates = [LoadCandidate(accuracy=1.0, work=self._native)]
            decision = self.line.decide(candidates, now_seconds=now_seconds, ttft_budget_seconds=None)
            decision = replace(decision, found_empty=len(self.ledger) == 1)  # by itself
            self._admit(entry, decision, self._native, now_seconds)
        return entry

    def started(self, entry: AcceptedRequest, now_seconds: float) -> None:
        """Note that a request has the engine now, where they are served one at a time."""
        self.line.started(entry.number, now_seconds=now_seconds)

    def prefilled(self, entry: AcceptedRequest, now_seconds: float) -> None:
        """Note that a request's first token is there: it decodes from now on, and others come before it no more."""
        self.ledger.first_token(entry)
        self.line.prefilled(entry.number, now_seconds=now_seconds)

    def first_token(self, ticket: Ticket, ttft_ms: float) -> None:
        """Note when a request's first token was handed on, in milliseconds since its last byte."""
        ticket.ttft_ms = ttft_ms
        ticket.undisturbed = self.ledger.undisturbed(ticket.entry)
        self.prefilled(ticket.entry, ticket.received_seconds + ttft_ms / 1e3)

    def finish(self, ticket: Ticket, now_seconds: float) -> None:
        """Take a request out of the ledger and the line, however it ended, and learn from what was measured of it."""
        self.ledger.finish(ticket.entry)
        ticket.body = b""  # pictures: what is kept of a request is its report
        self.recent.append(ticket)
        asked, promise = ticket.promise.asked, ticket.promise
        measured_ms = ticket.ttft_ms if asked.kind == "ttft" else ticket.total_ms
        if promise.degraded:
            self.metrics.promises["none_fit"] += 1
        if measured_ms is not None:  # neither did the client go away before, nor did the engine fail it
            if promise.why_not is None:
                kept = measured_ms <= asked.ms
                self.metrics.promises["kept" if kept else "missed"] += 1
                if ticket.alone:  # the line has the accounts of the others
                    self.alone[asked.kind].settle(asked.ms, kept=kept)
            if asked.kind == "ttft":
                self.metrics.predicted_ttft.observe(promise.expected_ms / 1e3)
                self.metrics.measured_ttft.observe(measured_ms / 1e3)
            if ticket.teaches:
                self._learn(ticket, measured_ms)
        elif ticket.total_ms is None and 1e3 * (now_seconds - ticket.received_seconds) > asked.ms:
            self._note_passed(ticket)
        self.line.ended(ticket.entry.number, now_seconds=now_seconds)

    def _note_passed(self, ticket: Ticket) -> None:
        """Take note of a request that ended without an answer after its budget: if that was promised, the promise is broken."""
        asked = ticket.promise.asked
        if ticket.promise.why_not is not None:
            return
        self.metrics.promises["missed"] += 1
        if ticket.alone:
            self.alone[asked.kind].settle(asked.ms, kept=False)
        else:
            self.line.broken(ticket.entry.number)

    def _learn(self, ticket: Ticket, measured_ms: float) -> None:
        """Take what was measured as a score, of those that were alone or of those that had others beside them."""
        kind, bound_ms, own_ms = ticket.promise.asked.kind, ticket.promise.bound_ms, measured_ms - ticket.spent_ms
        if ticket.alone:
            if not ticket.undisturbed or ticket.entry.number <= WARM_UP_REQUESTS:
                return
            self.alone[kind].learn(ticket.decision, own_ms)
            self._set_price()
        elif kind == "ttft":
            self.line.measured(ticket.entry.number, own_ms / 1e3)
        if bound_ms is not None:
            covered = self.metrics.covered if ticket.alone else self.metrics.covered_beside
            covered.append(measured_ms <= bound_ms)

    def _admit(self, entry: AcceptedRequest, load: LoadDecision, work: PrefillWork, now_seconds: float) -> None:
        after = self.after_seconds()
        self.line.admit(entry.number, load, work, now_seconds=now_seconds, after_seconds=after)

    def _set_price(self) -> None:
        """Price the engine's time by what the largest configuration takes here, as far as that is known."""
        if self._price_at is not None:
            kind, controller = next(iter(self.controllers.items()))
            t0_ms = self.alone[kind].scores.pooled.median * largest_ms(controller, self.sizes)
            self.line.controller.price.settings = self._price_at(max(t0_ms, SMALLEST_LEFT_MS) / 1e3)

    def finish_native(self, entry: AcceptedRequest, now_seconds: float) -> None:
        """Take a request without a budget out of the ledger and the line, however it ended."""
        self.ledger.finish(entry)
        self.line.ended(entry.number, now_seconds=now_seconds)

    def recent_document(self) -> list[dict[str, Any]]:
        """Return the reports of the last hundred requests with a budget, the latest last, without a word of theirs."""
        return [ticket.document() for ticket in self.recent]

    def metrics_text(self, now_seconds: float) -> str:
        """Return the metrics of this process as Prometheus reads them."""
        pooled = next(iter(self.alone.values())).scores.pooled
        return self.metrics.text(
            calibration_requests=len(pooled),
            calibration_needed=pooled.needed,
            drift_factor=pooled.upper,
            unfinished=len(self.ledger),
            price_per_second=self.line.price_at(now_seconds),
            step_drift=self.line.controller.drift.factor,
        )

    def _stripped(self, body: bytes, cut: CutBody, fields: Fields | None) -> Reading:
        if self.client_knobs or fields is None:
            return Reading(body=body)
        kept = dict(fields)
        stripped = strip_knobs(kept)
        return Reading(body=cut.whole(body_of(kept)) if stripped else body, stripped=stripped)

    def _unasked(self, body: bytes, cut: CutBody, fields: Fields | None) -> Reading:
        """Return a chat without a budget, with the server's if it has one: not if it is too long or its caller sets the knobs."""
        if self.default_budget is not None and len(body) <= LARGEST_BODY_BYTES:
            fields = fields_of(cut.text) if fields is None else fields
            if fields is not None and not (self.client_knobs and strip_knobs(dict(fields))):
                return Reading(body=body, asked=self.default_budget, fields=fields, cut=cut)
        return self._stripped(body, cut, fields)

    def _require_kind(self, asked: AskedBudget) -> None:
        if asked.kind not in self.controllers:
            known = " or ".join(self.controllers)
            message = f"latency_budget_kind is {asked.kind!r}, which this server's controller does not bound; expected {known}"
            raise RequestRefusedError(message, param="latency_budget_kind")

    def _alone(self, asked: AskedBudget, chat: Chat, now_seconds: float, spent_ms: float) -> Verdict:
        """Decide by the bounds of requests that were alone; what a total with others beside it waits for is taken off."""
        wait_ms = 1e3 * self.line.wait_seconds(now_seconds=now_seconds)
        before_ms, left_ms = spent_ms + wait_ms, max(asked.ms - spent_ms, SMALLEST_LEFT_MS)
        tiers, alone = self._tiers_of(asked, chat), self.alone[asked.kind]
        scales = {tier: partial(alone.bounded_ms, asked.ms, tier) for tier in tiers}
        choice = choose(self.controllers[asked.kind], max(left_ms - wait_ms, SMALLEST_LEFT_MS), _features(chat), scales)
        self._native = self._work(asked, chat, choice.largest)
        if asked.on_infeasible == "refuse":
            self._refuse(refusal_alone(asked.ms, choice.allowed, least=choice.least, alone=alone, before_ms=before_ms))
        price = self.line.price_at(now_seconds)
        own_seconds = [alone.typical_ms(each) / 1e3 for each in choice.fitting]
        best = worthiest(
            [each.accuracy for each in choice.fitting], own_seconds, [True] * len(own_seconds), price_per_second=price
        )
        taken = choice.least if best is None else choice.fitting[best]
        scores, own_ms = alone.of(taken), alone.typical_ms(taken)
        bound_ms = None
        if scores.upper is not None:
            bound_ms = before_ms + alone.bounded_ms(asked.ms, taken.config.tier, needed_ms(taken))
        why_not = self._why_not_alone(scores.upper is None, asked, chat, taken)
        if why_not == NONE_BOUNDED and alone.fits_as_calibrated(asked.ms, choice.allowed, before_ms=before_ms):
            alone.withheld(asked.ms)
        load = LoadDecision(
            chosen=0,
            ttft_budget_seconds=left_ms / 1e3 if asked.kind == "ttft" else None,
            predicted_seconds=(wait_ms + own_ms) / 1e3,
            bound_seconds=None if bound_ms is None else (bound_ms - spent_ms) / 1e3,
            work_seconds=own_ms / 1e3,
            price_per_second=price,
            unpromised=why_not,
            is_least=len(choice.allowed) > 1 and own_ms <= min(map(alone.typical_ms, choice.allowed)),
            found_empty=not len(self.ledger),
        )
        return Verdict(
            taken=taken,
            load=load,
            work=self._work(asked, chat, taken),
            expected_ms=before_ms + own_ms,
            bound_ms=bound_ms,
            why_not=why_not,
            calibration_n=len(scores),
        )

    def _beside(self, asked: AskedBudget, chat: Chat, now_seconds: float, spent_ms: float) -> Verdict:
        """Decide by what the requests beside this one have yet to compute, and by the bounds of such requests."""
        found = options(self.controllers[asked.kind], _features(chat), self._tiers_of(asked, chat))
        candidates = [LoadCandidate(accuracy=each.accuracy, work=self._work(asked, chat, each)) for each in found]
        self._native = max(zip(found, candidates, strict=True), key=_size_of_first)[1].work
        budget, controller = max(asked.ms - spent_ms, SMALLEST_LEFT_MS) / 1e3, self.line.controller
        scores, kind = controller.scores, controller.kind(budget)
        load = self.line.decide(candidates, now_seconds=now_seconds, ttft_budget_seconds=budget)
        if asked.on_infeasible == "refuse":
            seconds = self.line.predicted_seconds(candidates, now_seconds=now_seconds, ttft_budget_seconds=budget)
            refusal = refusal_beside(
                asked.ms,
                found,
                predicted_ms=[1e3 * each for each in seconds],
                factors=(scores.lower_factor(kind), scores.factor(kind)),
                alone=self.alone[asked.kind],
                spent_ms=spent_ms,
            )
            self._refuse(refusal)
        taken, seen = found[load.chosen], scores.count(kind)
        reason = why_none_beside(load.unpromised, seen=seen, needed=scores.least)
        unknown = self._why_unknown(chat, taken)
        why_not = reason if reason is not None else unknown
        return Verdict(
            taken=replace(taken, within_budget=load.unpromised not in (NONE_FIT, RELEGATED)),
            load=replace(
                load,
                unpromised=load.unpromised or why_not,
                withheld=load.withheld and unknown is None,
                found_empty=not len(self.ledger),
            ),
            work=candidates[load.chosen].work,
            expected_ms=spent_ms + 1e3 * load.predicted_seconds,
            bound_ms=None if load.bound_seconds is None else spent_ms + 1e3 * load.bound_seconds,
            why_not=why_not,
            calibration_n=seen,
        )

    def _refuse(self, refusal: RequestRefusedError | None) -> None:
        if refusal is not None:
            self.metrics.promises["refused"] += 1
            raise refusal

    def _work(self, asked: AskedBudget, chat: Chat, decision: Decision) -> PrefillWork:
        """Return what a request has the engine compute up to its first token: of a total without the answer behind it."""
        tokens = chat.text_tokens + chat.image_tokens(decision.config.tier)
        answer_seconds = self.after_seconds() if asked.kind == "total" else 0.0
        own_seconds = self.alone[asked.kind].typical_ms(decision) / 1e3 - answer_seconds
        return self.line.work_of(max(1, tokens), own_seconds, configuration=decision.config.step_key)

    def _tiers_of(self, asked: AskedBudget, chat: Chat) -> list[str | None]:
        tiers = [tier for tier in chat.tiers if tier in self._tiers[asked.kind]]
        if not tiers:
            message = f"the controller has no configuration of the tiers {', '.join(map(str, chat.tiers))} that the caps leave"
            raise RequestRefusedError(message, param="messages")
        return tiers

    def _promise(self, asked: AskedBudget, chat: Chat, verdict: Verdict) -> Promise:
        taken = verdict.taken
        return Promise(
            asked=asked,
            config=taken.config if chat.plans is not None else replace(taken.config, tier=None),
            text_tokens=chat.text_tokens,
            image_tokens=chat.image_tokens(taken.config.tier),
            expected_ms=verdict.expected_ms,
            bound_ms=verdict.bound_ms,
            degraded=not taken.within_budget,
            why_not=verdict.why_not,
            alpha=self.alpha,
            calibration_n=verdict.calibration_n,
            cap_tokens=chat.cap_tokens,
        )

    def _why_not_alone(self, early: bool, asked: AskedBudget, chat: Chat, taken: Decision) -> str | None:
        if others := len(self.ledger):
            who = "another request is" if others == 1 else f"{others} other requests are"
            return f"{who} in the engine, and how long a whole answer takes beside that is not bounded"
        if early:
            pooled = self.alone[asked.kind].scores.pooled
            return f"{len(pooled)} of {pooled.needed} requests that calibrate the bound were answered alone so far"
        unknown = self._why_unknown(chat, taken)
        return unknown or (None if taken.within_budget else NONE_BOUNDED)

    def _why_unknown(self, chat: Chat, taken: Decision) -> str | None:
        if self._unlike(chat):
            what = "no picture" if not chat.pictures else f"{chat.pictures} pictures"
            return f"it has {what}, and what the controller knows comes from requests with one"
        return f"{', '.join(taken.outside)}: beyond what the controller was measured on" if taken.outside else None

    def _unlike(self, chat: Chat) -> bool:
        """Tell whether a request has no picture, or several, where those that the controller knows have one."""
        return chat.pictures > 1 or (not chat.pictures and None not in self.sizes.tiers)


def _later(budget_seconds: float | None, spent_ms: float) -> float | None:
    """Return a budget of what is left as one from the receipt."""
    return None if budget_seconds is None else budget_seconds + spent_ms / 1e3


def _features(chat: Chat) -> RequestFeatures:
    return RequestFeatures(text_tokens=chat.text_tokens, vision_tokens=chat.vision_tokens, pictures=chat.pictures)


def _size(decision: Decision) -> tuple[int, int, int]:
    return decision.config.size


def _size_of_first(pair: tuple[Decision, LoadCandidate]) -> tuple[int, int, int]:
    return _size(pair[0])
