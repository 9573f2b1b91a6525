"""Public sets as questions: streamed in their own order, or a seeded sample of them. Rows never stand in memory together."""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from paceline.datasets.picture_source import EncodedPicture
from paceline.datasets.prompts import prompt_of
from paceline.datasets.public.description import Asked, PublicSet, Row
from paceline.datasets.question import VisualQuestion
from paceline.datasets.rows import FileRow, check_columns, full_columns, light_columns, read_chosen_rows, read_rows
from paceline.datasets.sampling import stratified_order
from paceline.datasets.sources import OpenedSet
from paceline.errors import DatasetError, OutputPathError

ID_DIGITS = 16
Keep = Callable[[bytes], Callable[[], bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledQuestions:
    """Questions in the order in which they are asked, how many there were, and how many rows were no question of the set."""

    questions: tuple[VisualQuestion, ...]
    available: int
    left_out: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one question stands: its row, and its place among several of that row; and its id."""

    file: int
    row: int
    position: int
    sample_id: str


def stream_questions(opened: OpenedSet) -> Iterator[VisualQuestion]:
    """Yield every question of the split in the order of its files, its picture held as the file's bytes until it is asked.

    Raises DatasetError, naming file, row and field, at the first row that is not as the set is described.
    """
    for file in opened.files.files:
        check_columns(opened.public, file)
    seen: dict[str, int] = {}
    for row in read_rows(opened.files, partial(full_columns, opened.public)):
        for place, asked in _asked(opened, row, seen):
            yield _question(opened, row, place, asked, keep=_in_memory)


def sample_questions(opened: OpenedSet, *, count: int, seed: int) -> SampledQuestions:
    """Return `count` questions drawn with a seed, of each of the set's types its share; all where there are not so many.

    The questions are looked through without their pictures first. Those chosen are then fetched into a temporary file, from
    which each picture is opened when it is asked for, and every one is decoded once, so that a picture that cannot be read
    is known before a long run. Raises DatasetError as `stream_questions` does.
    """
    for file in opened.files.files:
        check_columns(opened.public, file)
    places: dict[str, _Place] = {}
    types: dict[str, tuple[str, ...]] = {}
    seen: dict[str, int] = {}
    left_out = 0
    for row in read_rows(opened.files, partial(light_columns, opened.public)):
        left_out += _is_left_out(opened.public, row.values)
        for place, asked in _asked(opened, row, seen):
            places[place.sample_id], types[place.sample_id] = place, asked.types
    order = stratified_order(types, seed=seed)[:count]
    if not order:
        raise DatasetError(
            opened.files.place, f"the split {opened.files.split!r} holds no question", expected="at least one"
        )
    found = _fetch(opened, [places[sample_id] for sample_id in order])
    return SampledQuestions(
        questions=tuple(found[places[sample_id]] for sample_id in order), available=len(places), left_out=left_out
    )


def _fetch(opened: OpenedSet, wanted: list[_Place]) -> dict[_Place, VisualQuestion]:
    chosen: dict[int, set[int]] = {}
    for place in wanted:
        chosen.setdefault(place.file, set()).add(place.row)
    keep, asked_for = PictureSpool().keep, set(wanted)
    found: dict[_Place, VisualQuestion] = {}
    for row in read_chosen_rows(opened.files, partial(full_columns, opened.public), chosen):
        for place, asked in _asked(opened, row, {}):
            if place in asked_for:
                found[place] = _question(opened, row, place, asked, keep=keep)
                for picture in found[place].pictures:
                    picture.open()
    return found


class PictureSpool:
    """A temporary file of encoded pictures, gone when the last question that reads it is."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as its readers
        weakref.finalize(self, self._file.close)
        self._end = 0

    def keep(self, content: bytes) -> Callable[[], bytes]:
        """Write a picture and return what reads it back, from any thread; raises OutputPathError on a full disk."""
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise OutputPathError(tempfile.gettempdir(), error.strerror or str(error)) from error
        start, self._end = self._end, self._end + len(content)
        return lambda: os.pread(self._file.fileno(), len(content), start)


def _in_memory(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _asked(opened: OpenedSet, row: FileRow, seen: dict[str, int]) -> Iterator[tuple[_Place, Asked]]:
    """Yield the questions of a row; raises DatasetError for an id that another row had."""
    public, file = opened.public, opened.files.files[row.file]
    if _is_left_out(public, row.values):
        return
    for position, values in enumerate(_entries(public, file, row)):
        asked = public.ask(Row(values=values, place=file, number=row.row))
        sample_id = asked.sample_id or _numbered(public, row, position)
        if sample_id in seen:
            raise DatasetError(
                file,
                f"the id {sample_id!r} stands in row {seen[sample_id]} of the split already",
                expected="each id once",
                mend="remove one of the two",
                row=row.row,
                field=next(iter(public.columns)),
            )
        seen[sample_id] = row.number
        yield _Place(row.file, row.row, position, sample_id), asked


def _entries(public: PublicSet, file: str, row: FileRow) -> Iterator[Mapping[str, Any]]:
    if public.nested is None:
        yield row.values
        return
    entries = row.values[public.nested]
    if not entries:
        raise DatasetError(file, "is empty", expected="at least one question", row=row.row, field=public.nested)
    for entry in entries:
        if entry is None:
            raise DatasetError(
                file, "holds null", expected="a question in every entry", row=row.row, field=public.nested
            )
        yield {**row.values, **entry}


def _is_left_out(public: PublicSet, values: Mapping[str, Any]) -> bool:
    return public.pictures_optional and all(values.get(name) is None for name in public.pictures)


def _numbered(public: PublicSet, row: FileRow, position: int) -> str:
    return str(row.number) if public.nested is None else f"{row.number}-{position}"


def _question(opened: OpenedSet, row: FileRow, place: _Place, asked: Asked, *, keep: Keep) -> VisualQuestion:
    public = opened.public
    names = asked.pictures or public.pictures[:1]
    pictures = tuple(_picture(opened.files.files[row.file], row, name, keep) for name in names)
    template = opened.prompt_template or asked.prompt_template or public.prompt_template
    question = VisualQuestion(
        sample_id=place.sample_id,
        dataset=public.name,
        pictures=pictures,
        prompt=prompt_of(asked, template),
        references=asked.references,
        scorer=opened.scorer,
        choices=asked.choices,
        picture_id=asked.picture_id or (None if public.nested is None else str(row.number)),
        types=asked.types,
    )
    # where the set has no ids of pictures, equal bytes are one picture
    return question if question.picture_id else replace(question, picture_id=question.picture_sha256[:ID_DIGITS])


def _picture(file: str, row: FileRow, name: str, keep: Keep) -> EncodedPicture:
    value = row.values.get(name)
    content = None if value is None else value["bytes"]
    if not content:
        problem = "is null" if value is None or not value.get("path") else f"is the path {value['path']!r} alone"
        mend = "write the file with its pictures in it, as Dataset.to_parquet does" if problem != "is null" else None
        raise DatasetError(file, problem, expected="a picture in the file", mend=mend, row=row.row, field=name)
    return EncodedPicture(read=keep(content), place=file, row=row.row, field=name)
