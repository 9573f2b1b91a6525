"""Budgets as ASGI middleware before an engine's own OpenAI server: no route of its own, no proxy.

A request is read once its last byte is there, decided, and handed on with its configuration in it. Its answer passes through with
the report beside it. A request without a budget passes through as it came.
"""

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from paceline.errors import RequestRefusedError
from paceline.serving.answer import BudgetedAnswer, EngineTimes, refusal, stripped_header, with_headers
from paceline.serving.desk import CHAT_PATH, Desk
from paceline.serving.ledger import AcceptedRequest
from paceline.serving.ticket import Reading

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

METRICS_PATH, RECENT_PATH = "/metrics", "/paceline/recent"
# what this middleware and an application around or behind it tell each other, in a request's scope
RECEIVED, TICKET, TIMES = "paceline.received", "paceline.ticket", "paceline.times"
FETCHED = "paceline.fetched"  # milliseconds for which pictures at addresses were fetched, since it was received
# answers of these keep an engine busy, with or without a budget
ENGINE_PATHS = (
    CHAT_PATH,
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/systemone",
    "/cohere/v2/chat",
    "/inference/v1/generate",
    "/invocations",
    "/generate",
)
CURRENT: ContextVar[EngineTimes | None] = ContextVar("paceline_engine_times", default=None)


class BudgetMiddleware:
    """Puts budgets before an ASGI application: `desk` decides, `admits(scope)` says whose requests are read at all.

    `clock` is monotonic, in seconds; `wall` is the clock that an engine stamps its requests with.
    """

    def __init__(
        self,
        app: App,
        desk: Desk,
        *,
        admits: Callable[[Scope], bool] = lambda _: True,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.app, self.desk, self.admits, self.clock, self.wall = app, desk, admits, clock, wall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] == METRICS_PATH and scope["method"] == "GET":
            await self._metrics(scope, receive, send)
        elif scope["path"] == RECENT_PATH and scope["method"] == "GET" and self.admits(scope):
            await _json(send, self.desk.recent_document())
        elif scope["method"] == "POST" and _may_be_json(scope) and self.admits(scope):
            await self._post(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def stepped(self, prefill_tokens: int, decode_tokens: int, step_ms: float) -> None:
        """Take note of a step of the engine that has ended now."""
        self.desk.line.stepped(
            prefill_tokens=prefill_tokens,
            decode_tokens=decode_tokens,
            seconds=step_ms / 1e3,
            now_seconds=self.clock(),
        )

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = await received_parts(receive)
        if parts is None:  # the client left before its last byte
            return
        now, wall = self.clock(), self.wall()
        received = scope.get(RECEIVED, now)
        body = b"".join(parts)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        reading: Reading | None = None
        try:
            reading = self.desk.read(path, scope["headers"], body)
            if reading.asked is None:
                await self._without_budget(path, scope, reading, receive, send)
                return
            ticket = self.desk.accept(reading, received_seconds=received, now_seconds=now)
        except RequestRefusedError as refused:
            if reading is not None and reading.asked is not None and reading.asked.by_default:
                await self._without_budget(path, scope, self.desk.whole(reading), receive, send)
            else:
                await refusal(send, refused)
            return
        try:
            self.desk.metrics.decision_seconds.observe(self.clock() - received)
            scope[TICKET] = ticket
            times = self._times(ticket.entry)
            times.fetch_ms = scope.get(FETCHED)
            answer = BudgetedAnswer(send, self.desk, ticket, times, clock=self.clock, received_wall=wall)
            await self._told(times, _with_length(scope, ticket.body), replay(_body(ticket.body), receive), answer)
        finally:
            self.desk.finish(ticket, self.clock())

    async def _without_budget(self, path: str, scope: Scope, reading: Reading, receive: Receive, send: Send) -> None:
        receive = replay(_body(reading.body), receive)
        if reading.stripped:
            scope = _with_length(scope, reading.body)
            send = with_headers(send, stripped_header(reading.stripped))
        if path not in ENGINE_PATHS:
            await self.app(scope, receive, send)
            return
        entry = self.desk.accept_native(self.clock())
        times = self._times(entry)
        try:
            await self._told(times, scope, receive, send)
        finally:
            self.desk.finish_native(entry, self.clock())

    def _times(self, entry: AcceptedRequest) -> EngineTimes:
        return EngineTimes(
            on_first_token=lambda: self.desk.prefilled(entry, self.clock()),
            on_started=lambda: self.desk.started(entry, self.clock()),
        )

    async def _told(self, times: EngineTimes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose engine notes in `times` what it tells of it."""
        scope[TIMES], token = times, CURRENT.set(times)
        try:
            await self.app(scope, receive, send)
        finally:
            CURRENT.reset(token)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the server's own page and ours behind it: plain text, neither compressed nor OpenMetrics."""
        asked = [(name, value) for name, value in scope["headers"] if name not in (b"accept", b"accept-encoding")]
        start: Message | None = None
        parts: list[bytes] = []

        async def gather(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False) or start is None:
                return
            page = b"".join(parts)
            if start["status"] == 200:
                page += self.desk.metrics_text(self.clock()).encode()
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*headers, (b"content-length", str(len(page)).encode())]})
            await send({"type": "http.response.body", "body": page})

        await self.app({**scope, "headers": asked}, receive, gather)


def replay(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that gives a message that was taken before, and then what the client sends."""
    first: list[Message] = [message]

    async def receiving() -> Message:
        return first.pop() if first else await receive()

    return receiving


async def _json(send: Send, document: object) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _body(body: bytes) -> Message:
    return {"type": "http.request", "body": body, "more_body": False}


async def received_parts(receive: Receive) -> list[bytes] | None:
    """Return the parts of a request's body once its last byte is there; None where the client left before."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts


def _may_be_json(scope: Scope) -> bool:
    # of several the first counts, as for the servers behind: a second one lets nobody pass undecided
    kind = next((value.lower() for name, value in scope["headers"] if name == b"content-type"), b"")
    return not kind.startswith((b"multipart/", b"audio/"))


def _with_length(scope: Scope, body: bytes) -> Scope:
    kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")]
    return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
