"""Writing so that a reader sees the whole of a file or directory or none of it."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from paceline.errors import OutputPathError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a neighbour that is renamed over it; raises OutputPathError and leaves nothing behind."""
    with renamed_into_place(path) as neighbour:
        neighbour.write_bytes(content)


@contextmanager
def renamed_into_place(path: Path) -> Generator[Path]:
    """Yield a neighbouring path to write to, which becomes `path` when the block ends without an error."""
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield neighbour
        _sync(neighbour)
        neighbour.replace(path)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    finally:
        neighbour.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Generator[Path]:
    """Yield an empty neighbouring directory that becomes `path` when the block ends without an error.

    Raises OutputPathError when `path` holds something already, or cannot be made.
    """
    refuse_occupied(path)
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        neighbour.mkdir()
        yield neighbour
        neighbour.replace(path)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(neighbour, ignore_errors=True)


def refuse_occupied(path: Path) -> None:
    """Raise OutputPathError when `path` is a file or a directory that is not empty."""
    try:
        occupied = path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    if occupied:
        raise OutputPathError(path, "it exists already and is never overwritten; delete it first")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
