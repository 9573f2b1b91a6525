"""What a budgeted answer says of itself: the object `paceline` in its body, the headers at its first byte, an error's body."""

import json
from dataclasses import dataclass
from typing import Any

from paceline.errors import RequestRefusedError
from paceline.records import KnobConfig
from paceline.wire.budget import AskedBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTiming:
    """The stages of a request up to its first token, in milliseconds; None for one that was not measured or did not run.

    `fetch` is how long its pictures took to come from the addresses it names; `preprocess` is from its last byte until the engine
    has it, decision and image processor included; `queue` until it is first scheduled; `vision` the image encoder; `prefill` the
    rest up to the first token.
    """

    fetch: float | None = None
    preprocess: float | None = None
    queue: float | None = None
    vision: float | None = None
    prefill: float | None = None

    @property
    def stages(self) -> dict[str, float]:
        """The measured stages by name, in their order."""
        named = {name: getattr(self, name) for name in ("fetch", "preprocess", "queue", "vision", "prefill")}
        return {name: ms for name, ms in named.items() if ms is not None}

    def header(self) -> str:
        """Return the value of the header `Server-Timing` (W3C), empty where no stage was measured."""
        return ", ".join(f"{name};dur={ms:.2f}" for name, ms in self.stages.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What was decided for one request before it ran.

    `expected_ms` and `bound_ms` cover waiting as far as it is predicted; the bound is None before enough requests have
    calibrated it. `why_not` says why nothing is promised, None where it is. `cap_tokens` are the image tokens that the caller
    allows at most, where it said so.
    """

    asked: AskedBudget
    config: KnobConfig
    text_tokens: int
    image_tokens: int
    expected_ms: float
    bound_ms: float | None
    degraded: bool
    why_not: str | None
    alpha: float
    calibration_n: int
    cap_tokens: int | None = None

    def headers(self, timing: ServerTiming) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer, as ASGI has them."""
        found = {"x-paceline-config": self.config.key, "server-timing": timing.header()}
        if self.bound_ms is not None:
            found["x-paceline-bound-ms"] = f"{self.bound_ms:.2f}"
        return [(name.encode(), value.encode()) for name, value in found.items() if value]

    def document(self, *, ttft_ms: float | None, total_ms: float) -> dict[str, Any]:
        """Return the object `paceline` of the answer's body."""
        measured = ttft_ms if self.asked.kind == "ttft" else total_ms
        document: dict[str, Any] = {
            "config": {
                "tier": self.config.tier,
                "top_k": self.config.top_k,
                "num_active_blocks": self.config.num_active_blocks,
            },
            "image_tokens": self.image_tokens,
            "budget_ms": self.asked.ms,
            "budget_kind": self.asked.kind,
            "bound_ms": _rounded(self.bound_ms),
            "expected_ms": _rounded(self.expected_ms),
            "ttft_ms": _rounded(ttft_ms),
            "total_ms": _rounded(total_ms),
            "within_budget": None if measured is None else measured <= self.asked.ms,
            "promised": self.why_not is None,
            "degraded": self.degraded,
            "alpha": self.alpha,
            "calibration_n": self.calibration_n,
        }
        if self.asked.by_default:
            document["budget_by_default"] = True
        if self.why_not is not None:
            document["not_promised_because"] = self.why_not
        if self.cap_tokens is not None:
            document["cap"] = {"image_tokens": self.cap_tokens, "undercut": self.image_tokens < self.cap_tokens}
        return document


def error_body(refused: RequestRefusedError) -> bytes:
    """Return OpenAI's error object for a request that is refused."""
    kinds = {400: "invalid_request_error", 429: "rate_limit_error"}
    error = {
        "message": str(refused),
        "type": kinds.get(refused.status, "invalid_request_error"),
        "param": refused.param,
        "code": refused.code,
        **refused.details,
    }
    return json.dumps({"error": error}).encode()


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)
