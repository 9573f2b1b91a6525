"""What a compaction remembers of a journal, so that a journal changed since is never taken for the one compacted."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

SURELY_LATER_NS = 2_000_000_000  # the coarsest clock of a file system, FAT's
WORTH_WAITING_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """How the operating system numbers the state of a file: any write to it moves `changed_ns`, which no program can set."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @staticmethod
    def of(status: os.stat_result) -> "FileState":
        """Return the state that a status tells."""
        return FileState(
            inode=status.st_ino,
            size_bytes=status.st_size,
            modified_ns=status.st_mtime_ns,
            changed_ns=status.st_ctime_ns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStamp:
    """A journal as it was read: the SHA-256 of its whole lines, and its state where that state tells every later change.

    `state` is None where the file was written to so shortly before, or during, the reading that a later write could leave
    the same state; then, and where the state differs, as in a copy of the store, the lines are hashed to compare.
    """

    sha256: str
    state: FileState | None

    def stands(self, journal: Path) -> bool:
        """Tell whether the journal still holds exactly what was read; raises OSError."""
        if self.state is not None and FileState.of(journal.stat()) == self.state:
            return True
        with journal.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def settled_state(before: os.stat_result, after: os.stat_result) -> FileState | None:
    """Return the state of a file whose status was taken before and after reading it, None where it cannot be relied on."""
    state = FileState.of(before)
    settled = time.time_ns() - state.changed_ns >= SURELY_LATER_NS
    return state if settled and FileState.of(after) == state else None


def wait_until_settled(journal: Path) -> None:
    """Wait, two seconds at most, until a large journal's state can be relied on; a small one is hashed sooner than that."""
    status = journal.stat()
    left_ns = SURELY_LATER_NS - (time.time_ns() - status.st_ctime_ns)
    if status.st_size >= WORTH_WAITING_BYTES and left_ns > 0:
        time.sleep(min(left_ns, SURELY_LATER_NS) / 1e9)
