"""Clients and their connections as an ASGI server sees them: uvicorn's meaning of receive, send and a client that is gone.

A body comes in parts, each when it comes; a client may stop in the middle, read slowly or never, and leave between any two
callbacks of the loop. A half-open stream is one whose client neither goes on nor leaves.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from virtual_loop import VirtualLoop

from paceline.server.gate import ABORT

EXCHANGE = "simulation.exchange"  # in a request's scope
WHOSE: ContextVar["Exchange"] = ContextVar("simulated_exchange")  # in its task, and in those that it begins


@dataclass(kw_only=True)
class Ask:
    """One request as its client makes it; `at` and `gap` in seconds.

    `stalls_after` parts nothing more comes of its body; `leaves_ticks` callbacks after its arrival, `leaves_at` seconds after it
    or with the n-th message of its answer its client is gone. `reads` is how many seconds the client takes for a message, None
    for one that takes none at all after the first `takes`.
    """

    number: int
    at: float
    body: bytes = b""
    method: str = "POST"
    path: str = "/v1/chat/completions"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    parts: int = 1
    gap: float = 0.0
    stalls_after: int | None = None
    leaves_ticks: int | None = None
    leaves_at: float | None = None
    leaves_with_message: int | None = None
    reads: float | None = 0.0
    takes: int = 0
    told: dict[str, Any] = field(default_factory=dict)  # what the oracle knows of it

    @property
    def stays(self) -> bool:
        """Whether its client sends all and takes all."""
        leaving = (self.leaves_ticks, self.leaves_at, self.leaves_with_message, self.stalls_after)
        return all(each is None for each in leaving) and self.reads is not None


class Exchange:
    """One request on its way and its answer."""

    def __init__(self, loop: VirtualLoop, ask: Ask, trace: Callable[..., None]) -> None:
        self.loop, self.ask, self._trace = loop, ask, trace
        self.messages: list[tuple[float, int, dict[str, Any]]] = []  # when, at which tick, what
        self.gone = self.answered = self.refused_connection = False
        self.received_at: float | None = None  # when the server took the last byte
        self.received_tick, self.gone_tick, self.gone_at = 0, 0, 0.0
        self.started_at, self.ended_at, self.ended_tick = 0.0, None, 0
        self.error: BaseException | None = None
        self.problems: list[str] = []
        self.finished = 0  # how often the server told that it has ended
        self.scope_at_end: dict[str, Any] = {}
        self.visit: Any = None
        self.entry: int | None = None  # its number in the ledger, from 1 on
        self.waiting_at_answer: int | None = None  # in the engine, when the answer began
        self.count_waiting: Callable[[], int] = lambda: 0
        self.task: asyncio.Task[None] | None = None
        self._incoming: list[dict[str, Any]] = []
        self._event = asyncio.Event()
        self._drained = asyncio.Event()
        self._paused, self._body_ended = False, False

    def start(self, app: Any) -> None:
        """The head of the request has come: the server answers from now on."""
        ask = self.ask
        self.started_at = self.loop.now
        at = [len(ask.body) * part // ask.parts for part in range(ask.parts + 1)]
        for part in range(ask.parts):
            if ask.stalls_after is not None and part >= ask.stalls_after:
                break
            message = {
                "type": "http.request",
                "body": ask.body[at[part] : at[part + 1]],
                "more_body": part + 1 < ask.parts,
            }
            if part and ask.gap:
                self.loop.call_later(part * ask.gap, self._come, message)
            else:
                self._come(message)
        if ask.leaves_ticks is not None:
            self.loop.after_ticks(ask.leaves_ticks, self.leave)
        if ask.leaves_at is not None:
            self.loop.call_later(ask.leaves_at, self.leave)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ask.body)).encode())]
        given = {name for name, _ in ask.headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": ask.method,
            "scheme": "http",
            "path": ask.path,
            "raw_path": ask.path.encode(),
            "query_string": b"",
            "root_path": "",
            "client": ("192.0.2.1", 1),
            "server": ("192.0.2.2", 80),
            "headers": [*(pair for pair in headers if pair[0] not in given), *ask.headers],
            EXCHANGE: self,
            ABORT: lambda: self.loop.call_soon(self.leave),
        }
        self.task = self.loop.create_task(self._run(app, scope))

    async def _run(self, app: Any, scope: dict[str, Any]) -> None:
        WHOSE.set(self)
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            self.error = error
        finally:
            self.ended_at, self.ended_tick = self.loop.now, self.loop.ticks
            self._trace("end", self.ask.number, self.loop.now, repr(self.error))

    def leave(self) -> None:
        """The client is gone, or its connection was given up."""
        if not self.gone:
            self.gone, self.gone_tick, self.gone_at = True, self.loop.ticks, self.loop.now
            self._trace("gone", self.ask.number, self.loop.now)
            self._event.set()
            self._drained.set()

    def _come(self, message: dict[str, Any]) -> None:
        self._incoming.append(message)
        self._event.set()

    async def receive(self) -> dict[str, Any]:
        if not self.gone and not self.answered and not self._incoming:
            self._event.clear()
            await self._event.wait()
        if self.gone or self.answered or not self._incoming:
            return {"type": "http.disconnect"}
        message = self._incoming.pop(0)
        if not message["more_body"]:
            self.received_at, self.received_tick = self.loop.now, self.loop.ticks
        return message

    async def send(self, message: dict[str, Any]) -> None:
        while self._paused and not self.gone:
            self._drained.clear()
            await self._drained.wait()
        if self.gone:
            return
        self._check(message)
        if not self.messages:
            self.waiting_at_answer = self.count_waiting()
        self.messages.append((self.loop.now, self.loop.ticks, message))
        self._trace("send", self.ask.number, self.loop.now, sorted(message.items(), key=_name))
        ask = self.ask
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.answered = True
            self._event.set()
        elif ask.reads is None and len(self.messages) > ask.takes:
            self._paused = True
        elif ask.reads:
            self._paused = True
            self.loop.call_later(ask.reads, self._read)
        if ask.leaves_with_message is not None and len(self.messages) >= ask.leaves_with_message:
            self.leave()

    def _read(self) -> None:
        self._paused = False
        self._drained.set()

    def _check(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self.answered:
            self.problems.append(f"{kind} after the answer had ended")
        elif not self.messages and kind != "http.response.start":
            self.problems.append(f"{kind} before the answer began")
        elif self.messages and kind != "http.response.body":
            self.problems.append(f"{kind} after the answer had begun")

    # what came of it

    @property
    def status(self) -> int | None:
        return self.messages[0][2]["status"] if self.messages else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0][2]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for _, _, message in self.messages[1:])


def _name(pair: tuple[str, Any]) -> str:
    return pair[0]
