"""Server-sent events of a streamed chat completion: where its first token is, and the chunk that carries its usage."""

import json
from typing import Any, cast

END = b"\n\n"
DATA = b"data: "


class EventSplitter:
    """Cuts the parts of a stream into whole events, whatever the parts are."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, part: bytes) -> list[bytes]:
        """Return the events that are complete with this part, each with the blank line that ends it."""
        *whole, self._rest = (self._rest + part).split(END)
        return [event + END for event in whole]

    def rest(self) -> bytes:
        """Return what follows the last whole event, and forget it."""
        rest, self._rest = self._rest, b""
        return rest


def holds_token(event: bytes) -> bool:
    """Tell whether an event hands on a token: a choice with more than the role that opens the answer."""
    chunk = chunk_of(event)
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return False
    deltas = [choice.get("delta") or {} for choice in cast("list[Any]", choices) if isinstance(choice, dict)]
    return any(_more_than_role(cast("dict[str, Any]", delta)) for delta in deltas if isinstance(delta, dict))


def with_report(event: bytes, report: dict[str, Any]) -> bytes | None:
    """Return the chunk that carries the usage with the report beside it; None for any other event."""
    if b'"usage"' not in event:
        return None
    chunk = chunk_of(event)
    if chunk.get("choices") != [] or not chunk.get("usage"):
        return None
    return DATA + json.dumps({**chunk, "paceline": report}).encode() + END


def _more_than_role(delta: dict[str, Any]) -> bool:
    return "role" not in delta or any(value for name, value in delta.items() if name != "role")


def chunk_of(event: bytes) -> dict[str, Any]:
    """Return the chunk that an event carries; empty for one that carries none."""
    if not event.startswith(DATA + b"{"):
        return {}
    try:
        found = json.loads(event[len(DATA) :])
    except (ValueError, RecursionError):  # nested too deeply for any reader
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
