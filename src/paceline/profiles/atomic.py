"""Writing so that a reader sees the whole of a file or directory or none of it."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from paceline.errors import OutputPathError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a neighbour that is renamed over it; raises OutputPathError and leaves nothing behind."""
    with renamed_into_place(path) as neighbour:
        neighbour.write_bytes(content)


def keep_old(path: Path) -> Path | None:
    """Copy a file beside itself with the time it was written in the name, and return the copy's path; None without one.

    Raises OutputPathError when the copy cannot be written.
    """
    if not path.exists():
        return None
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    kept = path.with_name(f"{path.stem}-{written:%Y%m%dT%H%M%S.%fZ}{path.suffix}")
    try:
        shutil.copy2(path, kept)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    return kept


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
        with suppress(OSError):  # it is renamed, or its directory is what could not be written
            neighbour.unlink()


@contextmanager
def new_directory(path: Path) -> Generator[Path]:
    """Yield an empty neighbouring directory that becomes `path` when the block ends without an error.

    Raises OutputPathError when `path` holds something already, or cannot be made.
    """
    refuse_occupied(path)
    if path.resolve() == Path.cwd():
        raise OutputPathError(path, "it is the current directory, and a new one is put in its place")
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
