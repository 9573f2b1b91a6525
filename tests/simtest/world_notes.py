"""What a simulated world keeps of its life: a trace with its digest, and the invariants that did not hold."""

import hashlib
from typing import Any

from virtual_loop import VirtualLoop

MOST_PROBLEMS = 50


class WorldNotes:
    """Notes of one world; the same seed notes the same."""

    loop: VirtualLoop

    def __init__(self, *, keep_trace: bool) -> None:
        self.problems: list[tuple[str, str]] = []
        self.lines: list[str] | None = [] if keep_trace else None
        self._digest = hashlib.blake2b(digest_size=16)

    def trace(self, *what: Any) -> None:
        """Note something that happened."""
        line = repr(what)
        self._digest.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    def wrong(self, invariant: str, what: str) -> None:
        """Note that an invariant does not hold."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append((invariant, f"{what} (at {self.loop.now:.6f} s, tick {self.loop.ticks})"))
