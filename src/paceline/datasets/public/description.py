"""What a public data set is: its columns, splits and prompt, and how one row of it is a question."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from paceline.errors import DatasetError

ColumnKind = Literal["text", "texts", "whole number", "truth", "id", "count", "picture", "answers", "questions"]

SHORT_ANSWER = "{question}\nAnswer the question using a single word or phrase."
NO_ANSWERS = "this part of the set cannot be scored: take a split with answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question as its row tells it.

    `sample_id` is None where the set has no ids: the row's number stands for it, with the position in a row of several.
    `prompt_template` and `pictures` are None where they are the set's own.
    """

    question: str
    references: tuple[str, ...]
    sample_id: str | None = None
    picture_id: str | None = None
    choices: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    context: str = ""
    prompt_template: str | None = None
    pictures: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, or one question of a row that holds several; every access names file, row and field where it fails."""

    values: Mapping[str, Any]
    place: str
    number: int

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._present(name)
        if not isinstance(value, str):
            raise self.error(name, f"is {value!r}", expected="a text")
        return value

    def name(self, name: str) -> str:
        """Return an id, whether the set holds it as a number or as a text."""
        value = self._present(name)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.error(name, f"is {value!r}", expected="a text or a whole number")
        return str(value)

    def whole(self, name: str) -> int:
        """Return a whole number of at least 0, also where it stands as a text of digits."""
        value = self._present(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if type(value) is not int or value < 0:
            raise self.error(name, f"is {value!r}", expected="a whole number of at least 0")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts that is not empty."""
        value = self._present(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[object]", value)):
            raise self.error(name, f"is {value!r}", expected="a list of texts")
        if not value:
            raise self.error(name, "is empty", expected="at least one text", mend=NO_ANSWERS)
        return tuple(cast("list[str]", value))

    def optional(self, name: str) -> Any:
        """Return a value as it is; None where it is null, empty text or not there."""
        value = self.values.get(name)
        return None if value == "" else value

    def types(self, *names: str) -> tuple[str, ...]:
        """Return `column=value` for each of some columns that is filled; one for each entry of a list."""
        found: list[str] = []
        for name in names:
            value = self.optional(name)
            entries = cast("list[object]", value) if isinstance(value, list) else [value]
            found += [f"{name}={entry}" for entry in entries if entry is not None]
        return tuple(found)

    def _present(self, name: str) -> Any:
        value = self.values.get(name)
        if value is None:
            mend = NO_ANSWERS if name.startswith("answer") else None
            raise self.error(name, "is null", expected="a value in every row", mend=mend)
        return value

    def error(self, name: str, problem: str, *, expected: str, mend: str | None = None) -> DatasetError:
        """Return the error that names this row and a field of it."""
        return DatasetError(self.place, problem, expected=expected, mend=mend, row=self.number, field=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicSet:
    """One public data set, as Hugging Face `datasets` has it.

    `hub_ids` are those known to hold these columns, the first is taken; `config` is their name of the part. `splits`
    gives the questions of each split that has answers, the first is the default; None where no count is published.
    `nested` is the column that holds several questions a row, whose own columns are `nested_columns`; a column named as
    `one|another` goes by either. Rows without a picture are an error unless `pictures_optional`: then they are not part of
    the set, and counted. The first of `scorers` is the official rule. `traps` are what surprises users of the set.
    """

    name: str
    title: str
    licence: str
    source: str
    hub_ids: tuple[str, ...]
    config: str | None = None
    splits: Mapping[str, int | None]
    unanswered: tuple[str, ...] = ()
    columns: Mapping[str, ColumnKind]
    optional_columns: Mapping[str, ColumnKind] = field(default_factory=dict[str, ColumnKind])
    nested: str | None = None
    nested_columns: Mapping[str, ColumnKind] = field(default_factory=dict[str, ColumnKind])
    pictures: tuple[str, ...] = ("image",)
    pictures_optional: bool = False
    prompt_template: str = SHORT_ANSWER
    scorers: tuple[str, ...]
    ask: Callable[[Row], Asked]
    traps: tuple[str, ...] = ()

    @property
    def default_split(self) -> str:
        """The split that is asked unless another is named."""
        return next(iter(self.splits))
