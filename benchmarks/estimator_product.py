"""Time ways to multiply in the latency network on a busy machine: plain, in blocks of columns, in groups of rows.

    python benchmarks/estimator_product.py [--rounds 20] [--calls 200] [--busy 0 1 2 4]

Writes benchmarks/results/estimator_product.json. A plain product of a grid is large enough for OpenBLAS to part it among
threads, which wait for one another; blocks of columns need a second copy of the weights, groups of rows none. Every figure is
of a grid of 27 configurations on a network of the reference size with random weights, while so many other processes
compute without pause. Ways alternate within a round; a round's figures are its median and its 95th percentile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from provenance import provenance

RESULTS = Path(__file__).parent / "results" / "estimator_product.json"
ONE_THREAD_PRODUCT = 65_536 * 4
BUSY = "import numpy as np\nx = np.ones((256, 256))\nwhile True: x = np.tanh(x)"

Array = NDArray[np.float32]


def plain(x_NI: Array, weight_IH: Array, _blocks_DIW: Array) -> Array:
    """One product."""
    return x_NI @ weight_IH


def columns(x_NI: Array, _weight_IH: Array, blocks_DIW: Array) -> Array:
    """A product for each block of columns, from weights that are laid out by block."""
    blocks, _, width = blocks_DIW.shape
    z_NH = np.empty((len(x_NI), blocks * width), dtype=np.float32)
    np.matmul(x_NI, blocks_DIW, out=z_NH.reshape(len(x_NI), blocks, width).transpose(1, 0, 2))
    return z_NH


def rows(x_NI: Array, weight_IH: Array, _blocks_DIW: Array) -> Array:
    """A product for each group of rows, from the weights as they are."""
    inputs, hidden = weight_IH.shape
    group = max(1, ONE_THREAD_PRODUCT // (inputs * hidden))
    z_NH = np.empty((len(x_NI), hidden), dtype=np.float32)
    for start in range(0, len(x_NI), group):
        np.matmul(x_NI[start : start + group], weight_IH, out=z_NH[start : start + group])
    return z_NH


WAYS: dict[str, Callable[[Array, Array, Array], Array]] = {"plain": plain, "columns": columns, "rows": rows}


def layers_of_reference_size() -> list[tuple[Array, Array]]:
    """Return weights and the same in blocks of columns, of both layers."""
    random = np.random.default_rng(3407)
    found: list[tuple[Array, Array]] = []
    for inputs, hidden in ((6, 256), (256, 256)):
        weight_IH = random.standard_normal((inputs, hidden), dtype=np.float32)
        widest = max(1, ONE_THREAD_PRODUCT // (32 * inputs))
        width = next(width for width in range(min(widest, hidden), 0, -1) if hidden % width == 0)
        blocks = weight_IH.reshape(inputs, hidden // width, width).transpose(1, 0, 2)
        found.append((weight_IH, np.ascontiguousarray(blocks)))
    return found


def timed_us(way: Callable[[Array, Array, Array], Array], calls: int) -> list[float]:
    """Return the microseconds of both products of a grid, call by call, after a few unmeasured ones."""
    layers = layers_of_reference_size()
    x_NI = np.random.default_rng(1).random((27, 6), dtype=np.float32)
    taken: list[float] = []
    for call in range(calls + 5):
        start = time.perf_counter_ns()
        z_NH = x_NI
        for weight_IH, blocks_DIW in layers:
            z_NH = way(z_NH, weight_IH, blocks_DIW)
        if call >= 5:
            taken.append((time.perf_counter_ns() - start) / 1e3)
    return taken


@contextmanager
def busy_processes(count: int) -> Generator[None]:
    """Keep so many processes computing, one thread each, for the length of the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], env=environment) for _ in range(count)]
    try:
        time.sleep(1 if count else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measured(busy: int, rounds: int, calls: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures of every way beside so many busy processes."""
    medians: dict[str, list[float]] = {name: [] for name in WAYS}
    slowest: dict[str, list[float]] = {name: [] for name in WAYS}
    with busy_processes(busy):
        for _ in range(rounds):
            for name, way in WAYS.items():
                taken = timed_us(way, calls)
                medians[name].append(statistics.median(taken))
                slowest[name].append(float(np.quantile(taken, 0.95)))
    return {name: {"median_us": spread(medians[name]), "p95_us": spread(slowest[name])} for name in WAYS}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    arguments = parser.parse_args()
    figures = {str(busy): measured(busy, arguments.rounds, arguments.calls) for busy in arguments.busy}
    for busy, ways in figures.items():
        for name, found in ways.items():
            median, slow = found["median_us"], found["p95_us"]
            print(
                f"{busy} busy processes  {name:<8} median {median['median']:7.1f} us ({median['min']:.1f} to "
                f"{median['max']:.1f}), p95 {slow['median']:8.1f} ({slow['min']:.1f} to {slow['max']:.1f})"
            )
    document = {
        **provenance("estimator_product.py"),
        "data": "synthetic weights",
        "rounds": arguments.rounds,
        "calls": arguments.calls,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "busy_processes": figures,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
