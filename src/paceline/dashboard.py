"""A page on a loopback port of this machine: a report from memory, or the live page before a server that is somewhere else.

What the page asks of its own server is relayed, streams as they come; nothing else is. Only a browser on this machine that came
from this page is answered: other sites' pages and names that point here are turned away.
"""

import http.client
import json
import select
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from paceline.errors import InvalidValueError, RemoteServerError
from paceline.page.files import PageFile, page_files
from paceline.remote import ServerAddress, reason_of

LOOPBACK = "127.0.0.1"
RELAYED = {
    "GET": ("/v1/models", "/health", "/metrics", "/paceline/recent"),
    "POST": ("/v1/chat/completions",),
}
SENT_ON = ("accept", "authorization", "content-type")
HANDED_BACK = ("content-type", "retry-after", "server-timing")
OURS = "x-paceline-"
LARGEST_BODY_BYTES = 100 * 1024 * 1024
CLIENT_SECONDS = 30  # for a client to send its request
UPSTREAM_SECONDS = 600  # for the server's next byte
PART_BYTES = 65_536


class Dashboard(ThreadingHTTPServer):
    """Answers with files and relays to `upstream`, where there is one; `url` is what a browser opens."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: Mapping[str, PageFile], *, upstream: ServerAddress | None = None, port: int = 0) -> None:
        self.files, self.upstream = files, upstream
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InvalidValueError(
                "port", port, f"a free port of this machine, or 0 for any ({reason_of(error)})"
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    @property
    def own_hosts(self) -> tuple[str, ...]:
        """How a browser of this machine names this server; a name of another site that leads here is none of them."""
        return (f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away in the middle."""


def report_dashboard(page: str, *, port: int = 0) -> Dashboard:
    """Return a server of one page; raises InvalidValueError for a port that is not free."""
    return Dashboard(
        {"/": PageFile(content=page.encode(), media_type="text/html; charset=utf-8", own_policy=True)}, port=port
    )


def live_dashboard(address: ServerAddress, *, port: int = 0) -> Dashboard:
    """Return a server of the live page before another; raises RemoteServerError where that one does not answer."""
    connection = address.connection(timeout_seconds=CLIENT_SECONDS)
    try:
        connection.request("GET", address.path("/v1/models"))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise RemoteServerError(
            str(address), f"does not answer: {reason_of(error)}", mend="start it first, or correct the address"
        ) from error
    finally:
        connection.close()
    if status not in (200, 401, 403):
        mend = "name the address before /v1, for example http://127.0.0.1:8000"
        raise RemoteServerError(
            str(address), f"answered {status} to /v1/models, which OpenAI's servers have", mend=mend
        )
    return Dashboard(page_files(), upstream=address, port=port)


class _Handler(BaseHTTPRequestHandler):
    server: Dashboard  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a token waits for no acknowledgement of the one before it
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        file = self.server.files.get(self._path)
        if not self._is_own():
            self._refuse(403, "this page is for this machine's own browser: open it at its address")
        elif file is not None:
            self._send(200, file.headers, file.content)
        else:
            self._relay(None)

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not self._is_own():
            self._refuse(403, "this page is for this machine's own browser: open it at its address")
        elif not length.isascii() or not length.isdigit() or "transfer-encoding" in self.headers:
            self._refuse(411, "the request says no length")
        elif int(length) > LARGEST_BODY_BYTES:
            self._refuse(413, f"the body has {int(length):,} bytes; expected at most {LARGEST_BODY_BYTES:,}")
        else:
            self._relay(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _is_own(self) -> bool:
        host, origin, site = (self.headers.get(name) for name in ("host", "origin", "sec-fetch-site"))
        asked_here = origin is None or origin == f"http://{host}"
        return host in self.server.own_hosts and asked_here and site in (None, "none", "same-origin")

    def _relay(self, body: bytes | None) -> None:
        upstream = self.server.upstream
        if upstream is None or self._path not in RELAYED.get(self.command, ()):
            self._refuse(404, f"there is nothing at {self._path}")
            return
        connection = upstream.connection(timeout_seconds=UPSTREAM_SECONDS)
        headers = {name: value for name in SENT_ON if (value := self.headers.get(name)) is not None}
        try:
            connection.connect()
            with _closed_when_left(self.connection, connection.sock):
                connection.request(self.command, upstream.path(self._path), body, headers)
                self._hand_back(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            self._fail(error)
        finally:
            connection.close()

    def _fail(self, error: Exception) -> None:
        self.close_connection = True
        if not self._started:
            self._refuse(502, f"{self.server.upstream} does not answer: {reason_of(error)}")

    _started = False

    def _hand_back(self, answer: http.client.HTTPResponse) -> None:
        self._started = True
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() in HANDED_BACK or name.lower().startswith(OURS):
                self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while part := answer.read1(PART_BYTES):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")
        self._started = False

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": status}}).encode()
        self._send(
            status, {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}, body
        )

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _closed_when_left(client: socket.socket, upstream: socket.socket) -> Generator[None]:
    """Break the connection to the server off as soon as the browser leaves, so that it stops generating."""
    ours, theirs = socket.socketpair()
    watcher = threading.Thread(target=_watch, args=(client, theirs, lambda: upstream.shutdown(socket.SHUT_RDWR)))
    watcher.start()
    try:
        yield
    finally:
        ours.close()
        watcher.join()
        theirs.close()


def _watch(client: socket.socket, stop: socket.socket, leave: Callable[[], None]) -> None:
    readable, _, _ = select.select([client, stop], [], [])
    try:
        if stop not in readable and client.recv(1, socket.MSG_PEEK) == b"":
            leave()
    except OSError:  # reset by the browser, or over already
        leave()
