"""`kill -9` at random moments over profile, merge, compaction, table and estimator writing; nothing that was told is lost.

    python tests/faults/kills.py [--kills 1000] [--seed 0] [--workers 4]

Writers and those who look afterwards are forks of this process, which itself only waits: two ranks profile at once and are killed
apart, a merge is killed and run again, tables and artifacts are replaced. Half of the kills fall after a random time, half at the
n-th call of the operating system, before or after it. What was told is what a writer had said through a pipe when it died.
Several workers share the kills, each with a seed of its own: most of the time a kill waits.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faulty_calls import REAL, Calls
from results import keep
from store_work import WORK, Told, complaint, note_in, parts

LONGEST_SECONDS = {"profile": 0.12, "table": 0.04, "artifact": 0.06, "estimator": 0.06, "merge": 0.08}
MOST_CALLS = {"profile": 150, "table": 60, "artifact": 90, "estimator": 120, "merge": 60}


def forked(work) -> tuple[int, int]:
    """Do some work in a fork, which says lines through a pipe; return its number and the pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        work(lambda *said: REAL["write"](writing, json.dumps(said).encode() + b"\n"))
        code = 0
    except BaseException as error:
        REAL["write"](writing, json.dumps(["error", f"{type(error).__name__}: {error}"]).encode() + b"\n")
    finally:
        os._exit(code)


def said_by(pipe: int) -> list[list]:
    with os.fdopen(pipe, "rb") as lines:
        return [json.loads(line) for line in lines]


class Round:
    """One kind of work on one directory, killed again and again until it has ended once."""

    def __init__(self, kind: str, moments: random.Random) -> None:
        self.kind, self.moments, self.told = kind, moments, Told()
        self.root = Path(tempfile.mkdtemp(prefix="kills-")) / "root"
        self.root.mkdir()
        if kind == "merge":
            self.waited(forked(lambda _: parts(self.root)))

    def kill(self) -> str | None:
        """Begin the work, end it at a random moment, and return what is wrong then; None when nothing is."""
        # two ranks at once, which are killed apart
        writers = [self._writer(rank) for rank in ((0, 1) if self.kind == "profile" else (0,))]
        problems = []
        for pid, _, seconds in writers:
            if seconds is not None:
                select.select([], [], [], seconds)
                os.kill(pid, signal.SIGKILL)
        for pid, pipe, _ in writers:
            os.waitpid(pid, 0)
            for name, value in said_by(pipe):
                if name == "error":
                    problems.append(value)
                else:
                    note_in(self.told)(name, value)
        return "; ".join(problems) or self._looked_at()

    def _writer(self, rank: int) -> tuple[int, int, float | None]:
        by_time = self.moments.random() < 0.5
        at, behind = self.moments.randint(1, MOST_CALLS[self.kind]), self.moments.random() < 0.5
        named = {"rank": rank} if self.kind == "profile" else {}
        if self.kind in ("table", "artifact", "estimator"):
            named = {"first": getattr(self.told, self.kind) + 1, "count": 6}

        def work(say) -> None:
            def dies(made: bool):
                def check(kind: str, number: int = 0) -> None:
                    if not by_time and calls.made >= at and made == behind:
                        os.kill(os.getpid(), signal.SIGKILL)

                return check

            calls = Calls(self.root, dies(False), dies(True))
            with calls.watched():
                WORK[self.kind][0](self.root, say, **named)

        pid, pipe = forked(work)
        return pid, pipe, self.moments.uniform(0, LONGEST_SECONDS[self.kind]) if by_time else None

    def _looked_at(self) -> str | None:
        """Look at a copy: what is killed next is what the kill left, not what was mended."""
        copy = self.root.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.root, copy)
        ranks = {"ranks": (0, 1)} if self.kind == "profile" else {}

        def look(say) -> None:
            problem = complaint(self.kind, copy, self.told, **ranks)
            if problem is not None:
                say("error", problem)

        found = self.waited(forked(look))
        return "; ".join(value for _, value in found) or None

    def waited(self, child: tuple[int, int]) -> list[list]:
        said = said_by(child[1])
        os.waitpid(child[0], 0)
        return said

    def ended(self) -> bool:
        if self.kind == "profile":
            return len(self.told.samples) == 12
        return self.told.merged or max(self.told.table, self.told.artifact, self.told.estimator) > 40

    def close(self) -> None:
        shutil.rmtree(self.root.parent)


def kills(count: int, seed: int = 0, kinds=tuple(WORK)) -> dict[str, object]:
    """Kill that many times, the kinds of work in turn; return counts and complaints, each with the number of its kill."""
    moments, rounds, complaints = random.Random(seed), {}, []
    counted, started = dict.fromkeys(kinds, 0), time.monotonic()
    for number in range(count):
        kind = kinds[number % len(kinds)]
        if kind not in rounds:
            rounds[kind] = Round(kind, moments)
        problem = rounds[kind].kill()
        counted[kind] += 1
        if problem is not None:
            complaints.append(f"kill {number}, {kind}: {problem}")
        if problem is not None or rounds[kind].ended():
            rounds.pop(kind).close()
    for each in rounds.values():
        each.close()
    return {
        "seed": seed,
        "kills": counted,
        "seconds": round(time.monotonic() - started, 1),
        "complaints": complaints,
    }


def shared(count: int, seed: int, workers: int) -> dict[str, object]:
    """Let processes of their own kill, from the seeds that follow this one; return what they found together."""
    command = [sys.executable, __file__, "--kills"]
    shares = [count // workers + (number < count % workers) for number in range(workers)]
    started = time.monotonic()
    running = [
        subprocess.Popen([*command, str(share), "--seed", str(seed + number)], stdout=subprocess.PIPE, text=True)
        for number, share in enumerate(shares)
    ]
    found = [json.loads(each.communicate()[0]) for each in running]
    return {
        "seed": seed,
        "workers": workers,
        "kills": {kind: sum(each["kills"][kind] for each in found) for kind in WORK},
        "seconds": round(time.monotonic() - started, 1),
        "complaints": [f"seed {each['seed']}: {problem}" for each in found for problem in each["complaints"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    if arguments.workers > 1:
        found = shared(arguments.kills, arguments.seed, arguments.workers)
    else:
        found = kills(arguments.kills, arguments.seed)
    print(json.dumps(found, indent=1))
    keep("kills", found, arguments.results)
    sys.exit(bool(found["complaints"]))


if __name__ == "__main__":
    main()
