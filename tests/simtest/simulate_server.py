"""Run seeds of the simulated server: `simulate_server.py --seed 17`, or `--seeds 0:2000 --workers 2`."""

import argparse
import gc
import json
import logging
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent, HERE.parents[1] / "benchmarks"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from batched_world import BatchedWorld  # noqa: E402
from server_world import Result, ServerWorld  # noqa: E402

FOUND = HERE / "found_seeds.json"
CHUNK = 20
LOGGER = logging.getLogger("paceline.server")


def world_of(seed: int, *, keep_trace: bool = False) -> ServerWorld | BatchedWorld:
    """Return the world of a seed: of five, one has an engine that serves many at once."""
    return BatchedWorld(seed, keep_trace=keep_trace) if seed % 5 == 4 else ServerWorld(seed, keep_trace=keep_trace)


def run_seed(seed: int) -> Result:
    """Live through one seed's world; memory is not collected meanwhile, for when it is would be no part of the seed."""
    collected, told = gc.isenabled(), LOGGER.disabled
    gc.disable()
    LOGGER.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.process_time()
            result = world_of(seed).run()
            result.processor_seconds = time.process_time() - began
            return result
    finally:
        LOGGER.disabled = told
        if collected:
            gc.enable()


def run_chunk(seeds: range) -> list[Result]:
    """Live through some seeds."""
    results = [run_seed(seed) for seed in seeds]
    gc.collect()
    return results


def run_seeds(seeds: range, workers: int) -> Iterator[Result]:
    """Give what comes of each seed, in their order."""
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    if workers == 1:
        for chunk in chunks:
            yield from run_chunk(chunk)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for results in pool.imap(run_chunk, chunks):
            yield from results


def found_seeds() -> list[int]:
    """Return the seeds that found a fault once."""
    return [each["seed"] for each in json.loads(FOUND.read_text())]


def shown(result: Result) -> str:
    """Return one seed's problems in words, with how to see them again."""
    lines = [f"seed {result.seed} ({result.kind}): make simtest SEED={result.seed}"]
    lines += [f"  {invariant}: {what}" for invariant, what in result.problems[:8]]
    return "\n".join(lines)


def tell(results: Iterable[Result], seeds: range, out: Path | None) -> int:
    """Print what comes of seeds as they come, and write it down; returns how many failed."""
    total, processor = len(seeds), 0.0
    began, failed, done, seconds, requests = time.monotonic(), 0, 0, 0.0, 0
    kinds: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    promised = 0
    for result in results:
        done, seconds, requests = done + 1, seconds + result.seconds, requests + result.requests
        kinds[result.kind] += 1
        statuses.update(result.statuses)
        promised, processor = promised + result.promised, processor + result.processor_seconds
        if result.problems:
            failed += 1
            print(shown(result), flush=True)
        if done % 200 == 0 or done == total:
            real = time.monotonic() - began
            print(
                f"{done}/{total} seeds, to {result.seed}, {failed} failed; {done / real:.1f} seeds/s, "
                f"{seconds / real:,.0f} simulated seconds a second, {requests:,} requests",
                flush=True,
            )
    from provenance import origin  # mutants.py loads this file without it, in a process for each mutant

    found = {
        **origin(f"python tests/simtest/simulate_server.py --seeds {seeds.start}:{seeds.stop}"),
        "seeds": total,
        "failed": failed,
        "requests": requests,
        "promised": promised,
        "kinds": dict(sorted(kinds.items())),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "simulated_seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "seeds_per_processor_second": round(total / processor, 2),
        "simulated_seconds_per_processor_second": round(seconds / processor, 1),
    }
    print(json.dumps(found))
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")
    return failed


def main() -> int:
    """Run what the command line says; 1 where an invariant does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", default="0:2000", help="first:beyond the last")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="where the counts are written")
    parser.add_argument("--trace", action="store_true", help="print all that happens in --seed")
    arguments = parser.parse_args()
    if arguments.seed is None:
        first, last = map(int, arguments.seeds.split(":"))
        seeds = range(first, last)
        return int(tell(run_seeds(seeds, arguments.workers), seeds, arguments.out) > 0)
    gc.disable()
    LOGGER.disabled = True
    world = world_of(arguments.seed, keep_trace=arguments.trace)
    result = world.run()
    print(*(world.lines or []), shown(result), world.plan, f"digest {result.digest}", sep="\n")
    return int(bool(result.problems))


if __name__ == "__main__":
    sys.exit(main())
