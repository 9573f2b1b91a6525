"""The answer to a request with a budget on its way to the client: measured, with its headers at the first byte and its report."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from paceline.errors import RequestRefusedError
from paceline.serving.desk import Desk
from paceline.serving.ticket import Ticket
from paceline.wire.events import EventSplitter, holds_token, with_report
from paceline.wire.report import ServerTiming, error_body

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
STREAM = b"text/event-stream"


@dataclass(slots=True)
class EngineTimes:
    """What an engine told of one request: when it was handed over and had its first token, and the stages between in ms; None for
    what it does not tell.

    Moments are by the wall clock, or, from an engine in the server's own process, by the clock that receipts are stamped with.
    `on_first_token` is called once it is there: an answer that does not stream reaches nobody before its end. `on_started` is
    called by an engine that serves one request at a time, once it is this one's turn.
    """

    handed_over_wall: float | None = None
    first_token_wall: float | None = None
    first_token_seconds: float | None = None
    fetch_ms: float | None = None
    queue_ms: float | None = None
    preprocess_ms: float | None = None
    vision_ms: float | None = None
    prefill_ms: float | None = None
    on_first_token: Callable[[], None] | None = None
    on_started: Callable[[], None] | None = None

    def started(self, queue_ms: float) -> None:
        """Note that it is this request's turn, after so long a wait."""
        self.queue_ms = queue_ms
        if self.on_started is not None:
            self.on_started()

    def prefilled_at(self, seconds: float) -> None:
        """Note when the first token was there, by the clock of receipts."""
        self.first_token_seconds = seconds
        if self.on_first_token is not None:
            self.on_first_token()

    def first_token_at(self, wall_seconds: float) -> None:
        """Note when the first token was there, by the wall clock."""
        self.first_token_wall = wall_seconds
        if self.on_first_token is not None:
            self.on_first_token()


class BudgetedAnswer:
    """A `send` that holds an answer's start until its first byte, and puts the report into its body.

    A time to first token ends where the first token is handed to the socket. An answer that does not stream hands it over with
    its last one: there it ends where the server had it from its engine.
    """

    def __init__(
        self,
        send: Send,
        desk: Desk,
        ticket: Ticket,
        times: EngineTimes,
        *,
        clock: Callable[[], float],
        received_wall: float,
    ) -> None:
        self._send, self._desk, self._ticket, self._times = send, desk, ticket, times
        self._clock, self._received_wall = clock, received_wall
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self._events = EventSplitter()
        self._next = self._begin

    async def __call__(self, message: Message) -> None:
        """Hand one message on, or hold it."""
        await self._next(message)

    async def _begin(self, message: Message) -> None:
        if message["type"] != "http.response.start" or message["status"] != 200:
            self._next = self._send  # an error of the server's own
            await self._send(message)
            return
        self._start = message
        kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
        self._next = self._stream if any(kind.startswith(STREAM) for kind in kinds) else self._whole

    async def _stream(self, message: Message) -> None:
        events = self._events.feed(message.get("body", b""))
        first = self._ticket.ttft_ms is None and any(holds_token(event) for event in events)
        out = b"".join(self._reported(event) for event in events)
        more = message.get("more_body", False)
        if not more:
            out += self._events.rest()
            self._ticket.total_ms = self._elapsed_ms()
        if out or not more:
            await self._send_start([])
            await self._send({"type": "http.response.body", "body": out, "more_body": more})
        if first:
            self._desk.first_token(self._ticket, self._elapsed_ms())

    def _reported(self, event: bytes) -> bytes:
        if b'"usage"' not in event:
            return event
        return with_report(event, self._report(self._ticket.ttft_ms)) or event

    async def _whole(self, message: Message) -> None:
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self._parts)
        ttft_ms = self._told_ttft_ms()
        if ttft_ms is not None:
            self._desk.first_token(self._ticket, ttft_ms)
        self._ticket.total_ms = self._elapsed_ms()
        inside = body.rstrip()
        if (
            inside.endswith(b"}") and len(inside) > 2
        ):  # a JSON object: the report is its last field, the rest as it came
            report = json.dumps(self._report(self._ticket.ttft_ms)).encode()
            body = inside[:-1] + b',"paceline":' + report + b"}"
        await self._send_start([(b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})

    def _told_ttft_ms(self) -> float | None:
        times = self._times
        if times.first_token_seconds is not None:
            return 1e3 * (times.first_token_seconds - self._ticket.received_seconds)
        if times.first_token_wall is not None:
            return max(0.0, 1e3 * (times.first_token_wall - self._received_wall))
        return None

    async def _send_start(self, length: list[tuple[bytes, bytes]]) -> None:
        if self._start is None:
            return
        start, self._start = self._start, None
        self._ticket.timing = self._timing()
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        ours = self._ticket.promise.headers(self._ticket.timing)
        await self._send({**start, "headers": [*kept, *length, *ours, *stripped_header(self._ticket.stripped)]})

    def _timing(self) -> ServerTiming:
        times = self._times
        preprocess_ms = times.preprocess_ms
        if times.handed_over_wall is not None:
            preprocess_ms = max(0.0, 1e3 * (times.handed_over_wall - self._received_wall))
        return ServerTiming(
            fetch=times.fetch_ms,
            preprocess=preprocess_ms,
            queue=times.queue_ms,
            vision=times.vision_ms,
            prefill=times.prefill_ms,
        )

    def _report(self, ttft_ms: float | None) -> dict[str, Any]:
        return self._ticket.promise.document(ttft_ms=ttft_ms, total_ms=self._elapsed_ms())

    def _elapsed_ms(self) -> float:
        return max(0.0, 1e3 * (self._clock() - self._ticket.received_seconds))


def stripped_header(stripped: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
    """Return the header that names what was taken out of a request; none where nothing was."""
    # names come from clients: what no header can hold is left out
    named = "".join(letter for letter in ", ".join(stripped)[:400] if letter.isascii() and letter.isprintable())
    return [(b"x-paceline-stripped", named.encode())] if stripped else []


def with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    """Return a `send` that adds headers to an answer's start."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return adding


async def refusal(send: Send, refused: RequestRefusedError) -> None:
    """Answer a request that is refused."""
    body = error_body(refused)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
