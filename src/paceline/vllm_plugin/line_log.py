"""A log of JSON lines whose trouble stays its own: an engine that serves goes on when its log cannot be written."""

import logging
import os
import stat
from io import FileIO
from pathlib import Path

LOG = logging.getLogger(__name__)


class LineLog:
    """Appends whole lines to a file; the first write that fails is warned of, and nothing is written after it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    @staticmethod
    def open(path: Path) -> "LineLog":
        """Open a file to append to, on a fresh line where a killed engine left a torn one; a file that fails is warned of."""
        log = LineLog(path)
        try:
            log._file = FileIO(path, "a")
            if _ends_within_a_line(path):
                log._file.write(b"\n")
        except OSError as error:
            log._stop(error)
        return log

    def append(self, line: str) -> None:
        """Write a line and its line break, at once: a killed engine loses at most the line that it was writing."""
        if self._file is None:
            return
        try:
            _write_whole(self._file, line.encode() + b"\n")
        except OSError as error:
            self._stop(error)

    def close(self) -> None:
        """Close the file; never raises."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:  # a network's file system may say only now that a write failed
                LOG.warning("%s may lack its last lines: %s", self._path, error.strerror or error)

    def _stop(self, error: OSError) -> None:
        LOG.warning(
            "%s cannot be written (%s): this log ends here, the engine goes on without it; make room or the directory, "
            "and start the engine again to have a log",
            self._path,
            error.strerror or error,
        )
        self.close()


def _write_whole(file: FileIO, line: bytes) -> None:
    # one write of a file that is only appended to: lines of several engines do not mix
    left = line
    while left:
        left = left[file.write(left) :]
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
        raise OSError("the file, or its directory, was removed while it was written")


def _ends_within_a_line(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
