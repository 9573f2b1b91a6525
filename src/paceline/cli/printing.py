"""How every command prints: tables for people, one JSON document for programs, progress on standard error."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
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

from paceline.profiles.atomic import keep_old, write_atomically

OUT = Console()
LOG = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output instead of tables.")]


def print_json(document: Any) -> None:
    """Print one JSON document on standard output; NaN and infinity are refused, for JSON has neither."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def write_document(path: Path, document: Any) -> None:
    """Write one JSON document to a file, whole or not at all, and say where; an older file is kept beside it.

    Raises OutputPathError when that cannot be done.
    """
    kept = keep_old(path)
    write_atomically(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    LOG.print(f"wrote {path}" + (f"; the older one is {kept}" if kept else ""))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title; the first column is left-aligned, the rest right-aligned."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else escape(str(cell)) for cell in row))
    OUT.print(table)


def print_facts(title: str, facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values under a title, a line each."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, escape(str(value)))
    OUT.print(table)


@contextmanager
def progress_bars(*labels: str) -> Generator[list[Callable[[int, int], None]]]:
    """Show a bar with the time left for each label on standard error, from when it first moves.

    Yields the callbacks (done, total) that move them.
    """
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*shown, TextColumn("left"), TimeRemainingColumn(), console=LOG) as progress:
        yield [_mover(progress, progress.add_task(label, total=None, visible=False, start=False)) for label in labels]


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
