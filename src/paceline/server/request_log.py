"""One JSON line a request: what was asked, decided, promised and measured, and no word of a prompt unless that is wanted."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from paceline.server.gate import Scope, Visit
from paceline.server.question import OUTCOME, Outcome
from paceline.serving.middleware import TICKET
from paceline.serving.ticket import Ticket

MOST_LETTERS = 4096  # of a prompt that is logged
QUIET = ("/health", "/metrics")  # asked every few seconds by those who watch
PROMISED = ("budget_ms", "budget_kind", "bound_ms", "expected_ms", "ttft_ms", "within_budget", "promised", "degraded")


class RequestLog:
    """Writes the lines; `write` takes one of them, with its end."""

    def __init__(self, write: Callable[[str], object], *, prompts: bool = False) -> None:
        self._write, self._prompts = write, prompts

    def __call__(self, scope: Scope, visit: Visit) -> None:
        """Write the line of one request that has ended."""
        if scope["path"] in QUIET and visit.status < 400:
            return
        document = request_document(scope, visit)
        if self._prompts and getattr(scope.get(OUTCOME), "request_id", ""):
            document["messages"] = _texts(visit.body)
        self._write(json.dumps(document, separators=(",", ":")) + "\n")


def request_document(scope: Scope, visit: Visit) -> dict[str, Any]:
    """Return what a request's line says; times in milliseconds, `time` by the wall clock."""
    document: dict[str, Any] = {
        "time": datetime.fromtimestamp(visit.wall, UTC).isoformat(timespec="milliseconds"),
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": visit.status,
        "duration_ms": round(1e3 * (visit.ended - visit.started), 3),
        "body_bytes": visit.held_bytes,
    }
    outcome: Outcome | None = scope.get(OUTCOME)
    if outcome is not None and outcome.request_id:
        document |= _outcome_document(outcome)
    ticket: Ticket | None = scope.get(TICKET)
    if ticket is not None:
        report = ticket.document()
        document |= {name: report[name] for name in PROMISED}
    return document


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    times = outcome.times
    stages = {
        "fetch_ms": times.fetch_ms,
        "queue_ms": times.queue_ms,
        "preprocess_ms": times.preprocess_ms,
        "vision_ms": times.vision_ms,
        "prefill_ms": times.prefill_ms,
    }
    return {
        "request_id": outcome.request_id,
        "stream": outcome.streamed,
        "pictures": outcome.pictures,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "finish_reason": outcome.finish_reason,
        "error": outcome.error,
        "config": None if outcome.config is None else outcome.config.key,
        **{name: None if ms is None else round(ms, 3) for name, ms in stages.items()},
    }


def _texts(body: bytes) -> list[dict[str, Any]]:
    """Return the messages of a body with their texts alone, shortened."""
    messages: list[dict[str, Any]] = json.loads(body)["messages"]
    return [{"role": message.get("role"), "text": _text(message.get("content"))} for message in messages]


def _text(content: Any) -> str:
    parts: list[Any] = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))[:MOST_LETTERS]
