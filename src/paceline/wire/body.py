"""A request's body, read only as far as needed: its top-level fields, each left as the bytes that the client sent.

Pictures make bodies of megabytes. What is not changed is never decoded, and goes on as it came.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from paceline.errors import RequestRefusedError
from paceline.wire.budget import BUDGET_FIELDS

KNOB_PREFIX = "paceline_"
TRUSTED_FIELDS = ("mm_processor_kwargs", "media_io_kwargs")  # open on a server whose tiers are steered by them
EXTRA_FIELDS = (("vllm_xargs",), ("sampling_params", "extra_args"))
# any of these may stand in a body that has to be read; base64 has no underscore, so that pictures are passed over quickly
NEEDLES = (KNOB_PREFIX.encode(), *(name.encode() for name in (*BUDGET_FIELDS, *TRUSTED_FIELDS)))
MOST_LOOKS = 2000  # at underscores and escapes; a body with more is read

Fields = dict[str, msgspec.Raw]
_FIELDS = msgspec.json.Decoder(Fields)


def may_matter(body: bytes) -> bool:
    """Tell whether a body may hold a budget or a knob: False only where it holds none.

    Escapes may spell any name, and a NUL marks UTF-16 and UTF-32.
    """
    return b"\0" in body or _any_at(body, b"_", _needle_at) or _any_at(body, b"\\", _spelled_at)


def _any_at(body: bytes, letter: bytes, holds: Callable[[bytes, int], bool]) -> bool:
    """Tell whether something holds where a letter stands, or there are too many of it to look at."""
    place = -1
    for _ in range(MOST_LOOKS):
        place = body.find(letter, place + 1)
        if place < 0:
            return False
        if holds(body, place):
            return True
    return True


def _needle_at(body: bytes, place: int) -> bool:
    return any(body.startswith(needle, place - needle.index(b"_")) for needle in NEEDLES if place >= needle.index(b"_"))


def _spelled_at(body: bytes, place: int) -> bool:
    return body.startswith(b"u", place + 1)


def fields_of(body: bytes) -> Fields | None:
    """Return the top-level fields of a JSON object, None for what is none: the server says what is wrong with it.

    What Python's reader takes and the standard does not (NaN, other encodings than UTF-8) is read too, as servers read it.
    """
    try:
        return _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    cells = cast("dict[str, Any]", found)
    return {name: raw(value) for name, value in cells.items()}


def value_of(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    """Return the value of a field, None where there is none; raises RequestRefusedError (400) for what is no JSON value."""
    if name not in fields:
        return None
    try:
        return msgspec.json.decode(fields[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # NaN, or what the fields were not read for
        return _leniently(bytes(fields[name]), name)


def _leniently(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = "is nested too deeply" if isinstance(error, RecursionError) else f"is no JSON value ({error!s:.100})"
        raise RequestRefusedError(f"{name} {problem}; expected JSON in UTF-8", param=name) from error


def raw(value: object) -> msgspec.Raw:
    """Return a value as it stands in a body."""
    return msgspec.Raw(json.dumps(value).encode())


def body_of(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """Return the body of these fields."""
    try:
        return msgspec.json.encode(dict(fields))
    except UnicodeEncodeError:  # half of a surrogate pair in a name, which Python's reader takes
        return b"{" + b",".join(json.dumps(name).encode() + b":" + bytes(part) for name, part in fields.items()) + b"}"


def strip_knobs(fields: Fields) -> tuple[str, ...]:
    """Take a client's own knobs out of the fields and return their names; what remains is as it came."""
    stripped = [name for name in TRUSTED_FIELDS if name in fields and value_of(fields, name)]
    for name in stripped:
        del fields[name]
    for path in EXTRA_FIELDS:
        if path[0] in fields and KNOB_PREFIX.encode() in _plain(fields[path[0]], path[0]):
            whole = value_of(fields, path[0])
            taken = _taken(whole, path[1:])
            stripped += [".".join((*path, name)) for name in taken]
            if taken:
                fields[path[0]] = raw(whole)
    return tuple(stripped)


def _plain(part: msgspec.Raw, name: str) -> bytes:
    """Return a field with nothing spelled by escapes."""
    text = bytes(part)
    return json.dumps(_leniently(text, name)).encode() if b"\\" in text else text


def _taken(whole: Any, path: tuple[str, ...]) -> list[str]:
    for name in path:
        whole = cast("dict[str, Any]", whole).get(name) if isinstance(whole, dict) else None
    if not isinstance(whole, dict):
        return []
    cells = cast("dict[str, Any]", whole)
    names = [name for name in cells if name.startswith(KNOB_PREFIX)]
    for name in names:
        del cells[name]
    return names
