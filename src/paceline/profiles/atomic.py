"""Writing so that a reader sees the whole of a file or directory or none of it, after a power cut too.

A rename is kept once the directory that holds the name is synced, and what is renamed has to be on the disk before it.
"""

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from paceline.errors import OutputPathError

AT_WORKING_DIRECTORY, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2(2)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a neighbour that is renamed over it; raises OutputPathError and leaves nothing behind."""
    with renamed_into_place(path) as neighbour:
        neighbour.write_bytes(content)


def keep_old(path: Path) -> Path | None:
    """Copy a file beside itself with the time it was written in the name, and return the copy's path; None without one.

    Raises OutputPathError when the copy cannot be written.
    """
    require_file_path(path)
    if not path.exists():
        return None
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    kept = path.with_name(f"{path.stem}-{written:%Y%m%dT%H%M%S.%fZ}{path.suffix}")
    with renamed_into_place(kept) as neighbour:
        shutil.copy2(path, neighbour)
    return kept


def require_file_path(path: Path) -> None:
    """Raise OutputPathError where no file can be written at a path: to be asked before the work, not after it."""
    try:
        if path.is_dir() or not path.name:
            raise OutputPathError(path, "it is a directory, and a file is to be written")
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            path.stat()  # an over-long name is an error here, which `exists` tells no more from Python 3.14 on
        if not path.parent.is_dir():
            missing = f"there is no directory {path.parent}"
            raise OutputPathError(path, os.strerror(errno.ENOTDIR) if path.parent.exists() else missing)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    if not os.access(path.parent, os.W_OK):
        raise OutputPathError(path, "permission denied")


@contextmanager
def renamed_into_place(path: Path) -> Generator[Path]:
    """Yield a neighbouring path to write to, which becomes `path` when the block ends without an error."""
    require_file_path(path)
    neighbour = _neighbour(path)
    try:
        yield neighbour
        _sync(neighbour)
        neighbour.replace(path)
        sync_directory(path.parent)
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
    neighbour = _neighbour(path)
    try:
        make_directory(path.parent)
        neighbour.mkdir()
        yield neighbour
        _sync_tree(neighbour)
        neighbour.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(neighbour, ignore_errors=True)


def _neighbour(path: Path) -> Path:
    """Return a hidden name beside a path that no process has, one of another machine with this process's number neither.

    A killed process leaves what stands there; nothing reads it, and it may be deleted.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing_directory(path: Path, kept: Path) -> Generator[Path]:
    """Yield an empty directory that takes the place of the one at `path` in one step, which is copied to `kept` before.

    Where the system exchanges no directories there is a moment without one at `path`. Raises OutputPathError; an error in the
    block leaves everything as it was.
    """
    neighbour = _neighbour(path)
    try:
        neighbour.mkdir()
        yield neighbour
        _sync_tree(neighbour)
        if not kept.exists():  # by a process that was killed before it went on: the name tells the time
            with new_directory(kept) as copy:
                shutil.copytree(path, copy, dirs_exist_ok=True, symlinks=True)
        _exchange(neighbour, path)
        sync_directory(path.parent)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(neighbour, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Give two directories one another's names, in one step where the system can; raises OSError."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        places = AT_WORKING_DIRECTORY, os.fsencode(one), AT_WORKING_DIRECTORY, os.fsencode(other)
        if call(*places, RENAME_EXCHANGE) == 0:
            return
    aside = _neighbour(other)
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


def refuse_occupied(path: Path) -> None:
    """Raise OutputPathError when `path` is a file or a directory that is not empty."""
    try:
        occupied = path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    if occupied:
        raise OutputPathError(path, "it exists already and is never overwritten; delete it first")


def make_directory(path: Path) -> bool:
    """Make a directory and those above it that are missing, so that a power cut keeps them; True when it was made.

    Raises OSError.
    """
    if path.is_dir():
        return False
    make_directory(path.parent)
    try:
        path.mkdir()
    except FileExistsError as error:
        if path.is_dir():  # another process was faster
            return False
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
    sync_directory(path.parent)
    return True


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk; raises OSError."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no directories
            raise


def _sync_tree(directory: Path) -> None:
    for folder, _folders, files in os.walk(directory):
        for name in files:
            _sync(Path(folder, name))
        sync_directory(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
