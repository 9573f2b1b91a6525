"""Run by a test in a process of its own: `paceline demo`, whose process dies after so many answers, all of them made up.

python interrupted_demo.py ANSWERS ARGUMENTS…
"""

import os
import sys
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}  # as the demonstration sets them before torch loads
sys.path.insert(0, str(Path(__file__).parents[1]))
from made_up_answers import made_up

import paceline.measure.hosts
from paceline.cli import main


def dying_after(count):
    given = []

    def answer(*arguments, **options):
        if len(given) == count:
            os._exit(9)
        given.append(None)
        return made_up(*arguments, **options)

    return answer


if __name__ == "__main__":
    answers, *arguments = sys.argv[1:]
    paceline.measure.hosts.answer_measured = dying_after(int(answers))
    sys.argv[1:] = ["demo", *arguments]
    main.main()
