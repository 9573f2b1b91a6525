"""Run by a test in a process of its own: one command, killed with signal 9 at several moments and begun again after each.

    python killed_at.py MOMENTS WHOLE OUT ARGUMENTS…

MOMENTS is a JSON list of [file, number]: the run dies while it writes that line of a `.jsonl` file, half of it written, or as it
puts that file in place. Each run is a child of this process, which has imported all and done nothing. A last run of OUT, and one
of WHOLE, are not killed. Prints, as JSON, the runs' exit codes and the files of OUT after each.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from paceline.cli import main, profile  # noqa: F401  what the command imports, once


def killed_now():
    os.kill(os.getpid(), signal.SIGKILL)


def armed(name, number):
    """Let this process die at its `number`-th line of a journal or renaming to a file."""
    counts, write = Counter(), os.write

    def written(descriptor, data):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        counts[path.name] += 1
        if path.name == name and counts[name] == number:
            write(descriptor, bytes(data)[: len(data) // 2])
            killed_now()
        return write(descriptor, data)

    def seen(event, arguments):
        if event == "os.rename" and Path(os.fsdecode(arguments[1])).name == name:
            counts[name] += 1
            if counts[name] == number:
                killed_now()

    os.write = written
    sys.addaudithook(seen)


def begun(arguments, moment=None):
    """Begin the command in a child of this process and return the child's id."""
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        if moment:
            armed(*moment)
        os._exit(main.run(arguments))
    return child


def ended(child):
    """Return a child's exit code, negative for a signal, once it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def held(out):
    return {path.name: path.read_text() for path in sorted(out.glob("*.json*")) if not path.name.startswith(".")}


if __name__ == "__main__":
    moments, whole, out, *arguments = sys.argv[1:]
    codes, files = [], []
    for moment in [*json.loads(moments), None]:
        codes.append(ended(begun([*arguments, "--out", out], moment)))
        files.append(held(Path(out)))
    codes.append(ended(begun([*arguments, "--out", whole])))
    sys.stdout.write(json.dumps({"codes": codes, "files": files}))
