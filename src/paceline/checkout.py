"""The commit of the checkout that this package runs from, and of no other repository that it happens to lie in."""

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = Path("src", "paceline")  # of the package within its own checkout


def own_commit(package: Path = HERE) -> str | None:
    """Return the commit that the package's own checkout is at; None for a package installed into another repository.

    An environment inside a user's repository would otherwise put the user's commit beside every figure.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / PLACE != package:
        return None
    return _git(package, "rev-parse", "HEAD")


def _git(directory: Path, *words: str) -> str | None:
    try:
        asked = ["git", "-C", str(directory), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
