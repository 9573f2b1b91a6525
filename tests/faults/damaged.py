"""Damaged inputs by the thousand: each is a sentence, or the value that the file truly says; in bounded time and memory.

python tests/faults/damaged.py [--cases 100000] [--formats …] [--first 0]
"""

import argparse
import json
import math
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random

from formats import ANYTHING, FORMATS, Format, originals
from mutations import damaged
from results import origin, quick_folder

from paceline.errors import PacelineError

MOST_BYTES_MORE = 1 << 30
MOST_COMPLAINTS = 400
MOST_SECONDS, MOST_KILOBYTES = 3.0, 400_000  # of one reading, and by how much one may raise the process's peak


def limit_memory() -> None:
    """Let this process take so much more than it has; what asks for more is told that there is none."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES_MORE, resource.RLIM_INFINITY))


class Damage:
    """Originals in a folder, one file of which is damaged at a time."""

    def __init__(self, home: Path) -> None:
        self.home = home
        originals(home)
        self.contents = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}

    def case(self, form: Format, number: int) -> tuple[str, str | None]:
        """Read one damaged file; return how it ended and what is wrong with that, None when nothing is."""
        random = Random(f"{form.name} {number}")
        target = self.home / form.target
        content = damaged(form.shape, self.contents[target], random, form.seal)
        return self.content(form, content, rehash=random.random() < 0.7)

    def content(self, form: Format, content: bytes, *, rehash: bool = False) -> tuple[str, str | None]:
        """Read a format with this content in the place of its original's."""
        target = self.home / form.target
        target.write_bytes(content)
        if form.rehash is not None and rehash:
            form.rehash(self.home)
        peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            ended, problem = self._read(form, content, same=content == self.contents[target])
        finally:
            for path in {target, *(() if form.rehash is None else target.parent.glob("*.json"))}:
                path.write_bytes(self.contents[path])
        seconds = time.process_time() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        if seconds > MOST_SECONDS or grown > MOST_KILOBYTES:
            problem = problem or f"{seconds:.1f} s and {grown:,} kB"
        return ended, problem

    def _read(self, form: Format, content: bytes, *, same: bool) -> tuple[str, str | None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = form.read(self.home)
        except PacelineError as error:
            long = len(str(error)) > 3000
            wrong = "refused, and nothing was changed" if same else f"{len(str(error))} letters" if long else None
            return "a sentence", wrong
        except Exception as error:
            return "a traceback", f"{type(error).__name__}: {str(error)[:300]}"
        except BaseException as error:  # a panic of a library in Rust
            return "a panic", f"{type(error).__name__}: {str(error)[:300]}"
        if not finite(value):
            return "a value", f"no finite numbers: {value!r:.300}"
        if form.says is None:
            return "a value", None
        try:
            said = form.says(content)
        except Exception as error:
            return "a value", f"read as {value!r:.300}, and it says nothing ({type(error).__name__}: {error!s:.100})"
        if said is not ANYTHING and not equal(value, said):
            place, one, other = first_difference(value, said)
            return "a value", f"at {place} read as {one!r:.200}, and it says {other!r:.200}"
        return "a value", None


def finite(value) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def first_difference(value, said, place: str = ""):
    """Return where two values differ first, and both there."""
    if isinstance(value, dict) and isinstance(said, dict):
        pairs = [(name, value.get(name), said.get(name)) for name in {**value, **said}]
    elif isinstance(value, (list, tuple)) and isinstance(said, (list, tuple)) and len(value) == len(said):
        pairs = [(index, *both) for index, both in enumerate(zip(value, said, strict=True))]
    else:
        return place, value, said
    different = next(((name, one, other) for name, one, other in pairs if not equal(one, other)), None)
    return (place, value, said) if different is None else first_difference(*different[1:], f"{place}.{different[0]}")


def equal(value, said) -> bool:
    if isinstance(value, dict):
        return (
            isinstance(said, dict) and set(value) == set(said) and all(equal(value[name], said[name]) for name in value)
        )
    if isinstance(value, (list, tuple)):
        return isinstance(said, (list, tuple)) and len(value) == len(said) and all(map(equal, value, said))
    if isinstance(value, bool) or isinstance(said, bool):
        return value is said
    return value == said


def run(
    cases: int, *, first: int = 0, names=tuple(FORMATS), most_seconds: float = float("inf"), told=None, partly=None
) -> dict[str, object]:
    """Damage every format in turn, `cases` times in all; return counts by format and outcome, and complaints by number.

    `partly` is handed what there is after every hundred rounds.
    """
    counts = {name: Counter() for name in names}
    complaints: list[str] = []

    def found() -> dict[str, object]:
        return {"counts": {name: dict(each) for name, each in counts.items()}, "complaints": complaints}

    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        damage = Damage(Path(folder))
        for name in names:  # what is loaded with the first reading is no damage's
            damage.content(FORMATS[name], damage.contents[damage.home / FORMATS[name].target])
        limit_memory()
        until = time.monotonic() + most_seconds
        for number in range(first, first - (-cases // len(names))):
            if time.monotonic() > until:
                break
            for name in names:
                if told is not None:
                    told(f"{name} {number}")
                ended, problem = damage.case(FORMATS[name], number)
                counts[name][ended] += 1
                if problem is not None and len(complaints) < MOST_COMPLAINTS:
                    complaints.append(f"{name} {number}: {problem}")
            if partly is not None and number % 100 == 99:
                partly(found())
    return found()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after that long")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--told", type=Path, help="where the case at hand is noted, for one that ends the process")
    arguments = parser.parse_args()
    started = time.monotonic()

    def kept(found: dict[str, object], *, whole: bool = False) -> dict[str, object]:
        total = sum(sum(each.values()) for each in found["counts"].values())
        times = {"seconds": round(time.monotonic() - started, 1), "processor_seconds": round(time.process_time(), 1)}
        document = {
            **origin("make damaged"),
            "cases": total,
            "whole": whole,
            "first": arguments.first,
            **times,
            **found,
        }
        if arguments.results is not None:
            unfinished = arguments.results.with_suffix(".tmp")
            unfinished.write_text(json.dumps(document, indent=1) + "\n")
            unfinished.replace(arguments.results)
        return document

    found = run(
        arguments.cases,
        first=arguments.first,
        names=tuple(arguments.formats),
        most_seconds=arguments.seconds,
        told=arguments.told and arguments.told.write_text,
        partly=kept,
    )
    whole = sum(sum(each.values()) for each in found["counts"].values()) >= arguments.cases
    print(json.dumps(kept(found, whole=whole), indent=1))
    sys.exit(bool(found["complaints"]))


if __name__ == "__main__":
    main()
