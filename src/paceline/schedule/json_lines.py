"""Lines of JSON objects as engines leave them, killed or not."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from paceline.errors import PacelineError, PacelineWarning

Parsed = TypeVar("Parsed")
LONGEST_TOKEN = 6  # an escape such as \u00e9, or a word such as false, is refused where it begins
LINES_NAMED = 5


def parsed_lines(text: str, path: Path | str, parse: Callable[[str, int], Parsed]) -> list[Parsed]:
    """Return what `parse` makes of each line and its number; torn lines are left out and counted in a PacelineWarning.

    Raises what `parse` raises for a line that is not torn.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    parsed: list[Parsed] = []
    torn: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(parse(line, number))
        except PacelineError:
            if not is_torn(line):
                raise
            torn.append(number)
    if torn:
        named = ", ".join(map(str, torn[:LINES_NAMED])) + (", …" if len(torn) > LINES_NAMED else "")
        counted = "1 torn line is" if len(torn) == 1 else f"{len(torn)} torn lines are"
        sentence = f"{path}: {counted} left out (line {named}): an engine was killed while it wrote"
        warnings.warn(sentence, PacelineWarning, stacklevel=3)
    return parsed


def is_torn(line: str) -> bool:
    """Whether a line is the beginning of a JSON object whose end is missing, as a killed writer leaves it."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(line) - LONGEST_TOKEN or error.msg.startswith("Unterminated string")
        return line.startswith("{") and cut
    except (RecursionError, ValueError):  # too deep, or a number of thousands of digits: not torn, but no line either
        return False
    return False
