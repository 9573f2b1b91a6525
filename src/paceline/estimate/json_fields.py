"""Fields of a JSON document that somebody else may have written: each is there and of its kind, or it is named."""

import math
from collections.abc import Mapping
from typing import Any, cast

from paceline.errors import InvalidValueError

KINDS: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "a whole number": int,
    "a number": (int, float),
    "a list": list,
    "an object": dict,
}


class UnfitFieldError(ValueError):
    """A field that is missing or of another kind; whoever reads a file turns it into the error of that file."""

    def __init__(self, problem: str, expected: str) -> None:
        self.problem, self.expected = problem, expected
        super().__init__(f"{problem}; expected {expected}")


def typed_fields(owner: object, kinds: Mapping[str, str], *, place: str, prefix: str = "") -> dict[str, Any]:
    """Return the fields named in `kinds` of an object; raises UnfitFieldError, which calls them by prefix and name."""
    held = typed(owner, "an object", place)
    for name, kind in kinds.items():
        if name not in held:
            raise UnfitFieldError(f"field {prefix}{name} is missing", kind)
        typed(held[name], kind, f"{prefix}{name}")
    return {name: held[name] for name in kinds}


def typed(value: object, kind: str, place: str) -> Any:
    """Return a value of one of KINDS; raises UnfitFieldError for another."""
    # bool is an int to Python, but `true` is no count and no share
    if not isinstance(value, KINDS[kind]) or isinstance(value, bool):
        raise UnfitFieldError(f"{place} is {value!r:.60}", kind)
    return cast(Any, value)


def finite_number(value: object) -> float:
    """Return a number that is neither infinite nor NaN; raises InvalidValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidValueError("value", value, "a finite number")
    return value
