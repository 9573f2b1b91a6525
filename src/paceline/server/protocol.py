"""uvicorn's HTTP/1.1 with a limit on connections and on how long a request's head may take, and without waits in between; relies
on uvicorn 0.30 and later.

uvicorn's own timeout covers a connection that is idle after an answer. One that was opened and stays silent, or sends a letter
a minute, would stay for ever.
"""

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from paceline.server.gate import ABORT
from paceline.server.limits import Limits

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(H11Protocol):
    """One connection: closed where there are too many, and where a request's head does not come; it writes without delay."""

    limits = Limits()
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or turn it away."""
        super().connection_made(transport)
        _write_at_once(transport)
        app = self.app

        async def abortable(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, ABORT: transport.abort}, receive, send)

        self.app = abortable
        if len(self.connections) > self.limits.connections:
            transport.write(BUSY)
            transport.close()
            return
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what came, and watch for the rest of a head that is torn."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        else:
            self._head_came()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._head_came()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(self.limits.header_seconds, self._too_slow)

    def _head_came(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _too_slow(self) -> None:
        self._due = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self.transport.write(SLOW)
            self.transport.close()


def _write_at_once(transport: asyncio.BaseTransport) -> None:
    """Hold no packet back until the one before it is acknowledged (Nagle), which takes clients 40 ms.

    asyncio does it for sockets that name their protocol, which those that a server accepts do not (Python 3.11). Said of the
    listening socket it would miss who connects before that.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def uvicorn_settings(limits: Limits) -> dict[str, Any]:
    """Return the arguments of `uvicorn.Config` that these limits are."""
    return {
        "http": type("LimitedProtocol", (GuardedProtocol,), {"limits": limits}),
        "ws": "none",
        "h11_max_incomplete_event_size": limits.headers_bytes,
        "timeout_keep_alive": 75,  # longer than load balancers keep theirs: the side that may send closes
        "timeout_graceful_shutdown": int(limits.grace_seconds) + 5,
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "proxy_headers": False,
    }
