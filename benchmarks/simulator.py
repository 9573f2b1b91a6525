"""How fast the simulator is, and that its two engines are equal.

    python benchmarks/simulator.py [--trace azure_conversation.csv] [--rounds 5] [--equality 1000] [--largest 1000000]
        [--parts speeds vidur growth routers processes compiling equality]

Writes benchmarks/results/simulator.json, part by part. Without a trace loads are synthetic (Poisson arrivals, lognormal
lengths) and labelled so. Times are CPU seconds of this process, the best and the worst of the rounds, once compiled;
workloads take turns within a round. Steps are Vidur's iterations: the rules are equal to the bit (tests/golden), so that a
Vidur run of the same workload has as many. Where VIDUR_COPY names a checkout of Vidur, and VIDUR_PYTHON an interpreter with
its requirements, Vidur serves the workloads too, metrics off, each once in a process of its own, with rounds of ours
right before and after it. Under Paceline's policies, which Vidur does not have, its divisor is its own loop over the
same requests with the same chunk, cap and blocks, in steps a second.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from provenance import provenance
from simulated_loads import STEP_TIME, differences, random_case

from paceline.schedule import PlannerSettings
from paceline.simulate import (
    ROUTERS,
    RULES,
    LinearCost,
    RequestColumns,
    SimulatedEngine,
    SimulatedRun,
    StepCost,
    VidurTables,
    simulate,
    simulate_replicas,
)
from paceline.simulate.engine_settings import VIDUR
from paceline.simulate.simulation import FAST, REFERENCE
from paceline.tune.trace import read_trace
from paceline.tune.workload import SyntheticLoad

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "simulator.json"
TABLES = HERE.parent / "tests" / "golden" / "data" / "vidur" / "tables_8b.npz"
LONGEST = 4096  # tokens of a request, as Vidur cuts them
CHUNK, CAP, BLOCKS = 512, 128, 30_208
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
OVERLOAD = 1.2  # of what the engine serves
ROUTED_RATE = 5.6  # requests a second and engine behind the routers: about 80 % of what one serves
ONE_EXPERIMENT = """
import sys
import numpy as np
from paceline.schedule import LinearStepTime, PlannerSettings
from paceline.simulate import LinearCost, RequestColumns, SimulatedEngine, simulate
count, numbers = int(sys.argv[1]), np.random.default_rng(1)
def lengths(median, longest):
    return np.clip(numbers.lognormal(np.log(median), 0.9, count), 1, longest).astype(int)
arrivals = np.cumsum(numbers.exponential(1 / 5.4, count))
load = RequestColumns(arrival_seconds=arrivals, prompt_tokens=lengths(1020, 3000), output_tokens=lengths(130, 1000))
engine = SimulatedEngine(rules="vidur", planner=PlannerSettings(chunk_size=512), max_num_seqs=128, num_blocks=30208)
cost = LinearCost(LinearStepTime(base_ms=5.0, per_decode_token_ms=0.05, per_decode_context_token_ms=0.0001,
                                 per_prefill_token_ms=0.04, per_prefill_attention_token_ms=0.00001))
run = simulate(load, engine, cost, with_steps=False)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) / 1024, run.step_count)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A load with the engine that serves it."""

    name: str
    load: RequestColumns
    engine: SimulatedEngine
    cost: StepCost


def vidur_engine(*, chunk_size: int = CHUNK, cap: int = CAP, blocks: int = BLOCKS) -> SimulatedEngine:
    """Return an engine under Vidur's rules."""
    return SimulatedEngine(
        rules="vidur", planner=PlannerSettings(chunk_size=chunk_size), max_num_seqs=cap, num_blocks=blocks
    )


def conversation(trace: Path | None, count: int, *, rate: float = 5.4, seed: int = 1) -> RequestColumns:
    """Return the first requests of the trace, or as many synthetic ones; cut to what a context holds."""
    requests = (
        SyntheticLoad(count=count, rate=rate, prompt_median=1020, prompt_sigma=0.9, output_median=130)
        .workload(seed)
        .requests
        if trace is None
        else read_trace(trace).requests[:count]
    )
    load = RequestColumns.of(requests)
    output = np.minimum(load.output_tokens, LONGEST - 1)
    return replace(load, output_tokens=output, prompt_tokens=np.minimum(load.prompt_tokens, LONGEST - output))


def workloads(trace: Path | None) -> list[Workload]:
    """Return what is timed: with and without memory pressure, decode-heavy and prefill-heavy, under every policy."""
    tables = VidurTables.load(TABLES)
    whole = conversation(trace, 5_000)
    part = whole.part(np.arange(min(1_000, len(whole))))
    slow = replace(part, arrival_seconds=part.arrival_seconds * 6)
    squeezed = whole.part(np.arange(min(1_500, len(whole))))
    heavy = whole.part(np.arange(min(3_000, len(whole))))
    heavy = replace(heavy, output_tokens=np.maximum(1, heavy.output_tokens // 64))
    made = [
        Workload(name="conversation, 5,000", load=whole, engine=vidur_engine(), cost=tables),
        Workload(name="6 × slower, 1,000", load=slow, engine=vidur_engine(blocks=3_328), cost=tables),
        Workload(name="restarts, 1,500", load=squeezed, engine=vidur_engine(cap=48, blocks=700), cost=tables),
        Workload(name="prefill-heavy, 3,000", load=heavy, engine=vidur_engine(), cost=tables),
    ]
    for policy in ("fcfs", "spf", "srtf", "aging"):
        engine = SimulatedEngine(
            rules="paceline",
            planner=PlannerSettings(chunk_size=CHUNK, policy=policy),
            max_num_seqs=48,
            num_blocks=1_400,
        )
        made.append(
            Workload(name=f"{policy}, out of memory, 1,500", load=squeezed, engine=engine, cost=LinearCost(STEP_TIME))
        )
    return made


def cpu_seconds(workload: Workload, *, computed_by: str = FAST) -> tuple[float, SimulatedRun]:
    """Return the CPU time of one run, without its steps written down, and the run."""
    started = time.process_time()
    run = simulate(workload.load, workload.engine, workload.cost, computed_by=computed_by, with_steps=False)
    return time.process_time() - started, run


def speeds(made: Sequence[Workload], rounds: int) -> list[dict[str, Any]]:
    """Time every workload in every round, and once in the reference engine."""
    seconds: dict[str, list[float]] = {workload.name: [] for workload in made}
    runs = {workload.name: cpu_seconds(workload)[1] for workload in made}  # compiles, or reads what was compiled
    for _ in range(rounds):
        for workload in made:
            seconds[workload.name].append(cpu_seconds(workload)[0])
    found: list[dict[str, Any]] = []
    for workload in made:
        run, times = runs[workload.name], seconds[workload.name]
        slow = cpu_seconds(workload, computed_by=REFERENCE)[0]
        found.append(
            {
                "workload": workload.name,
                "requests": len(workload.load),
                "steps": run.step_count,
                "preemptions": int(run.preemptions.sum()),
                "mixed_steps": mixed_share(workload),
                "ms": [1e3 * min(times), 1e3 * max(times)],
                "median_ms": 1e3 * median(times),
                "steps_per_second": [run.step_count / max(times), run.step_count / min(times)],
                "requests_per_second": [len(workload.load) / max(times), len(workload.load) / min(times)],
                "reference_steps_per_second": run.step_count / slow,
            }
        )
    return found


def mixed_share(workload: Workload) -> float:
    """Return the share of steps that hold a prompt's chunk."""
    steps = simulate(workload.load, workload.engine, workload.cost).steps
    assert steps is not None
    return float((np.diff(steps.chunk_offsets) > 0).mean())


def growth(largest: int) -> list[dict[str, Any]]:
    """Time loads of growing length at 80 % and 120 % of what the engine serves; synthetic."""
    found: list[dict[str, Any]] = []
    engine, cost = vidur_engine(), LinearCost(STEP_TIME)
    burst = replace(conversation(None, 4_000), arrival_seconds=np.zeros(4_000))
    served = simulate(burst, engine, cost, with_steps=False)
    capacity = 4_000 / float(served.completion_seconds.max())
    for share in (0.8, OVERLOAD):
        for count in GROWTH:
            if count <= largest:
                load = conversation(None, count, rate=share * capacity)
                seconds, run = cpu_seconds(Workload(name="", load=load, engine=engine, cost=cost))
                found.append({"share": share, "requests": count, "steps": run.step_count, "seconds": seconds})
    return found


def routers(replicas: int, largest: int) -> list[dict[str, Any]]:
    """Time each router over so many engines at 80 % of what they serve; synthetic."""
    engine = SimulatedEngine(
        rules="paceline", planner=PlannerSettings(chunk_size=CHUNK, policy="edf"), max_num_seqs=CAP, num_blocks=BLOCKS
    )
    load = conversation(None, largest, rate=ROUTED_RATE * replicas)
    found: list[dict[str, Any]] = []
    for router in ROUTERS:
        started = time.process_time()
        runs = simulate_replicas(
            load, engine, LinearCost(STEP_TIME), replicas=replicas, router=router, with_steps=False
        )
        seconds = time.process_time() - started
        ttft = np.concatenate([each.run.first_token_seconds - each.run.load.arrival_seconds for each in runs])
        found.append(
            {
                "router": router,
                "replicas": replicas,
                "requests": largest,
                "seconds": seconds,
                "ttft_p50_seconds": float(np.percentile(ttft, 50)),
                "ttft_p95_seconds": float(np.percentile(ttft, 95)),
            }
        )
    return found


def compiling() -> dict[str, float]:
    """Return the same of a process that finds nothing compiled."""
    with tempfile.TemporaryDirectory() as folder:
        return process(1_000, {**os.environ, "XDG_CACHE_HOME": folder})


def process(count: int, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Return the seconds and memory of a process that runs one experiment, what is compiled being kept."""
    command = [sys.executable, "-c", ONE_EXPERIMENT, str(count)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"requests": count, "seconds": wall, "cpu_seconds": cpu, "peak_memory_mb": float(printed[0])}


def equality(cases: int) -> dict[str, Any]:
    """Compare the engines step by step on random loads, of all rules in turn."""
    differing: list[int] = []
    preemptions = steps = preempting = 0
    for number in range(cases):
        case = random_case(number)
        runs = [simulate(case.load, case.engine, case.cost, computed_by=engine) for engine in (FAST, REFERENCE)]
        if differences(runs[0], runs[1]):
            differing.append(number)
        preemptions += int(runs[1].preemptions.sum())
        preempting += bool(runs[1].preemptions.any())
        steps += runs[1].step_count
    return {
        "cases": cases,
        "rules": RULES,
        "steps": steps,
        "preemptions": preemptions,
        "cases_with_preemptions": preempting,
        "differing": differing,
    }


def beside_vidur(made: Sequence[Workload], rounds: int) -> list[dict[str, Any]]:
    """Return how much faster than Vidur's own loop each workload is, timed by turns, and how far completions are apart."""
    found: list[dict[str, Any]] = []
    for workload in made:
        steps = cpu_seconds(workload)[1].step_count
        if workload.engine.rules != VIDUR and found and found[-1]["engine"] == vidur_numbers(workload):
            vidur = found[-1]["vidur"]  # the same requests and the same engine: it knows of no policy
            times = [cpu_seconds(workload)[0] for _ in range(2 * rounds)]
        else:
            times = [cpu_seconds(workload)[0] for _ in range(rounds)]
            vidur = vidur_run(workload)
            times += [cpu_seconds(workload)[0] for _ in range(rounds)]
        ratios = [steps / each / vidur["steps_per_second"] for each in (max(times), median(times), min(times))]
        row: dict[str, Any] = {"workload": workload.name, "engine": vidur_numbers(workload), "vidur": vidur}
        row |= {"ms": [1e3 * min(times), 1e3 * median(times), 1e3 * max(times)], "times_as_fast": ratios}
        if workload.engine.rules == VIDUR:
            row["largest_difference_seconds"] = vidur.pop("largest_difference_seconds")
        found.append(row)
        print(f"{workload.name:32} {ratios[1]:,.0f} x Vidur ({ratios[0]:,.0f} to {ratios[2]:,.0f})", flush=True)
    return found


def vidur_numbers(workload: Workload) -> list[int]:
    """Return what Vidur's scheduler is told: chunk size, batch cap and blocks."""
    engine = workload.engine
    return [engine.planner.chunk_size, engine.max_num_seqs, engine.num_blocks]


def vidur_run(workload: Workload) -> dict[str, Any]:
    """Return the CPU seconds of Vidur's own loop over a workload, its steps a second, and how far it is from ours."""
    engine = replace(
        workload.engine, rules=VIDUR, planner=PlannerSettings(chunk_size=workload.engine.planner.chunk_size)
    )
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "load.npz"
        load = workload.load
        np.savez(arrays, arrived=load.arrival_seconds, prompt=load.prompt_tokens, output=load.output_tokens)
        numbers = [str(each) for each in vidur_numbers(workload)]
        command = [
            os.environ.get("VIDUR_PYTHON", sys.executable),
            str(HERE / "vidur_loop.py"),
            str(arrays),
            str(TABLES),
        ]
        ran = subprocess.run([*command, *numbers], cwd=os.environ["VIDUR_COPY"], capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"Vidur failed: {ran.stderr[-2000:]}")
    printed = json.loads(ran.stdout.splitlines()[-1])
    run = simulate(load, engine, VidurTables.load(TABLES), with_steps=False)
    return {
        "seconds": printed["seconds"],
        "steps_per_second": run.step_count / printed["seconds"],
        "largest_difference_seconds": float(np.abs(np.array(printed["completed"]) - run.completion_seconds).max()),
    }


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="the Azure conversation trace, or another")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--equality", type=int, default=1_000, help="random loads to compare the engines on")
    parser.add_argument("--largest", type=int, default=GROWTH[-1])
    parser.add_argument("--replicas", type=int, default=1_000, help="engines behind the routers")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="those left out stay as they are")
    arguments = parser.parse_args()
    document: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    document.pop("command", None)
    if {"speeds", "vidur"} & set(arguments.parts):
        document["synthetic"] = arguments.trace is None
    for part in arguments.parts:
        document[part] = PARTS[part](arguments)
        document["provenance"] = document.get("provenance", {}) | {part: provenance("simulator.py")}
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if document["equality"]["differing"]:
        sys.exit(1)


def measured_speeds(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return the speed of each workload."""
    found = speeds(workloads(arguments.trace), arguments.rounds)
    for row in found:
        low, high = row["steps_per_second"]
        print(
            f"{row['workload']:32} {row['steps']:>8,} steps, {row['mixed_steps']:.0%} mixed, {row['preemptions']:,} "
            f"preemptions: {row['ms'][0]:.2f} to {row['ms'][1]:.2f} ms, {low / 1e6:.1f} to {high / 1e6:.1f} M steps/s, "
            f"reference {row['reference_steps_per_second']:,.0f}/s"
        )
    return found


def measured_vidur(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the speeds beside Vidur's, where a copy of it is at hand."""
    return beside_vidur(workloads(arguments.trace), arguments.rounds) if os.environ.get("VIDUR_COPY") else []


def measured_growth(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return how time grows with the requests."""
    found = growth(arguments.largest)
    for row in found:
        print(
            f"{row['share']:.0%} of capacity, {row['requests']:>9,} requests, {row['steps']:,} steps: {row['seconds']:.3f} s"
        )
    return found


def printed(found: Any) -> Any:
    """Print and return what was found."""
    print(found)
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "speeds": measured_speeds,
    "vidur": measured_vidur,
    "growth": measured_growth,
    "routers": lambda arguments: printed(routers(arguments.replicas, arguments.largest)),
    "processes": lambda _: printed([process(count) for count in (1_000, 20_000)]),
    "compiling": lambda _: printed(compiling()),
    "equality": lambda arguments: printed(equality(arguments.equality)),
}


if __name__ == "__main__":
    main()
