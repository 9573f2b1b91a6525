"""What stands before everything else: keys, limits, the body's last byte, and one line of log a request."""

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from paceline.errors import RequestRefusedError
from paceline.server.engine import Engine, stopping
from paceline.server.limits import Limits
from paceline.server.question import OUTCOME, Outcome
from paceline.serving.answer import refusal
from paceline.serving.desk import CHAT_PATH
from paceline.serving.middleware import RECEIVED, replay

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Finished = Callable[[Scope, "Visit"], None]

logger = logging.getLogger("paceline.server")
GUARDED = ("/v1/", "/paceline/")
DISCARD_SECONDS = 2.0
ABORT = "paceline.abort"  # in a request's scope: what ends its connection without waiting for the client
STATUS_OF_NOBODY = 499  # the client left before it was answered; nginx's number for it
# strings are passed over whole, an unterminated one to its end: every letter is looked at once
BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


class Visit:
    """One request as it passes the gate: when, by which clock, and what it was answered."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.started, self.wall = clock(), wall()
        self.status, self.ended = STATUS_OF_NOBODY, 0.0
        self.body, self.held_bytes, self.whole = b"", 0, False


class Gate:
    """Lets requests in that have a key, keep the limits and have arrived whole; tells `finished` of each.

    `keys` are SHA-256 digests; without any, everybody may ask.
    """

    def __init__(
        self,
        app: App,
        engine: Engine,
        *,
        limits: Limits,
        keys: Iterable[bytes] = (),
        finished: Finished = lambda _scope, _visit: None,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.app, self.engine, self.limits, self.keys = app, engine, limits, tuple(keys)
        self.finished, self.clock, self.wall = finished, clock, wall
        self.bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = Visit(self.clock, self.wall)
        try:
            await self._admitted(scope, receive, self._watched(send, visit), visit)
        except TimeoutError:  # a client that does not take its answer
            logger.warning("a client did not take its answer within %g s", self.limits.send_seconds)
            scope.get(ABORT, _nothing)()
        finally:
            self.bodies_bytes -= visit.held_bytes
            visit.ended = self.clock()
            self.finished(scope, visit)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        try:
            self._check(scope)
            if scope["method"] == "POST":
                if not await self._received(scope, receive, visit):
                    return
                whole: Message = {"type": "http.request", "body": visit.body, "more_body": False}
                receive = replay(whole, receive)
        except RequestRefusedError as refused:
            if not visit.whole and refused.status != 408:
                await _discard(receive, self.limits.body_bytes)
            await refusal(send, refused)
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self.limits.headers or size > self.limits.headers_bytes:
            message = f"{len(headers)} headers of {size:,} bytes; expected {self.limits.headers} of {self.limits.headers_bytes:,}"
            raise RequestRefusedError(f"{message} at most", status=431, code="headers_too_large")
        if self.keys and (scope["method"] == "POST" or scope["path"].startswith(GUARDED)):
            self._check_key(headers)
        if scope["method"] == "POST":
            self._check_site(headers)
            if self.engine.draining:
                raise stopping()
            self._check_kind(scope["path"], headers)

    def _check_key(self, headers: list[tuple[bytes, bytes]]) -> None:
        given = [value[7:] for name, value in headers if name == b"authorization" and value[:7].lower() == b"bearer "]
        digest = hashlib.sha256(given[0] if given else b"").digest()
        # all are compared: how long it takes tells nothing of a key
        if not any([hmac.compare_digest(digest, key) for key in self.keys]):
            raise RequestRefusedError(
                "expected the header Authorization: Bearer with a key of this server",
                status=401,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _check_site(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Turn away what a browser sends for the page of another site, which could have the model answer unasked."""
        if any(name == b"sec-fetch-site" and value == b"cross-site" for name, value in headers):
            message = "a page of another site asks in this browser; expected this server's own page, or a program"
            raise RequestRefusedError(message, status=403, code="cross_site")

    def _check_kind(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        kinds = [value.split(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
        if path == CHAT_PATH and kinds and kinds[0] != b"application/json":
            shown = kinds[0][:60].decode("latin-1")
            message = f"the body is {shown!r}; expected application/json"
            raise RequestRefusedError(message, status=415, code="unsupported_media_type")
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                self._check_size(int(value[:20]))  # its first twenty digits are too many already

    def _check_size(self, size: int) -> None:
        if size > self.limits.body_bytes:
            message = f"the body has more than {self.limits.body_bytes:,} bytes; send smaller pictures, or fewer"
            raise RequestRefusedError(message, status=413, code="request_too_large", headers={"connection": "close"})

    async def _received(self, scope: Scope, receive: Receive, visit: Visit) -> bool:
        """Take the body to its last byte; False where the client left before."""
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    part = message.get("body", b"")
                    size += len(part)
                    self._check_size(size)
                    self._hold(len(part), visit)
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            message = f"the body was not there after {self.limits.body_seconds:g} s"
            closing = {"connection": "close"}
            raise RequestRefusedError(message, status=408, code="request_timeout", headers=closing) from None
        scope[RECEIVED], scope[OUTCOME] = self.clock(), Outcome()
        visit.body, visit.whole = b"".join(parts), True
        if depth_exceeds(visit.body, self.limits.json_depth):
            message = f"the body nests more than {self.limits.json_depth} arrays and objects"
            raise RequestRefusedError(message, code="too_deep")
        if visit.body.count(b"[") + visit.body.count(b"{") > self.limits.json_objects:
            message = f"the body has more than {self.limits.json_objects:,} arrays and objects"
            raise RequestRefusedError(message, code="too_many_objects")
        return True

    def _hold(self, size: int, visit: Visit) -> None:
        self.bodies_bytes += size
        visit.held_bytes += size
        if self.bodies_bytes > self.limits.bodies_bytes:
            raise RequestRefusedError(
                "the requests that wait fill the room there is for them; ask again later",
                status=503,
                code="overloaded",
                headers={"retry-after": "1", "connection": "close"},
            )

    def _watched(self, send: Send, visit: Visit) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
            async with asyncio.timeout(self.limits.send_seconds):
                await send(message)

        return sending


async def _discard(receive: Receive, most_bytes: int) -> None:
    """Take what a refused client is still sending, for a moment: a connection closed on it would lose the answer too."""
    size, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while more and size <= most_bytes:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)


def depth_exceeds(body: bytes, most: int) -> bool:
    """Tell whether a JSON text nests more than so many arrays and objects; in time linear in its length."""
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    depth = 0
    for found in BRACKETS.finditer(body):
        first = body[found.start()]
        if first in b"[{":
            depth += 1
            if depth > most:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _nothing() -> None:
    """Do nothing: the connection is somebody else's."""


def digest_of(key: str) -> bytes:
    """Return what a server keeps of a key."""
    return hashlib.sha256(key.encode()).digest()
