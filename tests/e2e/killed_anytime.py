"""Run by a test in a process of its own: one command, killed with signal 9 at random moments and begun again after each.

    python killed_anytime.py KILLS SEED OUT ARGUMENTS…

Each run is a child of this process, which has imported all and done nothing; it dies up to 60 ms after its journals have grown by
0 to 3 lines. Two last runs are not killed. Prints, as JSON, the exit codes and how many lines the journals had after each run.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from killed_at import begun, ended


def lines(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("journal-rank*.jsonl"))


def killed(out, arguments, moments):
    """Run the command until a random moment and return its exit code; that of an ended run where it was too fast."""
    wanted, child = lines(out) + moments.randint(0, 3), begun(arguments)
    while lines(out) < wanted:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    return ended(child)


if __name__ == "__main__":
    kills, seed, out, *arguments = sys.argv[1:]
    moments, arguments = random.Random(int(seed)), [*arguments, "--out", out]
    codes, grown = [], []
    for number in range(int(kills) + 2):
        codes.append(killed(Path(out), arguments, moments) if number < int(kills) else ended(begun(arguments)))
        grown.append(lines(Path(out)))
    sys.stdout.write(json.dumps({"codes": codes, "lines": grown}))
