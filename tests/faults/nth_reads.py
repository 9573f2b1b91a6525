"""Every n-th open and read of every reader fails with EIO, EACCES, ENOSPC or EINTR: a sentence that names a file, or the value.

    python tests/faults/nth_reads.py [--formats journal …]

The calls that Python makes are failed, not those that polars makes by itself for a path.
"""

import argparse
import errno
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from itertools import count
from pathlib import Path

from damaged import Damage, equal
from faulty_calls import Calls, failing_at
from formats import FORMATS
from results import keep, quick_folder

from paceline.errors import PacelineError

OF_FILES = [name for name in FORMATS if not name.endswith(" header") and name.split()[0] not in ("HTTP", "streamed")]
CODES = (errno.EIO, errno.EACCES, errno.ENOSPC, errno.EINTR)


def reading(name: str, home: Path, kind: str, number: int, code: int, whole: object) -> tuple[str, str | None]:
    """Read a format with one call failing; return how it ended, "not met" where there are fewer calls, and what is wrong."""
    calls = Calls(home, failing_at(number, code, kind=kind))
    try:
        with calls.watched():
            value = FORMATS[name].read(home)
    except PacelineError as error:
        told = str(error)
        named = (
            any(part in told for part in (FORMATS[name].target.rsplit("/", 1)[-1], str(home))) or code == errno.EINTR
        )
        return "a sentence", None if named else f"names no file: {told:.200}"
    except Exception as error:
        return "a traceback", f"{type(error).__name__}: {error!s:.200}"
    ended = "the value" if calls.counts[kind] >= number else "not met"
    return ended, None if equal(value, whole) else "another value"


def every(home: Path, names=tuple(OF_FILES)) -> dict[str, object]:
    Damage(home)
    ended: Counter[str] = Counter()
    complaints: list[str] = []
    for name in names:
        whole = FORMATS[name].read(home)
        for kind in ("open", "read"):
            for code in CODES:
                for number in count(1):
                    how, problem = reading(name, home, kind, number, code, whole)
                    if problem is not None:
                        complaints.append(f"{name}, {kind} {number} fails with {errno.errorcode[code]}: {problem}")
                    if how == "not met":
                        break
                    ended[how] += 1
    return {"ended": dict(ended), "complaints": complaints}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=OF_FILES, choices=OF_FILES)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.process_time()
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        found = every(Path(folder), tuple(arguments.formats))
    found |= {"processor_seconds": round(time.process_time() - started, 1)}
    print(json.dumps(found, indent=1))
    keep("nth reads", found, arguments.results)
    sys.exit(bool(found["complaints"]))


if __name__ == "__main__":
    main()
