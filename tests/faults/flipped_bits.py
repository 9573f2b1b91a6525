"""One bit of every byte flipped, of every format that holds a digest of itself: the same value, or an error that names a file.

    python tests/faults/flipped_bits.py [--step 1]

The bit of a byte is drawn by its place. Nothing is sealed or hashed anew: a flip is an accident.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from damaged import Damage, equal
from formats import FORMATS
from results import keep, quick_folder

from paceline.errors import PacelineError

DIGESTED = (
    "Parquet",
    "estimator",
    "estimator weights",
    "bounds",
    "bounds scores",
    "policy",
    "policy weights",
    "certify-parts",
)


def flips(name: str, home: Path, step: int = 1) -> tuple[Counter[str], list[str]]:
    """Flip a bit of every `step`-th byte of a format's original; return outcomes, and complaints by place."""
    damage, form = Damage(home), FORMATS[name]
    target = home / form.target
    content, whole = damage.contents[target], form.read(home)
    ended: Counter[str] = Counter()
    complaints: list[str] = []
    for place in range(0, len(content), step):
        changed = bytearray(content)
        changed[place] ^= 1 << (place * 5 + place // 8) % 8
        target.write_bytes(changed)
        try:
            value = form.read(home)
        except PacelineError as error:
            ended["an error with the file's name"] += 1
            if target.parent.name not in str(error) and target.name not in str(error):
                complaints.append(f"{name} {place}: names no file: {error!s:.200}")
        except BaseException as error:
            ended["a traceback"] += 1
            complaints.append(f"{name} {place}: {type(error).__name__}: {error!s:.200}")
        else:
            ended["the value that was written"] += 1
            if not equal(value, whole):
                complaints.append(f"{name} {place}: another value")
    target.write_bytes(content)
    return ended, complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    counts, complaints, started = {}, [], time.process_time()
    for name in DIGESTED:
        with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
            counts[name], found = flips(name, Path(folder), arguments.step)
            complaints += found
    result = {
        "step": arguments.step,
        "flips": {name: dict(each) for name, each in counts.items()},
        "processor_seconds": round(time.process_time() - started, 1),
        "complaints": complaints,
    }
    print(json.dumps(result, indent=1))
    keep("flipped bits", result, arguments.results)
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
