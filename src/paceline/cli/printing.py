"""How every command prints: plain text for people, one JSON document for programs, progress on standard error.

Names, paths, answers and messages come from users, files and models. They are printed as they are: never read as markup,
and characters that would steer the terminal, or that it cannot show, become escapes. No other module of the command line
names a console.
"""

import json
import logging
import unicodedata
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from paceline.errors import PacelineWarning
from paceline.profiles.atomic import keep_old, write_atomically

_OUT = Console()
_LOG = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output instead of tables.")]
Mark = Literal["", "error", "fails", "warning", "caution", "left out"]
STYLES: dict[Mark, str] = {
    "": "",
    "error": "bold red",
    "fails": "bold red",
    "warning": "yellow",
    "caution": "yellow",
    "left out": "yellow",
}
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they show text in another order


def say(text: str, *, mark: Mark = "") -> None:
    """Print text on standard output as it is, after a mark where one is given."""
    _print(_OUT, text, mark)


def note(text: str, *, mark: Mark = "") -> None:
    """Print text on standard error as it is, after a mark where one is given."""
    _print(_LOG, text, mark)


def note_written(path: Path, *, kept: Path | None = None, size_bytes: int | None = None) -> None:
    """Say on standard error what was written, how large it is and where what it replaces is kept."""
    size = "" if size_bytes is None else f" ({size_bytes / 1e6:.2f} MB)"
    note(f"wrote {path}{size}" + (f"; what it replaces is kept as {kept}" if kept else ""))


def print_raw(text: str) -> None:
    """Put text that programs read on standard output at once, not a byte of it changed."""
    typer.echo(text, nl=False)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output; NaN and infinity are refused, for JSON has neither."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def write_document(path: Path, document: Any) -> None:
    """Write one JSON document to a file, whole or not at all, and say where; an older file is kept beside it.

    Raises OutputPathError when that cannot be done.
    """
    kept = keep_old(path)
    write_atomically(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    note_written(path, kept=kept)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title; the first column is left-aligned, the rest right-aligned, None is a dash."""
    table = Table(title=_title(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(_shown(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_shown("-" if cell is None else str(cell)) for cell in row))
    _OUT.print(table)


def print_facts(title: str, facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values under a title, a line each."""
    table = Table(title=_title(title), title_justify="left", box=None, show_header=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(_shown(name), _shown(str(value)))
    _OUT.print(table)


@contextmanager
def progress_bars(*labels: str) -> Generator[list[Callable[[int, int], None]]]:
    """Show a bar with the time left for each label on standard error, from when it first moves.

    Yields the callbacks (done, total) that move them.
    """
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*shown, TextColumn("left"), TimeRemainingColumn(), console=_LOG) as progress:
        yield [
            _mover(progress, progress.add_task(visible_in_a_table(label), total=None, visible=False, start=False))
            for label in labels
        ]


@contextmanager
def progress_bar(label: str) -> Generator[Callable[[int, int], None]]:
    """Show one bar with the time left on standard error; yields the callback (done, total) that moves it."""
    with progress_bars(label) as (move,):
        yield move


def _mover(progress: Progress, task: TaskID) -> Callable[[int, int], None]:
    def move(done: int, total: int) -> None:
        if not progress.tasks[task].started:
            progress.start_task(task)
        progress.update(task, completed=done, total=total, visible=True)

    return move


@contextmanager
def warnings_as_notes() -> Generator[None]:
    """Print every PacelineWarning, and what is logged as a warning, on standard error without the place it comes from."""
    ours, handler = logging.getLogger("paceline"), _Logged(logging.WARNING)
    ours.addHandler(handler)
    try:
        with _warnings_shown():
            yield
    finally:
        ours.removeHandler(handler)


class _Logged(logging.Handler):
    """Prints what is logged: a name in it steers no terminal either."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, or what was raised over several."""
        note(self.format(record), mark="" if record.exc_info else "warning")


@contextmanager
def _warnings_shown() -> Generator[None]:
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, PacelineWarning):
                note(str(message), mark="warning")
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def visible(text: str, encoding: str = "utf-8") -> str:
    """Return text of which every character can be seen: what steers a terminal, or is not in `encoding`, is an escape.

    Line ends and tabs stay.
    """
    if not text.isprintable():
        text = "".join(_escape(letter) if _steers(letter) else letter for letter in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def visible_in_a_table(text: str, encoding: str = "utf-8") -> str:
    """Return visible text of which no line is lost in a table: one without any width, such as a lone accent, is escapes."""
    lines = visible(text, encoding).split("\n")
    return "\n".join(_escape(line) if line and not cell_len(line) else line for line in lines)


def _steers(letter: str) -> bool:
    if letter in "\n\t":
        return False
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(letter) in BIDIRECTIONAL


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _print(console: Console, text: str, mark: Mark) -> None:
    line = Text()
    if mark:
        line.append(f"{mark}:", style=STYLES[mark]).append(" ")
        text = text.replace("\n", "\\n")  # what is marked is one line, whatever the names in it
    console.print(line.append(visible(text, console.encoding)), soft_wrap=True)


def _shown(text: str, style: str = "") -> Text:
    return Text(visible_in_a_table(text, _OUT.encoding), style=style)


def _title(text: str) -> Text | None:
    return _shown(text, "bold") if text else None
