"""Every n-th call of the store fails: with ENOSPC, EIO and EINTR, once, and from there on, and after half a write.

    python tests/faults/nth_calls.py [--step 1] [--kinds profile …]

For each kind of work, of call and of failure, n rises until the work makes fewer calls than that.
"""

import argparse
import errno
import json
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path

from faulty_calls import CODES, KINDS, Calls, failing_at
from results import keep, quick_folder
from store_work import WORK, Told, complaint, note_in, parts

from paceline.errors import PacelineError

MODES = {"once": {}, "from there on": {"sticky": True}, "after half a write": {"short": True, "sticky": True}}


def one(kind: str, before, retries: int = 0) -> tuple[bool, str | None]:
    """Do one work under a fault; return whether the fault was met, and what is wrong then, None when nothing is."""
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        root, told = Path(folder) / "root", Told()
        root.mkdir()
        if kind == "merge":
            parts(root)
        met = False

        def noting(made: str, number: int) -> int | None:
            nonlocal met
            try:
                allowed = before(made, number)
            except OSError:
                met = True
                raise
            met = met or allowed is not None
            return allowed

        work = WORK[kind][0]
        named = {"retries": retries} if kind == "profile" and retries else {}
        problem = None
        with Calls(root, noting).watched():
            try:
                work(root, note_in(told), **named)
            except PacelineError:
                pass
            except Exception as error:
                problem = f"a traceback: {type(error).__name__}: {error}"
        return met, problem or complaint(kind, root, told)


def every(step: int = 1, *, kinds=tuple(WORK), modes=tuple(MODES), codes=CODES) -> dict[str, object]:
    """Fail call after call (every `step`-th) of every kind with every code, until a run meets none; return what was found.

    `faults` counts by work and kind of call, `calls` holds the number of calls of that kind that the work makes.
    """
    faults: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    calls: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    complaints: list[str] = []
    for kind, call, mode, code in product(kinds, KINDS, modes, codes):
        if mode == "after half a write" and call != "write":
            continue
        number = 1
        while True:
            retries = number % 2 if mode == "once" else 0
            met, problem = one(kind, failing_at(number, code, kind=call, **MODES[mode]), retries)
            if not met:
                break
            faults[kind][call] += 1
            if problem is not None:
                complaints.append(f"{kind}, {call} {number} fails with {errno.errorcode[code]} {mode}: {problem}")
            number += step
        calls[kind][call] = max(calls[kind].get(call, 0), number - 1)
    return {
        "codes": [errno.errorcode[code] for code in codes],
        "modes": list(modes),
        "total": sum(each.total() for each in faults.values()),
        "faults": {kind: dict(each) for kind, each in faults.items()},
        "calls": calls,
        "complaints": complaints,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=list(WORK), choices=list(WORK))
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    started = time.process_time()
    found = every(arguments.step, kinds=tuple(arguments.kinds))
    found |= {"step": arguments.step, "processor_seconds": round(time.process_time() - started, 1)}
    print(json.dumps(found, indent=1))
    keep("nth calls", found, arguments.results)
    sys.exit(bool(found["complaints"]))


if __name__ == "__main__":
    main()
