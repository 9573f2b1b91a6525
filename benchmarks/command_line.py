"""The command that a benchmark's results name: as it was typed, without the places of one machine."""

import sys
from pathlib import Path


def command_line(script: str) -> str:
    """Return the command of a script of this folder, absolute paths by their last part alone."""
    words = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])
    return " ".join(["python", f"benchmarks/{script}", *words])
