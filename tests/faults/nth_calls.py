"""Every n-th call of the store fails: with ENOSPC, EIO or EINTR, once, or from there on, or after half a write.

python tests/faults/nth_calls.py [--step 1]
"""

import argparse
import json
import sys
import tempfile
from itertools import count
from pathlib import Path

from faulty_calls import CODES, KINDS, Calls, failing_at
from store_work import WORK, Told, complaint, note_in, parts

from paceline.errors import PacelineError

MODES = {"once": {}, "from there on": {"sticky": True}, "after half a write": {"short": True, "sticky": True}}


def one(kind: str, before, retries: int = 0) -> tuple[bool, str | None]:
    """Do one work under a fault; return whether the fault was met, and what is wrong then, None when nothing is."""
    with tempfile.TemporaryDirectory() as folder:
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


def every(step: int = 1, *, first: int = 1, kinds=tuple(WORK), modes=tuple(MODES)) -> dict[str, object]:
    """Fail call after call (every `step`-th, from `first`) of every kind, until a run meets none; return counts, complaints."""
    faults, complaints = dict.fromkeys(kinds, 0), []
    for kind in kinds:
        for call in KINDS:
            for mode in modes:
                code = CODES[0]
                for number in count(first, step):
                    code = CODES[(number + len(mode)) % len(CODES)]
                    if mode == "after half a write" and call != "write":
                        break
                    retries = number % 2 if mode == "once" else 0
                    met, problem = one(kind, failing_at(number, code, kind=call, **MODES[mode]), retries)
                    if not met:
                        break
                    faults[kind] += 1
                    if problem is not None:
                        complaints.append(f"{kind}, {call} {number} fails with {code} {mode}: {problem}")
    return {"faults": faults, "complaints": complaints}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1)
    found = every(parser.parse_args().step)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["complaints"]))


if __name__ == "__main__":
    main()
