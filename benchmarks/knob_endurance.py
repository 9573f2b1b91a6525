"""One real engine under open-loop load for long, with knobs, aborts, preemptions and schedulers that are put in anew.

    python benchmarks/knob_loads.py --minutes 60

Needs vLLM. A pool of random requests with random knobs is answered by each alone first. Then, in rounds of half a minute,
requests of the pool arrive by the clock at 70 %, 100 % and 130 % of what the engine gets through; a seventh is given up on the
way; key-value memory holds a few requests, so that some are preempted. Each round puts another of Paceline's orders, or vLLM's
own, with its settings into the running engine, and ends once all is answered. Held: every answer is that of its request alone;
no block, name or entry of a container is left; threads and descriptors are those of the first rounds; memory does not grow from
the second quarter of the rounds to the last. Beside the resident memory stands what is allocated of it, in MiB by glibc and in
blocks by Python: where those stay, memory that grows is what the allocator does not give back.
Every round rewrites benchmarks/results/knob_endurance.json: a run that is stopped leaves what it has, marked `"whole": false`.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from knob_loads import (
    LARGE_CACHE,
    MARK,
    ORDERS,
    SMALL_CACHE,
    Answer,
    KnobRequest,
    answer_of,
    closing_request,
    compared,
    container_sizes,
    fresh_scheduler,
    grown,
    hand_over,
    holding,
    knob_engine,
    random_requests,
    roots_of,
    serve,
)
from provenance import provenance
from random_loads import leaks

RESULTS = Path(__file__).parent / "results" / "knob_endurance.json"
POOL, ROUND_SECONDS = 120, 30.0
SHARES = (0.7, 1.0, 1.3)
SETTLED = 2  # rounds before threads and descriptors are compared
MOST_GROWTH_MIB = 16.0


@dataclass(slots=True, kw_only=True)
class Endurance:
    """What a long load led to, round by round."""

    minutes: float
    capacity: float = 0.0
    violations: list[str] = field(default_factory=list[str])
    totals: Counter[str] = field(default_factory=Counter[str])
    rounds: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sizes: list[dict[str, int]] = field(default_factory=list[dict[str, int]])

    def found(self) -> list[str]:
        """Return all that must not be."""
        return (
            self.violations + (grown([self.sizes[0], self.sizes[-1]]) if self.sizes else []) + left_behind(self.rounds)
        )

    def write(self, *, whole: bool) -> None:
        """Write what there is."""
        document = {
            **provenance("knob_loads.py"),
            "whole": whole,
            "minutes": self.minutes,
            "capacity_requests_a_second": round(self.capacity, 2),
            "load_average": os.getloadavg(),
            "violations": self.found(),
            "totals": dict(sorted(self.totals.items())),
            "rounds": self.rounds,
        }
        unfinished = RESULTS.with_suffix(".tmp")
        unfinished.write_text(json.dumps(document, indent=1) + "\n")
        unfinished.replace(RESULTS)


def left_behind(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """Return threads and descriptors that came to those of the first rounds, and memory that goes on growing."""
    if len(rounds) <= SETTLED:
        return []
    found = [
        f"{rounds[-1][name]} {name}, {rounds[SETTLED - 1][name]} after the first rounds"
        for name in ("threads", "descriptors")
        if rounds[-1][name] > rounds[SETTLED - 1][name]
    ]
    quarter = len(rounds) // 4
    if quarter:
        early = median(each["memory_mib"] for each in rounds[quarter : 2 * quarter])
        late = median(each["memory_mib"] for each in rounds[-quarter:])
        found += [f"memory grew from {early:.1f} to {late:.1f} MiB"] if late - early > MOST_GROWTH_MIB else []
    return found


def endure(minutes: float, *, seed: int) -> list[str]:
    """Keep an engine under load, print and write what was found; returns the violations. SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Endurance(minutes=minutes)
    with tempfile.TemporaryDirectory() as folder:
        engine = knob_engine(Path(folder))
        whole = False
        try:
            _rounds(engine, run, Random(f"endurance {seed}"), seed)
            whole = True
        except KeyboardInterrupt:
            print(f"stopped; what there is stands in {RESULTS}", file=sys.stderr)
        finally:
            run.write(whole=whole)
            engine.engine_core.shutdown()
    print(json.dumps({"violations": run.found(), "totals": run.totals, "rounds": len(run.rounds)}, indent=1))
    print(json.dumps([*run.rounds[:1], *run.rounds[-1:]]))
    return run.found()


def _rounds(engine: Any, run: Endurance, random: Random, seed: int) -> None:
    pool = random_requests(seed, 0, POOL)
    fresh_scheduler(engine, "stock", LARGE_CACHE, Counter())
    alone = {each.name: serve(engine, [each], by_itself=True)[each.name] for each in pool}
    fresh_scheduler(engine, ORDERS[0], SMALL_CACHE, Counter())
    begun = time.perf_counter()
    serve(engine, [replace(each, step=0, abort_step=None) for each in pool])
    run.capacity = POOL / (time.perf_counter() - begun)
    number, until = 0, time.perf_counter() + 60 * run.minutes
    while (now := time.perf_counter()) < until:
        order, share = ORDERS[len(run.rounds) % len(ORDERS)], SHARES[len(run.rounds) % len(SHARES)]
        built = fresh_scheduler(engine, order, SMALL_CACHE, run.totals)
        arrivals = _arrivals(pool, random, share * run.capacity, min(ROUND_SECONDS, until - now), number)
        number += len(arrivals)
        answers = _served(engine, arrivals)
        for _, request, original in arrivals:
            run.violations += compared(request, answers[request.name], alone[original], order, run.totals)
        run.violations += [f"{order}: holds {name}" for name in leaks(built)]
        serve(engine, [closing_request()])  # with another request a worker is told of the last that ended
        roots = roots_of(engine)
        run.violations += [f"{order}: {path} holds a request that ended" for path in holding(roots, MARK)]
        run.sizes = [*run.sizes[:1], container_sizes(roots)]
        gc.collect()
        run.rounds.append(
            {"seconds": round(time.perf_counter() - begun, 1), "order": order, "load": share} | _process()
        )
        run.rounds[-1] |= {"requests": len(arrivals), "preemptions": run.totals["preemptions"]}
        run.write(whole=False)


def _arrivals(
    pool: Sequence[KnobRequest], random: Random, a_second: float, seconds: float, number: int
) -> list[tuple[float, KnobRequest, str]]:
    """Return (second of arrival, request under a name of its own, the name of its original) of one round."""
    found: list[tuple[float, KnobRequest, str]] = []
    at = random.expovariate(a_second)
    while at < seconds or not found:
        original = random.choice(pool)
        abort = random.randint(0, 25) if random.random() < 1 / 7 else None  # steps after it was handed over
        named = replace(original, name=f"{MARK}-{number + len(found)}", step=0, abort_step=abort)
        found.append((at, named, original.name))
        at += random.expovariate(a_second)
    return found


def _served(engine: Any, arrivals: Sequence[tuple[float, KnobRequest, str]]) -> dict[str, Answer]:
    """Hand requests over as the clock says, give some up after their steps, and return the answers by name."""
    coming = deque(arrivals)
    answers = {each.name: Answer(tokens=(), logprobs=(), gaps=(), finished=False) for _, each, _ in arrivals}
    given_up: dict[int, list[str]] = {}
    begun, step = time.perf_counter(), 0
    while coming or engine.has_unfinished_requests():
        while coming and coming[0][0] <= time.perf_counter() - begun:
            request = coming.popleft()[1]
            hand_over(engine, replace(request, step=int(time.time())), False)  # arrival times are of the wall clock
            if request.abort_step is not None:
                given_up.setdefault(step + request.abort_step, []).append(request.name)
        engine.abort_request(given_up.pop(step, []))
        if engine.has_unfinished_requests():
            for output in engine.step():
                answers[output.request_id] = answer_of(output)
        elif coming:
            time.sleep(max(0.0, coming[0][0] - (time.perf_counter() - begun)))
        step += 1
    return answers


def _process() -> dict[str, float]:
    return {
        "memory_mib": round(
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1
        ),
        "allocated_mib": round(_allocated_bytes() / 2**20, 1),
        "python_blocks": sys.getallocatedblocks(),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


class _Allocated(ctypes.Structure):
    """What mallinfo2(3) tells: ten counts, of all arenas together."""

    _fields_ = [("counts", ctypes.c_size_t * 10)]


def _allocated_bytes() -> int:
    """Return the bytes that are allocated from glibc, in its arenas (uordblks) and mapped apart (hblkhd)."""
    told = ctypes.CDLL(None).mallinfo2
    told.restype = _Allocated
    counts = told().counts
    return int(counts[7]) + int(counts[4])
