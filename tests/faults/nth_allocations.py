"""Every n-th allocation of the readers fails: an error, a sentence or the true value; nothing stays open, and all is read again.

    python tests/faults/nth_allocations.py [--most 4000] [--formats journal …]

A reader's allocations through Python's own allocators (objects, JSON, numpy's and pillow's Python side; not what Rust and C take
by themselves) are counted in a child process, `_testcapi.set_nomemory` lets the n-th fail, once, and the same file is read again
whole right after it. Where a reader makes more than `--most`, n goes in even steps. Libraries in C and Rust give a failed
allocation other names (SystemError, a panic) or end the process: both are counted, the latter with the line that called them.
"""

import _testcapi
import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from itertools import repeat
from pathlib import Path

from damaged import Damage, equal
from formats import FORMATS, Format
from results import keep, quick_folder

from paceline.errors import PacelineError

MANY = 1 << 20  # more than any reader here allocates
MOST_CRASHES = 30


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def allocations(form: Format, home: Path) -> int:
    """Count what one reading allocates: how far a failure set for later is from its end."""
    gc.collect()
    _testcapi.set_nomemory(MANY, MANY + 1)
    left = 0
    try:
        form.read(home)
        for _ in repeat(None):
            object()
            left += 2  # the object, and this number
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
    return MANY - left


def failed_once(form: Format, home: Path, number: int, whole: object) -> tuple[str, str | None]:
    """Let one allocation of a reading fail; return how it ended and what is wrong with that, None when nothing is."""
    value: object = None
    _testcapi.set_nomemory(number, number + 1)
    try:
        value = form.read(home)
        ended = "the value"
    except MemoryError:
        ended = "no memory"
    except PacelineError:
        ended = "a sentence"
    except BaseException as error:
        ended = f"a library's {type(error).__name__}"
    finally:
        _testcapi.remove_mem_hooks()
    if ended == "the value" and not equal(value, whole):
        return ended, "another value"
    return ended, None if equal(form.read(home), whole) else "read again it has another value"


def child(name: str, home: Path, first: int, most: int) -> None:
    """Go through the allocations of one format from `first`, telling each number before it and each outcome after it."""
    form = FORMATS[name]
    warnings.simplefilter("ignore")
    form.read(home)  # what is loaded and kept with the first readings is no later one's
    whole = form.read(home)
    count = allocations(form, home)
    step = max(1, -(-count // most))
    print(json.dumps([count, step]), flush=True)
    descriptors = open_descriptors()
    for number in range(first, count + 1, step):
        print(number, flush=True)
        ended, problem = failed_once(form, home, number, whole)
        if open_descriptors() > descriptors:
            problem = problem or "a file is left open"
            descriptors = open_descriptors()
        print(json.dumps([ended, problem]), flush=True)


def _told(name: str, home: Path, *, first: int, most: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", __file__, "--child", name, str(home), str(first), str(most)]
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | paths)


def through(name: str, home: Path, most: int) -> dict[str, object]:
    """Fail the allocations of one format, going on in a new child behind one that ended a child."""
    count = step = first = 1
    ended: Counter[str] = Counter()
    complaints: list[str] = []
    crashes: list[str] = []
    while first <= count:
        run = _told(name, home, first=first, most=most)
        counted, *lines = run.stdout.splitlines()
        count, step = json.loads(counted)
        for number, outcome in zip(lines[::2], lines[1::2], strict=False):
            how, problem = json.loads(outcome)
            ended[how] += 1
            complaints += [f"{name} {number}: {problem}"] if problem else []
        if run.returncode == 0:
            break
        if len(lines) % 2 == 0:  # between two failures: not by one
            complaints.append(f"{name}: the child ended with {run.returncode}: {run.stderr[-300:]}")
            break
        where = re.search(r'File "([^"]+)", line (\d+) in (\w+)', run.stderr)
        crashes.append(f"{lines[-1]}: {Path(where[1]).name}:{where[2]} {where[3]}" if where else lines[-1])
        ended["the child ended"] += 1
        first = int(lines[-1]) + step
        if len(crashes) >= MOST_CRASHES:
            complaints.append(f"{name}: {len(crashes)} crashes, the last at {crashes[-1]}")
            break
    return {"allocations": count, "step": step, "ended": dict(ended), "crashes": crashes, "complaints": complaints}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=4000, help="failures of one format")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    formats: dict[str, dict] = {}
    result: dict[str, object] = {}
    complaints: list[str] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        Damage(Path(folder))  # writes the originals
        for name in arguments.formats:
            found = through(name, Path(folder), arguments.most)
            complaints += found.pop("complaints")
            formats[name] = found
            print(name, json.dumps(found), flush=True)
            result = {
                "most": arguments.most,
                "whole": len(formats) == len(arguments.formats),
                "failures": sum(sum(each["ended"].values()) for each in formats.values()),
                "formats": formats,
                "seconds": round(time.monotonic() - started, 1),
                "complaints": complaints,
            }
            keep("nth allocations", result, arguments.results)
    print(json.dumps({name: result[name] for name in ("failures", "seconds", "complaints")}, indent=1))
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
