"""Faults planted in the server, one at a time, in a copy of it: how many of them do seeds of the simulation find?

`make mutants` writes benchmarks/results/simtest_mutants.json. Each is a small change that somebody could make, and stands in
`planted_faults.py`. The tree itself is never changed.
"""

import argparse
import gc
import json
import os
import platform
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from planted_faults import ACCEPTED, MUTANTS, Mutant

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULT = ROOT / "benchmarks" / "results" / "simtest_mutants.json"
SEEDS, LIMIT_SECONDS = 400, 240


def _preload() -> None:
    """Import what every trial needs and none changes, once: a trial is a fork of this process."""
    import fastapi  # noqa: F401
    import hypothesis  # noqa: F401
    import msgspec  # noqa: F401
    import polars  # noqa: F401
    import safetensors.torch  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
    import uvicorn  # noqa: F401
    from PIL import Image  # noqa: F401
    from uvicorn.protocols.http import h11_impl  # noqa: F401


def trial(mutant: Mutant | None, seeds: int, source: Path) -> dict[str, Any]:
    """Return what the first seeds say of a mutant: which of them found it, by which invariant."""
    with tempfile.TemporaryDirectory(prefix="simtest-mutant-") as home:
        copy = Path(home) / "src"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            path = copy / "paceline" / mutant.file
            text = path.read_text()
            assert text.count(mutant.old) == 1, f"{mutant.name}: its old text stands {text.count(mutant.old)} times"
            path.write_text(text.replace(mutant.old, mutant.new))
        return _forked(copy, seeds)


def _forked(copy: Path, seeds: int) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        answer: dict[str, Any] = {}
        try:
            answer = _found(copy, seeds)
        except BaseException as error:
            answer = {"seeds": 0, "by": "it does not start", "said": repr(error)[:200]}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    began, parts = time.monotonic(), []
    while select.select([reading], [], [], max(0.0, LIMIT_SECONDS - (time.monotonic() - began)))[0]:
        part = os.read(reading, 65536)
        if not part:
            break
        parts.append(part)
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return json.loads(b"".join(parts) or b'{"seeds": null, "by": "it never ends", "said": ""}')


def _found(copy: Path, seeds: int) -> dict[str, Any]:
    sys.path[:0] = [str(copy), str(HERE), str(HERE.parent)]
    from simulate_server import run_seed

    for seed in range(seeds):
        try:
            result = run_seed(seed)
        except Exception as error:
            return {"seeds": seed + 1, "by": "no error is lost", "said": repr(error)[:200]}
        if result.problems:
            invariant, said = result.problems[0]
            return {"seeds": seed + 1, "by": invariant, "said": said[:200]}
        if seed % 20 == 0:
            gc.collect()
    return {"seeds": None, "by": None, "said": ""}


def _joined(parts: list[Path], out: Path) -> int:
    """Write the tables of several processes as one, in the order of the mutants; 1 where one survives that is not accepted."""
    tables = [json.loads(path.read_text()) for path in parts]
    found = {row["name"]: row for table in tables for row in table["mutants"]}
    rows = [found[each.name] for each in MUTANTS]
    survived = [row["name"] for row in rows if row["by"] is None]
    counts = {"mutants": len(rows), "found": len(rows) - len(survived), "survived": survived}
    print(counts)
    table = {**tables[0], **counts, "accepted": ACCEPTED, "rows": rows}
    out.write_text(json.dumps(table, indent=1) + "\n")
    return int(bool(set(survived) - set(ACCEPTED)))


def main() -> int:
    """Try the mutants, print a line for each, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many each is tried with")
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--part", default="0/1", help="one of so many parts, for several processes: 0/2 and 1/2")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument(
        "--join", type=Path, nargs="+", default=[], help="tables of several parts, to be written as one"
    )
    arguments = parser.parse_args()
    if arguments.join:
        return _joined(arguments.join, arguments.out)
    part, parts = map(int, arguments.part.split("/"))
    chosen = [each for each in MUTANTS if arguments.only in each.name][part::parts]
    _preload()
    began, rows = time.monotonic(), []
    for mutant in chosen:
        found = trial(mutant, arguments.seeds, ROOT / "src")
        rows.append(
            {"name": mutant.name, "file": mutant.file, "breaks": mutant.breaks, "was_there": mutant.was_there, **found}
        )
        print(
            f"{mutant.name}: {'SURVIVES' if found['by'] is None else found['by']} after {found['seeds']} seeds",
            flush=True,
        )
    survived = [row["name"] for row in rows if row["by"] is None]
    print(f"{len(rows) - len(survived)} of {len(rows)} found in {time.monotonic() - began:.0f} s; survived: {survived}")
    if arguments.out is not None:
        arguments.out.write_text(
            json.dumps({"seeds": arguments.seeds, "python": platform.python_version(), "mutants": rows}, indent=1)
            + "\n"
        )
    return int(bool(set(survived) - set(ACCEPTED)))


if __name__ == "__main__":
    sys.exit(main())
