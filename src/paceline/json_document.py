"""JSON that somebody else may have written: one way to parse it, with one kind of error for all that cannot be used, one way to
seal it, so that an edit by hand is seen, and what the files in a directory from elsewhere must be at least."""

import errno
import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

SEAL = "description_sha256"

LARGEST_WHOLE_NUMBER = 2**63  # what files hold as whole numbers is counted, in 64 bits everywhere behind the readers


def require_regular(path: Path) -> None:
    """Raise OSError for what stands in a file's place and has no end: a device, a pipe or a socket, or a link to one."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket, and no file", str(path))


def parsed_json(text: str | bytes) -> object:
    """Return what a JSON text holds; raises ValueError for all that is none, nested too deeply, or a number too large.

    Whole numbers of 64 bits or more are refused, for no conversion behind the readers could hold them.
    """
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("its lists or objects are nested too deeply") from error


def refuse_unknown_fields(document: object, known: object, place: str = "") -> None:
    """Raise ValueError for a field that stands in a document and not in what was read of it, told in plain values.

    A damaged name of a field that may be absent would otherwise read as its absence.
    """
    if isinstance(document, dict) and isinstance(known, dict):
        held, read = cast("dict[str, object]", document), cast("dict[str, object]", known)
        for name, value in held.items():
            if name not in read:
                raise ValueError(f"{place}{name:.60} is no field of it")
            refuse_unknown_fields(value, read[name], f"{place}{name}.")
    elif isinstance(document, list) and isinstance(known, list | tuple):
        ours, theirs = cast("list[object]", document), cast("list[object]", known)
        for index, (value, read_value) in enumerate(zip(ours, theirs, strict=False)):
            refuse_unknown_fields(value, read_value, f"{place}{index}.")


def seal_of(document: Mapping[str, object]) -> str:
    """Return the hash of all fields but the seal, whatever their order and the file's white space."""
    fields = {name: value for name, value in document.items() if name != SEAL}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def sealed(document: Mapping[str, object]) -> dict[str, Any]:
    """Return the document with its seal, the SHA-256 of all its other fields."""
    return {**document, SEAL: seal_of(document)}


def stands_as_sealed(document: Mapping[str, object]) -> bool:
    """Tell whether a document's fields are those that it was sealed with."""
    return document.get(SEAL) == seal_of(document)


def _whole_number(digits: str) -> int:
    # measured by length first: Python itself refuses to read thousands of digits, with a remedy for programmers
    if len(digits) > 20 or abs(int(digits)) >= LARGEST_WHOLE_NUMBER:
        raise ValueError(f"the whole number {digits:.20}{'…' if len(digits) > 20 else ''} is too large")
    return int(digits)
