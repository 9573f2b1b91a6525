"""Where a request with a budget is decided: its promise, its place in the ledger, and its body as the engine takes it.

Nothing is promised to a request that has another beside it when it is accepted: the time that it waits is expected here, and not
bounded. Clocks and engines are the host's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from paceline.control.choosing import Choice, choose, configurations, needed_ms
from paceline.control.controller import Controller
from paceline.errors import RequestRefusedError
from paceline.estimate.recent import ClassedScores
from paceline.records import Decision, RequestFeatures
from paceline.serving.chat import Chat, Sizes, read_chat
from paceline.serving.ledger import AcceptedRequest, Ledger, expected_wait_ms
from paceline.wire.body import Fields, body_of, fields_of, may_matter, raw, strip_knobs, value_of
from paceline.wire.budget import BUDGET_FIELD, BUDGET_FIELDS, AskedBudget, read_budget
from paceline.wire.cut_body import CutBody, cut_out
from paceline.wire.metrics import PromiseMetrics
from paceline.wire.report import Promise, ServerTiming

CHAT_PATH = "/v1/chat/completions"
LARGEST_BODY_BYTES = 100 * 1024 * 1024
WARM_UP_REQUESTS = 3  # a process's first are slow, and say nothing of those to come
SMALLEST_LEFT_MS = 1e-3  # of a budget that waiting has used up: the fastest is taken, marked
Headers = Sequence[tuple[bytes, bytes]]
Wait = Callable[[Ledger, float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobNames:
    """The names under which an engine takes top_k, active blocks and a budget among a request's extra arguments."""

    top_k: str
    active_blocks: str
    ttft_budget_ms: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a body holds: its budget (None without one), its fields where it was read, and the knobs taken out of it.

    The fields are those of `cut`, which holds the pictures that were cut out of them.
    """

    body: bytes
    asked: AskedBudget | None = None
    fields: Fields | None = None
    cut: CutBody | None = None
    stripped: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Ticket:
    """One accepted request: what was decided, its body for the engine, and what was measured of it so far.

    `alone` says that it was accepted by an idle engine and is of the kind that bounds are calibrated on.
    """

    promise: Promise
    decision: Decision
    entry: AcceptedRequest
    body: bytes
    received_seconds: float
    alone: bool
    stripped: tuple[str, ...]
    ttft_ms: float | None = None
    total_ms: float | None = None
    undisturbed: bool = True
    timing: ServerTiming = field(default_factory=ServerTiming)


class Desk:
    """Decides requests with a budget by a controller, and learns from what they took; for one event loop.

    `controllers` has one for each kind of budget that can be promised; the page of metrics tells the calibration of the first.
    `wait(ledger, now)` is what a request is expected to wait, in milliseconds. `most_pictures` are what the engine takes in
    one request, None for any number.
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
        wait: Wait = expected_wait_ms,
    ) -> None:
        self.controllers, self.sizes, self.alpha, self.names = dict(controllers), sizes, alpha, names
        self.client_knobs, self.most_pictures, self.wait = client_knobs, most_pictures, wait
        self.ledger = Ledger()
        self.metrics = PromiseMetrics(alpha=alpha)
        self.calibrations = {kind: ClassedScores(alpha) for kind in controllers}  # a tier is a class
        self._tiers = {kind: {each.tier for each in configurations(one)} for kind, one in controllers.items()}

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
            return self._stripped(body, cut, fields)
        fields = fields_of(cut.text) if fields is None else fields
        if fields is None:  # no JSON: the engine's server says so
            return Reading(body=body)
        if len(body) > LARGEST_BODY_BYTES:
            message = f"the body has {len(body):,} bytes; expected at most {LARGEST_BODY_BYTES:,} with a budget"
            raise RequestRefusedError(message, status=413, code="request_too_large")
        self._require_kind(asked)
        return Reading(body=body, asked=asked, fields=fields, cut=cut)

    def accept(self, reading: Reading, *, received_seconds: float, now_seconds: float) -> Ticket:
        """Decide a request with a budget and enter it in the ledger, until `finish`.

        Raises RequestRefusedError for a chat that no decision can be made on, and where the caller would rather be refused:
        422 for a budget that not even an idle engine keeps, 429 for one that this engine does not keep now.
        """
        assert reading.asked is not None and reading.fields is not None and reading.cut is not None
        asked, fields, cut = reading.asked, dict(reading.fields), reading.cut
        chat = read_chat(fields, self.sizes, cut, most_pictures=self.most_pictures)
        stripped = () if self.client_knobs else strip_knobs(fields)
        wait_ms = self.wait(self.ledger, now_seconds)
        choice = self._choice(asked, chat, wait_ms)
        if asked.on_infeasible == "refuse":
            self._refuse_infeasible(asked, choice, wait_ms)
        promise = self._promise(asked, chat, choice.taken, wait_ms)
        self._rewrite(fields, asked, chat, choice.taken)
        alone = not len(self.ledger) and not self._unlike(chat)
        entry = self.ledger.accept(
            received_seconds,
            text_tokens=chat.text_tokens,
            image_tokens=promise.image_tokens,
            config=promise.config,
            deadline_seconds=received_seconds + asked.ms / 1e3,
            expected_ms=promise.expected_ms - wait_ms,
        )
        self.metrics.decisions[promise.config, promise.degraded] += 1
        return Ticket(
            promise=promise,
            decision=choice.taken,
            entry=entry,
            body=cut.whole(body_of(fields)),
            received_seconds=received_seconds,
            alone=alone,
            stripped=stripped,
        )

    def first_token(self, ticket: Ticket, ttft_ms: float) -> None:
        """Note when a request's first token was handed on, in milliseconds since its last byte."""
        ticket.ttft_ms = ttft_ms
        ticket.undisturbed = self.ledger.undisturbed(ticket.entry)
        self.ledger.first_token(ticket.entry)

    def finish(self, ticket: Ticket) -> None:
        """Take a request out of the ledger, however it ended, and learn from what was measured of it."""
        self.ledger.finish(ticket.entry)
        asked, promise = ticket.promise.asked, ticket.promise
        measured_ms = ticket.ttft_ms if asked.kind == "ttft" else ticket.total_ms
        if promise.degraded:
            self.metrics.promises["none_fit"] += 1
        if measured_ms is None:  # the client went away, or the engine failed it
            return
        if promise.why_not is None:
            self.metrics.promises["kept" if measured_ms <= asked.ms else "missed"] += 1
        if asked.kind == "ttft":
            self.metrics.predicted_ttft.observe(promise.expected_ms / 1e3)
            self.metrics.measured_ttft.observe(measured_ms / 1e3)
        if ticket.alone and ticket.undisturbed and ticket.entry.number > WARM_UP_REQUESTS:
            if promise.bound_ms is not None:
                self.metrics.covered.append(measured_ms <= promise.bound_ms)
            tier = ticket.decision.config.tier
            self.calibrations[asked.kind].observe(tier, measured_ms, needed_ms(ticket.decision))

    def metrics_text(self) -> str:
        """Return the metrics of this process as Prometheus reads them."""
        pooled = next(iter(self.calibrations.values())).pooled
        return self.metrics.text(
            calibration_requests=len(pooled), drift_factor=pooled.upper, unfinished=len(self.ledger)
        )

    def _stripped(self, body: bytes, cut: CutBody, fields: Fields | None) -> Reading:
        if self.client_knobs or fields is None:
            return Reading(body=body)
        kept = dict(fields)
        stripped = strip_knobs(kept)
        return Reading(body=cut.whole(body_of(kept)) if stripped else body, stripped=stripped)

    def _require_kind(self, asked: AskedBudget) -> None:
        if asked.kind not in self.controllers:
            known = " or ".join(self.controllers)
            message = f"latency_budget_kind is {asked.kind!r}, which this server's controller does not bound; expected {known}"
            raise RequestRefusedError(message, param="latency_budget_kind")

    def _choice(self, asked: AskedBudget, chat: Chat, wait_ms: float) -> Choice:
        features = RequestFeatures(
            text_tokens=chat.text_tokens, vision_tokens=chat.vision_tokens, pictures=chat.pictures
        )
        controller, left_ms = self.controllers[asked.kind], max(asked.ms - wait_ms, SMALLEST_LEFT_MS)
        tiers = [tier for tier in chat.tiers if tier in self._tiers[asked.kind]]
        if not tiers:
            message = f"the controller has no configuration of the tiers {', '.join(map(str, chat.tiers))} that the caps leave"
            raise RequestRefusedError(message, param="messages")
        return choose(controller, left_ms, features, {tier: self._factor(asked, tier) for tier in tiers})

    def _factor(self, asked: AskedBudget, tier: str | None) -> float:
        return self.calibrations[asked.kind].of(tier).upper or 1.0

    def _promise(self, asked: AskedBudget, chat: Chat, taken: Decision, wait_ms: float) -> Promise:
        scores = self.calibrations[asked.kind].of(taken.config.tier)
        bound_ms = None if scores.upper is None else wait_ms + scores.upper * needed_ms(taken)
        image_tokens = chat.image_tokens(taken.config.tier)
        config = taken.config if chat.plans is not None else replace(taken.config, tier=None)
        return Promise(
            asked=asked,
            config=config,
            text_tokens=chat.text_tokens,
            image_tokens=image_tokens,
            expected_ms=wait_ms + scores.median * needed_ms(taken),
            bound_ms=bound_ms,
            degraded=not taken.within_budget,
            why_not=self._why_not(scores.upper is None, asked, chat, taken),
            alpha=self.alpha,
            calibration_n=len(scores),
            cap_tokens=chat.cap_tokens,
        )

    def _why_not(self, early: bool, asked: AskedBudget, chat: Chat, taken: Decision) -> str | None:
        if others := len(self.ledger):
            who = "another request is" if others == 1 else f"{others} other requests are"
            return f"{who} in the engine, and how long this one waits for that is not bounded"
        if early:
            pooled = self.calibrations[asked.kind].pooled
            return f"{len(pooled)} of {pooled.needed} requests that calibrate the bound were answered alone so far"
        if self._unlike(chat):
            what = "no picture" if not chat.pictures else f"{chat.pictures} pictures"
            return f"it has {what}, and what the controller knows comes from requests with one"
        if taken.outside:
            return f"{', '.join(taken.outside)}: beyond what the controller was measured on"
        return None if taken.within_budget else "no configuration is bounded by this budget"

    def _unlike(self, chat: Chat) -> bool:
        """Tell whether a request has no picture, or several, where those that the controller knows have one."""
        return chat.pictures > 1 or (not chat.pictures and None not in self.sizes.tiers)

    def _refuse_infeasible(self, asked: AskedBudget, choice: Choice, wait_ms: float) -> None:
        """Refuse what surely cannot be: the least of all configurations takes longer, but for a share α of requests."""
        least = choice.least
        scores = self.calibrations[asked.kind].of(least.config.tier)
        if scores.lower is None:
            return
        surely_ms, upper = scores.lower * needed_ms(least), scores.upper or 1.0
        if surely_ms > asked.ms:
            self.metrics.promises["refused"] += 1
            least_ms = math.ceil(100 * upper * needed_ms(least)) / 100
            raise RequestRefusedError(
                f"no configuration keeps {asked.ms:g} ms, not even on an idle machine: {least.config.key} needs {least_ms:g} ms; "
                "ask for at least that, or say on_infeasible degrade",
                status=422,
                code="budget_infeasible",
                param=BUDGET_FIELD,
                details={"least_budget_ms": least_ms, "config": least.config.key},
            )
        if wait_ms + surely_ms > asked.ms:
            self.metrics.promises["refused"] += 1
            raise RequestRefusedError(
                f"{asked.ms:g} ms are kept on an idle engine, and the requests ahead are expected to take {wait_ms:.0f} ms; ask "
                "again later, or say on_infeasible degrade",
                status=429,
                code="budget_contended",
                param=BUDGET_FIELD,
                details={"expected_wait_ms": round(wait_ms, 3)},
                headers={"retry-after": str(max(1, math.ceil(wait_ms / 1e3)))},
            )

    def _rewrite(self, fields: Fields, asked: AskedBudget, chat: Chat, taken: Decision) -> None:
        """Turn a request's fields into what the engine takes: the budget out, its configuration in."""
        for name in BUDGET_FIELDS:
            fields.pop(name, None)
        if chat.plans is None:
            fields.pop("mm_processor_kwargs", None)
        else:
            fields["mm_processor_kwargs"] = raw(dict(chat.plans[taken.config.tier].arguments))
        given = value_of(fields, "vllm_xargs")
        knobs = {
            self.names.top_k: taken.config.top_k,
            self.names.active_blocks: taken.config.num_active_blocks,
            self.names.ttft_budget_ms: asked.ms if asked.kind == "ttft" else None,
        }
        extra = {**(given if isinstance(given, dict) else {}), **{k: v for k, v in knobs.items() if v is not None}}
        if extra:
            fields["vllm_xargs"] = raw(extra)
        if value_of(fields, "stream"):
            options = value_of(fields, "stream_options")
            fields["stream_options"] = raw({**(options if isinstance(options, dict) else {}), "include_usage": True})
