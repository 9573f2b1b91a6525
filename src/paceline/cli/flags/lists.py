"""Options that take several values: after one flag, in a repeated flag, or with commas between them."""

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

from paceline.errors import InvalidValueError


class ListFlagCommand(TyperCommand):
    """A command whose list options go on over the words after the flag: `--budgets 150 200 250 TABLE`.

    A list of numbers ends at the first word that is none, any list at the next flag.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's own context type is private
        """Repeat the flag before every further value, which is the form that the parser knows."""
        flags = {flag for each in self.params if getattr(each, "multiple", False) for flag in each.opts}
        return super().parse_args(ctx, list(_with_repeated_flags(args, flags)))


def split_list(values: Sequence[str] | None) -> list[str] | None:
    """Return the values of a list option with comma-separated ones taken apart; None when it was not given."""
    parts = [part.strip() for value in values or () for part in value.split(",") if part.strip()]
    return parts or None


def split_numbers(name: str, values: Sequence[str] | None) -> list[float] | None:
    """Return the numbers of a list option; raises InvalidValueError for a word that is no number."""
    parts = split_list(values)
    for part in parts or ():
        if not _is_numeric(part):
            raise InvalidValueError(name, part, "numbers, for example 150 200 250")
    return None if parts is None else [float(part) for part in parts]


def _with_repeated_flags(args: Sequence[str], flags: set[str]) -> Iterator[str]:
    flag, numeric, first = None, False, False
    for index, word in enumerate(args):
        if word == "--":
            yield from args[index:]
            return
        if word in flags:
            flag, first = word, True
        elif first:
            numeric, first = _is_numeric(word), False
        elif flag is not None and not word.startswith("-") and (not numeric or _is_numeric(word)):
            yield flag
        else:
            flag = None
        yield word


def _is_numeric(word: str) -> bool:
    try:
        return all(float(part) == float(part) for part in word.split(",") if part.strip())
    except ValueError:
        return False
