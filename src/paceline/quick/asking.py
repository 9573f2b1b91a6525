"""One chat request to a server, timed by the client's clock."""

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from paceline.errors import RemoteServerError, UnknownChoiceError
from paceline.remote import ServerAddress, reason_of
from paceline.wire.events import EventSplitter, chunk_of, holds_token

CHAT_PATH, MODELS_PATH = "/v1/chat/completions", "/v1/models"
REFUSED_KEY = (401, 403)  # HTTP statuses
PART_BYTES, MOST_BYTES = 65_536, 4_000_000  # of an answer of one token
WORDS_SHOWN = 200  # of a server's own message


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one request: milliseconds from its last byte, given to the socket, to its first token and to its end.

    `first_token_ms` is None for an answer that did not stream, or had none; `error` says in words what went wrong. `report` is
    the object `paceline` of servers with budgets, `waited_ms` how long was waited whatever came.
    """

    status: int | None
    waited_ms: float
    first_token_ms: float | None = None
    prompt_tokens: int | None = None
    error: str | None = None
    report: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Asks one server, one request at a time; `clock` is monotonic, in seconds."""

    address: ServerAddress
    clock: Callable[[], float]
    key: str | None = None

    def ask(self, body: Mapping[str, Any], *, timeout_seconds: float) -> Answer:
        """Return what came of a chat request; no error of the server or the network is raised."""
        connection = self.address.connection(timeout_seconds=timeout_seconds)
        started = self.clock()
        try:
            connection.connect()
            data = json.dumps(body).encode()
            connection.request("POST", self.address.path(CHAT_PATH), data, self._headers())
            started = self.clock()
            return self._read(connection, started, timeout_seconds)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(status=None, waited_ms=self._since(started), error=reason_of(error))
        finally:
            connection.close()

    def get(self, path: str, *, timeout_seconds: float) -> tuple[int, bytes]:
        """Return status and content of a page of the server; raises RemoteServerError where it does not answer."""
        connection = self.address.connection(timeout_seconds=timeout_seconds)
        try:
            connection.request("GET", self.address.path(path), headers=self._headers())
            answer = connection.getresponse()
            return answer.status, answer.read(MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            mend = "start it first, or correct the address"
            raise RemoteServerError(str(self.address), f"does not answer: {reason_of(error)}", mend=mend) from error
        finally:
            connection.close()

    def model(self, wanted: str | None, *, timeout_seconds: float) -> str:
        """Return the model to ask: the one wanted, or the server's first.

        Raises RemoteServerError where the server names none, and UnknownChoiceError where it names others alone.
        """
        names = self._models(timeout_seconds)
        if wanted is not None and names and wanted not in names:
            raise UnknownChoiceError("model", wanted, names)
        if wanted is None and not names:
            raise RemoteServerError(str(self.address), "names no model", mend="name one with --model")
        return wanted or names[0]

    def asks_for_key(self) -> RemoteServerError:
        """Return the error of a server that asks for another key than it was given, or for one at all."""
        what = "asks for a key" if self.key is None else "does not take this key"
        return RemoteServerError(str(self.address), what, mend="give it in a file: --api-key-file FILE")

    def _models(self, timeout_seconds: float) -> list[str]:
        status, content = self.get(MODELS_PATH, timeout_seconds=timeout_seconds)
        if status in REFUSED_KEY:
            raise self.asks_for_key()
        try:
            return [str(each["id"]) for each in json.loads(content)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            problem = f"answered {status} to {MODELS_PATH} with something else than a list of models"
            raise RemoteServerError(str(self.address), problem, mend="name a server with OpenAI's interface") from error

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        return headers if self.key is None else {**headers, "Authorization": f"Bearer {self.key}"}

    def _since(self, started: float) -> float:
        return 1e3 * (self.clock() - started)

    def _read(self, connection: http.client.HTTPConnection, started: float, timeout_seconds: float) -> Answer:
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        splitter, events, first_ms, size = EventSplitter(), list[bytes](), None, 0
        streams = headers.get("content-type", "").startswith("text/event-stream")
        while part := response.read1(PART_BYTES):
            size += len(part)
            if self.clock() - started > timeout_seconds:
                raise TimeoutError
            if size > MOST_BYTES:
                raise ValueError(f"an answer of one token has more than {MOST_BYTES:,} bytes")
            new = splitter.feed(part.replace(b"\r", b"")) if streams else [part]  # no JSON has a bare carriage return
            events += new
            if streams and first_ms is None and any(holds_token(event) for event in new):
                first_ms = self._since(started)
        whole_ms = self._since(started)
        chunks = [chunk_of(event) for event in events] if streams else [_document(b"".join(events))]
        return _answer(response.status, chunks, headers, first_ms, whole_ms)


def _answer(
    status: int, chunks: list[dict[str, Any]], headers: Mapping[str, str], first_ms: float | None, whole_ms: float
) -> Answer:
    found: dict[str, Any] = {}
    for chunk in chunks:
        found.update({name: chunk[name] for name in ("usage", "paceline", "error") if chunk.get(name)})
    usage = found.get("usage")
    tokens = cast("dict[str, Any]", usage).get("prompt_tokens") if isinstance(usage, dict) else None
    report = found.get("paceline")
    said = found.get("error") or (chunks[0] if chunks else None)  # SGLang's errors are the document itself
    error = None if status == 200 and "error" not in found else f"{status}: {_message(said)}"
    return Answer(
        status=status,
        waited_ms=whole_ms,
        first_token_ms=first_ms,
        prompt_tokens=tokens if isinstance(tokens, int) else None,
        error=error,
        report=cast("dict[str, Any]", report) if isinstance(report, dict) else None,
        headers=headers,
    )


def _document(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _message(error: object) -> str:
    said = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    text = str(said or "no reason was given")
    return text if len(text) <= WORDS_SHOWN else f"{text[:WORDS_SHOWN]}…"
