"""The calls of the operating system that the store makes, each of which can fail, be cut short, or be the last.

Everything goes through `Calls.made(kind, path)`, before and after it is made: what a test does there is its own.
"""

import builtins
import errno
import fcntl
import io
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

REAL = {
    name: getattr(os, name)
    for name in (
        "open", "write", "fsync", "ftruncate", "pwrite", "pread", "replace", "rename", "mkdir", "unlink", "rmdir",
    )
}  # fmt: skip
REAL_OPEN, REAL_FLOCK = io.open, fcntl.flock
KINDS = ("open", "write", "fsync", "rename", "truncate", "mkdir", "unlink", "lock", "read")
KIND_OF = {
    "open": "open",
    "write": "write",
    "pwrite": "write",
    "fsync": "fsync",
    "ftruncate": "truncate",
    "pread": "read",
    "replace": "rename",
    "rename": "rename",
    "mkdir": "mkdir",
    "unlink": "unlink",
    "rmdir": "unlink",
}
Before = Callable[[str, int], int | None]


class Calls:
    """Counts calls; `before(kind, number)` may raise, or return how many bytes of a write are let through; `after(kind)`."""

    def __init__(self, root: Path, before: Before, after: Callable[[str], None] = lambda kind: None) -> None:
        self.root, self.before, self.after, self.made = str(root), before, after, 0
        self.counts = dict.fromkeys(KINDS, 0)

    def concerns(self, target) -> bool:
        if isinstance(target, int):
            try:
                target = os.readlink(f"/proc/self/fd/{target}")
            except OSError:
                return False
        return isinstance(target, (str, os.PathLike)) and os.fspath(target).startswith(self.root)

    def through(self, kind: str, call, *arguments, data=None):
        self.made += 1
        self.counts[kind] += 1
        allowed = self.before(kind, self.made)
        if data is not None and allowed is not None:
            arguments = tuple(bytes(data)[:allowed] if each is data else each for each in arguments)
        result = call(*arguments)
        self.after(kind)
        return result

    @contextmanager
    def watched(self):
        """Let every call below the root come through here."""
        with ExitStack() as stack:
            for name, real in REAL.items():
                stack.enter_context(patch.object(os, name, self._wrapped(name, real)))
            for module in (io, builtins):
                stack.enter_context(patch.object(module, "open", self._opened))
            stack.enter_context(patch.object(fcntl, "flock", self._locked))
            yield self

    def _wrapped(self, name, real):
        kind = KIND_OF[name]

        def call(target, *arguments, **named):
            if named or not self.concerns(target):
                return real(target, *arguments, **named)
            data = arguments[0] if kind == "write" else None
            return self.through(kind, real, target, *arguments, data=data)

        return call

    def _locked(self, descriptor, operation):
        if not self.concerns(descriptor):
            return REAL_FLOCK(descriptor, operation)
        return self.through("lock", REAL_FLOCK, descriptor, operation)

    def _opened(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **named):
        if not self.concerns(file) or isinstance(file, int):
            return REAL_OPEN(file, mode, buffering, encoding, errors, newline, **named)
        raw = self.through("open", _WatchedFile, self, file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedReader(raw) if mode.startswith("r") and "+" not in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)


class _WatchedFile(io.FileIO):
    def __init__(self, calls: Calls, file, mode: str) -> None:
        super().__init__(file, mode)
        self._calls = calls

    def write(self, data) -> int:
        if not self._calls.concerns(self.fileno()):
            return super().write(data)
        return self._calls.through("write", super().write, data, data=data)

    def readall(self) -> bytes:
        return self._calls.through("read", super().readall)

    def readinto(self, buffer) -> int:
        return self._calls.through("read", super().readinto, buffer)


def failing_at(number: int, code: int, *, kind: str | None = None, sticky: bool = False, short: bool = False) -> Before:
    """Return what fails the call of that number (of one kind, or of any), and with `sticky` all that come after it.

    With `short` a write is let through by half, and what follows it fails. EINTR comes three times in a row at most: Python's own
    buffers call again for as long as it comes (PEP 475).
    """
    seen = 0
    last = number + 3 if code == errno.EINTR else sys.maxsize

    def before(made_kind: str, _made: int) -> int | None:
        nonlocal seen
        if kind is not None and made_kind != kind:
            return None
        seen += 1
        if short and seen == number and made_kind == "write":
            return 7
        if seen == number or (sticky and number < seen < last):
            raise OSError(code, os.strerror(code))
        return None

    return before


CODES = (errno.ENOSPC, errno.EIO, errno.EINTR)
