"""Faults planted in the server, one at a time, in a copy of it: how many of them do seeds of the simulation find?

`make mutants` writes benchmarks/results/simtest_mutants.json, `mutants.py --table` prints the table of benchmarks/README.md. Each
is a small change that somebody could make, and stands in `planted_faults.py`. The tree itself is never changed.
"""

import argparse
import compileall
import gc
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from planted_faults import MUTANTS, SURVIVORS, Mutant

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULT = ROOT / "benchmarks" / "results" / "simtest_mutants.json"
SEEDS = 400
SEEDS_SECONDS, TESTS_SECONDS = 300, 120  # of the processor for all seeds; until tests that hang are given up
# the tests that a file has of its own, for the column beside the simulation's
UNIT = "tests/unit"
OWN_TESTS = {
    "server/engine.py": (f"{UNIT}/server/test_engine.py",),
    "server/gate.py": (f"{UNIT}/server/test_gate.py",),
    "server/request_log.py": (f"{UNIT}/server/test_request_log.py",),
    "server/": (f"{UNIT}/server/test_chat.py", f"{UNIT}/server/test_sockets.py"),
    "serving/": (f"{UNIT}/serving", "tests/property/test_serving_ledger.py"),
    "schedule/server_load.py": (f"{UNIT}/schedule/test_server_load.py",),
    "schedule/load_control.py": (f"{UNIT}/schedule/test_load_control.py", f"{UNIT}/schedule/test_server_load.py"),
    "schedule/look_ahead.py": ("tests/property/test_look_ahead.py", f"{UNIT}/schedule/test_server_load.py"),
    "schedule/planner.py": (f"{UNIT}/schedule/test_step_plans.py", "tests/property/test_planner.py"),
    "schedule/": ("tests/property/test_policies.py",),
    "estimate/online_scores.py": (f"{UNIT}/estimate/test_online_scores.py",),
    "estimate/recent.py": ("tests/property/test_recent_scores.py",),
    "estimate/step_drift.py": ("tests/property/test_drift_recovery.py", f"{UNIT}/schedule/test_load_control.py"),
    "wire/": (f"{UNIT}/wire", f"{UNIT}/serving/test_middleware.py"),
    "control/": (f"{UNIT}/control/test_work_price.py",),
    "profiles/": (f"{UNIT}/profiles/test_power_cut.py",),
}


def _preload() -> None:
    """Import what every trial needs and none changes, once: a trial is a fork of this process."""
    program = "import sys, simulate_server; print(*(f'{name}={getattr(m, \"__file__\", 0)}' for name, m in sys.modules.items()))"
    own = [str(ROOT / "src"), str(HERE.parent), str(HERE)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(own)}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    for name, _, file in (each.partition("=") for each in told.stdout.split()):
        if name != "__main__" and not file.startswith((own[0], own[1])):
            with suppress(Exception):  # some are there under names of others
                importlib.import_module(name)


def trial(mutant: Mutant | None, seeds: int, source: Path, *, tests: bool = False) -> dict[str, Any]:
    """Return what the first seeds say of a mutant: which of them found it, by which invariant; with `tests`, which of its file's
    own tests did, None for none."""
    with tempfile.TemporaryDirectory(prefix="simtest-mutant-") as home:
        copy = Path(home) / "src"
        shutil.copytree(source, copy)  # with what is compiled: of the changed file it is older
        if mutant is not None:
            path = copy / "paceline" / mutant.file
            text = path.read_text()
            assert text.count(mutant.old) == 1, f"{mutant.name}: its old text stands {text.count(mutant.old)} times"
            path.write_text(text.replace(mutant.old, mutant.new))
        found = _forked(copy, seeds) if seeds else {}
        return {**found, "test": _test_that_fails(copy, mutant.file)} if tests and mutant is not None else found


def own_tests(file: str) -> tuple[str, ...]:
    """Return the tests that a file has of its own: by its name, or those of its room."""
    return OWN_TESTS.get(file) or OWN_TESTS[file.split("/")[0] + "/"]


def _test_that_fails(copy: Path, file: str) -> str | None:
    options = ("-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-rfE")
    command = [sys.executable, "-m", "pytest", *options, *own_tests(file)]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TESTS_SECONDS
        )
    except subprocess.TimeoutExpired:
        return "they never end"
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed and done.returncode:
        return "they do not start"
    return failed[0] if failed else None


def _forked(copy: Path, seeds: int) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        answer: dict[str, Any] = {}
        resource.setrlimit(resource.RLIMIT_CPU, (SEEDS_SECONDS, SEEDS_SECONDS))
        try:
            answer = _found(copy, seeds)
        except BaseException as error:
            answer = {"seeds": 0, "by": "it does not start", "said": repr(error)[:200]}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        answered = told.read()
    os.waitpid(child, 0)
    return json.loads(answered or b'{"seeds": null, "by": "it never ends", "said": ""}')


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


def _origin() -> dict[str, Any]:
    """Return where the run comes from, asked of another process: one that holds paceline has no mutant of it."""
    asked = "import json, provenance; print(json.dumps(provenance.origin('make mutants')))"
    paths = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "src")])
    told = subprocess.run(
        [sys.executable, "-c", asked], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=True
    )
    return json.loads(told.stdout)


def _joined(parts: list[Path], out: Path) -> int:
    """Write the tables of several processes as one, in the order of the mutants; 1 where one survives without a reason."""
    tables = [json.loads(path.read_text()) for path in parts]
    found: dict[str, dict[str, Any]] = {}
    for row in (row for table in tables for row in table["rows"]):
        found.setdefault(row["name"], {}).update(row)
    rows = [{**found[each.name], "reason": None} for each in MUTANTS]
    for row in rows:
        if row["by"] is None:
            row["reason"] = SURVIVORS.get(row["name"])
    survived = [row["name"] for row in rows if row["by"] is None]
    counts = {"mutants": len(rows), "found": len(rows) - len(survived), "survived": survived}
    print(counts)
    out.write_text(json.dumps({**tables[0], **counts, "rows": rows}, indent=1) + "\n")
    return int(bool(set(survived) - set(SURVIVORS)))


def table_lines(found: dict[str, Any]) -> Iterator[str]:
    """Give the table of benchmarks/README.md: a line an invariant, and a line a mutant that survived."""
    rows = found["rows"]
    yield "| found by | mutants | worlds up to it: median, most |"
    yield "|---|---|---|"
    for name, count in Counter(row["by"] for row in rows if row["by"] is not None).most_common():
        seeds = [row["seeds"] for row in rows if row["by"] == name and row["seeds"] is not None]
        yield f"| {name} | {count} | {f'{statistics.median(seeds):g}, {max(seeds)}' if seeds else '–'} |"
    yield f"| in all | {found['found']} of {found['mutants']} | of {found['seeds']} |"
    for row in rows:
        if row["by"] is None:
            yield f"| nothing: {row['name']} (`{row['file']}`) | 1 | {row['reason']} |"
    if all("test" in row for row in rows):
        tested = sum(row["test"] is not None for row in rows)
        yield f"| the tests of its own file alone | {tested} of {found['mutants']} | |"


def _row(mutant: Mutant, found: dict[str, Any]) -> dict[str, Any]:
    told = f"{found.get('by') or 'SURVIVES'} after {found.get('seeds')} seeds; {found.get('test')}"
    print(f"{mutant.name}: {told}", flush=True)
    return {"name": mutant.name, "file": mutant.file, "breaks": mutant.breaks, "was_there": mutant.was_there, **found}


def main() -> int:
    """Try the mutants, print a line for each, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many each is tried with")
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--part", default="0/1", help="one of so many parts, for several processes: 0/2 and 1/2")
    parser.add_argument("--tests", action="store_true", help="try the tests of its own file on each, too")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument(
        "--join", type=Path, nargs="+", default=[], help="tables of several parts, to be written as one"
    )
    parser.add_argument("--table", action="store_true", help="print the table of benchmarks/README.md")
    arguments = parser.parse_args()
    if arguments.table:
        print(*table_lines(json.loads(RESULT.read_text())), sep="\n")
        return 0
    if arguments.join:
        return _joined(arguments.join, arguments.out)
    part, parts = map(int, arguments.part.split("/"))
    chosen = [each for each in MUTANTS if arguments.only in each.name][part::parts]
    origin = _origin()
    _preload()
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="simtest-source-") as home:
        source = Path(home) / "src"
        shutil.copytree(ROOT / "src", source)
        compileall.compile_dir(source, quiet=1)
        for mutant in chosen:
            rows.append(_row(mutant, trial(mutant, arguments.seeds, source, tests=arguments.tests)))
            if arguments.out is not None:  # what is known so far
                table = {**origin, "seeds": arguments.seeds, "rows": rows}
                arguments.out.write_text(json.dumps(table, indent=1) + "\n")
    survived = [row["name"] for row in rows if row.get("by") is None]
    print(f"{len(rows) - len(survived)} of {len(rows)} found in {time.monotonic() - began:.0f} s; survived: {survived}")
    return int(bool(set(survived) - set(SURVIVORS)))


if __name__ == "__main__":
    sys.exit(main())
