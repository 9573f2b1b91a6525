"""The wheel, built twice from the tracked files: refused unless both have the same bytes and it is at most 15 MB.

    python release/twice_built.py [--out dist]

Needs git and setuptools; no network. `SOURCE_DATE_EPOCH` is the time of the last commit unless it is set. The description that
goes with the wheel is README.md without links into the checkout, which lead nowhere from a package's page.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST_BYTES = 15_000_000
PARTS = ("src", "pyproject.toml", "README.md", "LICENSE")
BUILD = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"


def tracked_files(root: Path = ROOT) -> list[str]:
    """Return the tracked files that a wheel is made of, relative to the checkout."""
    told = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", *PARTS], capture_output=True, text=True, check=True
    )
    return sorted(each for each in told.stdout.split("\0") if each)


def last_commit_seconds(root: Path = ROOT) -> int:
    """Return the time of the last commit, in seconds since 1970."""
    told = subprocess.run(
        ["git", "-C", str(root), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


def described(readme: str) -> str:
    """Return README.md as it reads outside of the checkout: links and pictures of files in it are their words, or left out."""
    inside = r"\((?![a-z]+:|#)[^)\s]+\)"
    return re.sub(rf"\[([^\]]*)\]{inside}", r"\1", re.sub(rf"!\[[^\]]*\]{inside}\n*", "", readme))


def build_wheel(out: Path, *, epoch_seconds: int, root: Path = ROOT) -> Path:
    """Build the wheel of the tracked files as they stand in the checkout into `out`, and return its path.

    Files keep no trace of who checked them out: modes are 644, and times are `epoch_seconds`.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        for name in tracked_files(root):
            copied = tree / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copied)
            copied.chmod(0o644)
        (tree / "README.md").write_text(described((root / "README.md").read_text()))
        made = Path(folder) / "made"
        made.mkdir()
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch_seconds), "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-c", BUILD, str(made)]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the wheel cannot be built:\n{done.stderr}")
        (wheel,) = made.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, out / wheel.name))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Build, compare, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or last_commit_seconds())
    wheel = build_wheel(out, epoch_seconds=epoch)
    with tempfile.TemporaryDirectory() as folder:
        again = build_wheel(Path(folder), epoch_seconds=epoch)
        if digest(wheel) != digest(again):
            sys.exit(f"two builds of {wheel.name} differ: {digest(wheel)} and {digest(again)}")
    size = wheel.stat().st_size
    if size > LARGEST_BYTES:
        sys.exit(f"{wheel.name} has {size:,} bytes; at most {LARGEST_BYTES:,} are wanted")
    (out / f"{wheel.name}.sha256").write_text(f"{digest(wheel)}  {wheel.name}\n")
    print(f"{wheel}: {size:,} bytes, the same in two builds, sha256 {digest(wheel)}")


if __name__ == "__main__":
    main()
