"""A request on its way past the desk: what its body holds, and, once it is accepted, what was decided and measured of it."""

from dataclasses import dataclass, field
from typing import Any

from paceline.records import Decision
from paceline.serving.ledger import AcceptedRequest
from paceline.wire.body import Fields
from paceline.wire.budget import AskedBudget
from paceline.wire.cut_body import CutBody
from paceline.wire.report import Promise, ServerTiming


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

    `alone` says that it was accepted by an idle engine. `teaches` says that it is of the kind that bounds are calibrated on.
    `caps` are the most tokens of each picture that its caller allows, empty where none was named. `queued_with_seconds` is the
    budget that it stands in the engine's order with, from when it was received on, None where it has none or was relegated.
    `spent_ms` is what had passed since then when it was decided.
    """

    promise: Promise
    decision: Decision
    entry: AcceptedRequest
    body: bytes
    received_seconds: float
    alone: bool
    teaches: bool
    stripped: tuple[str, ...]
    caps: tuple[int | None, ...] = ()
    queued_with_seconds: float | None = None
    spent_ms: float = 0.0
    ttft_ms: float | None = None
    total_ms: float | None = None
    undisturbed: bool = True
    timing: ServerTiming = field(default_factory=ServerTiming)

    def document(self) -> dict[str, Any]:
        """Return the report of a finished request, with its number, its text tokens and its stages in milliseconds."""
        answered = self.total_ms is not None
        report = self.promise.document(ttft_ms=self.ttft_ms, total_ms=self.total_ms or 0.0)
        stages = self.timing.stages
        if self.total_ms is not None and self.ttft_ms is not None:
            stages["decode"] = max(0.0, self.total_ms - self.ttft_ms)
        return {
            **report,
            "total_ms": report["total_ms"] if answered else None,
            "within_budget": report["within_budget"] if answered or self.promise.asked.kind == "ttft" else None,
            "number": self.entry.number,
            "answered": answered,
            "text_tokens": self.promise.text_tokens,
            "stages": {name: round(ms, 3) for name, ms in stages.items()},
        }
