"""JSON that somebody else may have written: one way to parse it, with one kind of error for all that cannot be used, and one
way to seal it, so that an edit by hand is seen."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "description_sha256"

LARGEST_WHOLE_NUMBER = 2**63  # what files hold as whole numbers is counted, in 64 bits everywhere behind the readers


def parsed_json(text: str | bytes) -> object:
    """Return what a JSON text holds; raises ValueError for all that is none, nested too deeply, or a number too large.

    Whole numbers of 64 bits or more are refused, for no conversion behind the readers could hold them.
    """
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("its lists or objects are nested too deeply") from error


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
