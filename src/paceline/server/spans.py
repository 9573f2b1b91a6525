"""OpenTelemetry's spans of a chat: the request, and in it fetch, queue, preprocess, vision, prefill and decode.

Needs the extra `otel`. Attributes have the names of OpenTelemetry's conventions for generative AI where there is one, and
`paceline.` before them elsewhere. No word of a prompt is among them. The wall clock is read once a request; all moments in it
are differences of the server's monotonic clock.
"""

from collections.abc import Iterable
from typing import Any

from paceline.errors import MissingExtraError
from paceline.server.gate import Scope, Visit
from paceline.server.question import OUTCOME, Outcome
from paceline.serving.middleware import RECEIVED, TICKET
from paceline.serving.ticket import Ticket

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("opentelemetry"):
        raise
    raise MissingExtraError("opentelemetry-sdk", "otel") from error

Attributes = dict[str, str | int | float | bool | list[str]]
REPORTED = ("budget_ms", "budget_kind", "bound_ms", "expected_ms", "ttft_ms", "promised", "degraded", "within_budget")


def exporter_to(endpoint: str) -> SpanExporter:
    """Return what sends spans to a collector, by OTLP over HTTP."""
    return OTLPSpanExporter(endpoint=endpoint)


class ChatSpans:
    """Makes the spans of each chat once it has ended; `close` sends those that wait."""

    def __init__(self, exporter: SpanExporter, *, model: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": "paceline"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("paceline.server")
        self._model, self._callers = model, TraceContextTextMapPropagator()

    def __call__(self, scope: Scope, visit: Visit) -> None:
        """Make the spans of one request; of others than chats none."""
        outcome: Outcome | None = scope.get(OUTCOME)
        if outcome is None or not outcome.request_id:
            return

        def wall_ns(seconds: float) -> int:
            return round(1e9 * (visit.wall + seconds - visit.started))

        span = self._tracer.start_span(
            f"chat {self._model}",
            context=self._callers.extract(_carrier(scope)),
            kind=SpanKind.SERVER,
            start_time=wall_ns(visit.started),
            attributes=self._attributes(scope, visit, outcome),
        )
        if outcome.error is not None or visit.status >= 500:
            span.set_status(Status(StatusCode.ERROR, outcome.error))
        inside = set_span_in_context(span)
        for name, first, last in _stages(scope, visit, outcome):
            # an engine's own clock may tell a little more than there was
            begun = min(max(first, visit.started), visit.ended)
            stage = self._tracer.start_span(name, context=inside, start_time=wall_ns(begun))
            stage.end(wall_ns(min(max(begun, last), visit.ended)))
        span.end(wall_ns(visit.ended))

    def close(self) -> None:
        """Send what waits to be sent."""
        self._provider.shutdown()

    def _attributes(self, scope: Scope, visit: Visit, outcome: Outcome) -> Attributes:
        config = None if outcome.config is None else outcome.config.key
        known: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "paceline",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.id": outcome.request_id,
            "gen_ai.response.finish_reasons": None if outcome.finish_reason is None else [outcome.finish_reason],
            "gen_ai.usage.input_tokens": outcome.prompt_tokens,
            "gen_ai.usage.output_tokens": outcome.completion_tokens,
            "http.request.method": scope["method"],
            "http.response.status_code": visit.status,
            "url.path": scope["path"],
            "error.type": outcome.error,
            "paceline.config": config,
            "paceline.pictures": outcome.pictures,
            **_reported(scope.get(TICKET)),
        }
        return {name: value for name, value in known.items() if value is not None}


def _reported(ticket: Ticket | None) -> dict[str, Any]:
    report = {} if ticket is None else ticket.document()
    return {f"paceline.{name}": report[name] for name in REPORTED if name in report}


def _carrier(scope: Scope) -> dict[str, str]:
    wanted = (b"traceparent", b"tracestate")
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in wanted}


def _stages(scope: Scope, visit: Visit, outcome: Outcome) -> Iterable[tuple[str, float, float]]:
    """Give the stages that ran, with the moments between which they did."""
    times = outcome.times
    received: float = scope.get(RECEIVED, visit.started)
    if times.queue_ms is None:
        return
    fetched = received + (times.fetch_ms or 0.0) / 1e3
    begun = fetched + times.queue_ms / 1e3
    if times.fetch_ms is not None:
        yield "fetch", received, fetched
    yield "queue", fetched, begun
    token = times.first_token_seconds
    if token is None:
        return
    prefilled = token - (times.prefill_ms or 0.0) / 1e3
    yield "preprocess", begun, begun + (times.preprocess_ms or 0.0) / 1e3
    if times.vision_ms:
        yield "vision", prefilled - times.vision_ms / 1e3, prefilled
    yield "prefill", prefilled, token
    yield "decode", token, visit.ended if outcome.ended_seconds is None else outcome.ended_seconds
