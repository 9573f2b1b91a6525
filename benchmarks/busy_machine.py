"""How much longer the demonstration takes beside other work that holds two cores.

    python benchmarks/busy_machine.py [--samples 34] [--requests 6] [--load 2]

Runs `paceline demo` alone, then beside `--load` processes that compute without a pause, and again beside them as torch would
by itself, with a thread a core that spins while it waits (`OMP_NUM_THREADS`, `OMP_WAIT_POLICY=ACTIVE`), cut off after
`--patience` times the first run. Every run is a new process in a new directory. Writes
benchmarks/results/busy_machine.json. Asked: at most 3 times as long.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from provenance import provenance

RESULTS = Path(__file__).parent / "results" / "busy_machine.json"
BUSY = "while True: sum(range(10**6))"


@contextmanager
def load_of(processes: int) -> Generator[None]:
    """Hold so many cores."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def demo_seconds(
    samples: int, requests: int, threads: Mapping[str, str], most_seconds: float | None = None
) -> float | None:
    """Return how long the demonstration takes under settings of threads, in seconds; None where it was cut off."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    environment |= threads
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "demo",
            "--out",
            f"{folder}/demo-out",
            "--samples",
            str(samples),
            "--requests",
            str(requests),
            "--json",
        ]
        begun = time.perf_counter()
        try:
            command = [sys.executable, "-m", "paceline.cli.main", *words]
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=most_seconds)
        except subprocess.TimeoutExpired:
            return None
        return time.perf_counter() - begun


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=34)
    parser.add_argument("--requests", type=int, default=6)
    parser.add_argument("--load", type=int, default=2)
    parser.add_argument(
        "--patience",
        type=float,
        default=5.0,
        help="cuts the spinning one off at so many times the one alone; 0: without it",
    )
    given = parser.parse_args()
    before = os.getloadavg()[0]
    spin = {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "ACTIVE"}
    alone = demo_seconds(given.samples, given.requests, {})
    assert alone is not None
    document = {
        **provenance("busy_machine.py"),
        "load_before": before,
        "busy_processes": given.load,
        "samples": given.samples,
        "requests": given.requests,
        "alone_seconds": alone,
    }
    with load_of(given.load):
        beside = demo_seconds(given.samples, given.requests, {})
        assert beside is not None
        document |= {"beside_seconds": beside, "times_as_long": beside / alone}
        written(document)
        if given.patience:
            spinning = demo_seconds(given.samples, given.requests, spin, given.patience * alone)
            cut_off = {"spinning_with": spin, "cut_off_at_seconds": given.patience * alone}
            written(document | {"spinning_seconds": spinning} | cut_off)


def written(document: Mapping[str, object]) -> None:
    """Write and print what there is so far: a killed run leaves the first two demonstrations."""
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1), flush=True)


if __name__ == "__main__":
    main()
