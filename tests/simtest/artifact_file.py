"""The file that a server's controller is read from at each start: replaced, damaged and half replaced while it serves."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paceline.errors import PacelineError
from paceline.fit.table import save_table
from paceline.profiles import atomic
from paceline.serving.controllers import served_controllers


class KilledError(BaseException):
    """The writer's process is gone."""


class Artifact:
    """A table's file. `loaded` is what a server reads at its start; the others happen to it meanwhile."""

    def __init__(self, world: Any) -> None:
        self._world, self._home = world, Path(tempfile.mkdtemp(prefix="simtest-"))
        self.path = self._home / "table.json"
        self._bytes: list[bytes] = []  # every whole version that was written
        self._whole = True
        self._version = 0
        self._write(lambda: None)

    def loaded(self) -> dict[str, Any] | None:
        """Return the controllers that a server reads; None where it says why it cannot."""
        content = self.path.read_bytes()
        try:
            found = served_controllers(self.path, alpha=self._world.plan.alpha, tell=lambda _: None)
        except PacelineError as error:
            if self._whole or str(self.path) not in str(error):
                self._world.wrong("no file half-written", f"a file cannot be read: {error}")
            return None
        if self._whole and content != self._bytes[-1]:
            self._world.wrong("no file half-written", f"a file holds {len(content)} bytes of no version")
        return found

    def replaced(self, *, may_be_killed: bool = True) -> None:
        """A new version takes its place; whoever reads meanwhile sees one of the two, also where the writer is killed."""
        rng = self._world.rng
        killed_at = rng.randrange(0, 9) if may_be_killed and rng.random() < 0.5 else -1
        moments = iter(range(100))

        def between() -> None:
            if self._whole and self.path.read_bytes() not in (*self._bytes, self._next):
                self._world.wrong("no file half-written", "a reader sees half a file")
            if next(moments) == killed_at:
                raise KilledError

        try:
            self._write(between)
        except KilledError:
            self._world.trace("a writer was killed")
            if self.path.read_bytes() == self._next:
                self._bytes.append(self._next)
                self._whole = True

    def damaged(self) -> None:
        """Some of its bytes are lost or changed."""
        rng, content = self._world.rng, bytearray(self.path.read_bytes())
        if rng.random() < 0.5:
            del content[rng.randrange(0, len(content)) :]
        else:
            content[rng.randrange(0, len(content))] ^= 1 << rng.randrange(8)
        self.path.write_bytes(content)
        self._whole = False
        self._world.trace("damaged", len(content))

    def remove(self) -> None:
        """Remove it with its directory."""
        shutil.rmtree(self._home)

    def _write(self, between: Callable[[], None]) -> None:
        self._version += 1
        first = self._world.machine.first_ms
        new = self._world.table_of({key: ms + 1e-3 * (self._version - 1) for key, ms in first.items()})
        scratch = self._home / "scratch.json"
        save_table(new, scratch)
        self._next = scratch.read_bytes()
        scratch.unlink()
        sync = atomic._sync

        def watched(path: Path) -> None:
            between()
            sync(path)
            between()

        atomic._sync = watched
        try:
            save_table(new, self.path)
        finally:
            atomic._sync = sync
        self._bytes.append(self._next)
        self._whole = True
