"""Locks between processes: one writer a journal, one process at a time in a store's description."""

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from paceline.errors import OutputPathError, ProfileConflictError


def hold_lock(path: Path, *, guards: Path) -> int:
    """Take the lock file at once and return its descriptor; the lock ends with the descriptor or the process.

    Raises ProfileConflictError, naming the process that holds it, when another one writes `guards`, OutputPathError where no
    lock can be had.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise ProfileConflictError(
            f"{guards} is being written by another process{f' (pid {holder})' if holder else ''}; expected one writer "
            "a rank: wait for it to end, give this process another rank, or choose another --out"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise OutputPathError(path.parent, error.strerror or str(error)) from error
    with suppress(OSError):  # who holds it is told as a courtesy, and on a full disk not at all
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


@contextmanager
def wait_for_lock(path: Path) -> Generator[None]:
    """Hold the lock file for the length of the block, waiting for others that hold it for a moment.

    Raises OutputPathError where it cannot be had.
    """
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise OutputPathError(path.parent, error.strerror or str(error)) from error
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return open_unlinked(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputPathError(path.parent, error.strerror or str(error)) from error


def open_unlinked(path: Path, flags: int) -> int:
    """Open a file to write in it and return its descriptor; raises OSError where the name is a symbolic link.

    A store that came from elsewhere could have what is cut and appended to lead to any file of this user.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise OSError(
                errno.ELOOP, f"{path.name} is a symbolic link, which is not followed; copy the file"
            ) from error
        raise
