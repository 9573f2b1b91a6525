"""A server under load for long: the embedded model over HTTP at 80 % and at 130 % of its capacity, and a day in virtual time.

    python benchmarks/soak.py [--minutes 30] [--controller demo-out/estimator] [--only served simulated]

- served: `paceline serve digits` in a process of its own, half of the minutes at 80 % and half at 130 % of its capacity: the
  requests a second that the whole model answers one after the other. Arrivals are Poisson and wait for nobody; every request has
  a connection of its own, a budget of one to twelve times that answer's time and a streamed answer, and half of them would rather
  be refused. Each window of `--window` seconds notes answers by status, promises and those kept by the client's clock from the
  last byte sent, times to first token and to the end, and the server's resident memory, descriptors, threads and processor time.
  Before the load, between and after the halves the server is looked at when it has nothing to do.
- simulated: twenty-four hours through the fast simulator, each forty minutes at 80 %, ten at 130 % and ten without a request,
  under a load controller that chooses among three configurations at each arrival: promises kept and times to first token by hour.
  Sizes, arrivals, accuracies and step times are synthetic.

Client and server share the machine. Every window rewrites benchmarks/results/soak.json and soak.svg, so that a run that is
stopped leaves what it has, marked `"whole": false`.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from server import Client, body_of, report_of
from soak_chart import write_chart

from paceline.control.work_price import PriceSettings
from paceline.datasets import DIGIT_SETS, digit_questions
from paceline.schedule import (
    LinearStepTime,
    LoadController,
    LoadDecision,
    LoadSettings,
    PlannerSettings,
    StepLoad,
)
from paceline.simulate import (
    Candidate,
    Choices,
    LinearCost,
    LoadChooser,
    RequestColumns,
    SimulatedEngine,
    SimulatedRun,
    VaryingCost,
    simulate,
)
from paceline.slo import Proportion

RESULTS = Path(__file__).parent / "results"
LOADS = (0.8, 1.3)
BUDGET_TIMES = (1.0, 1.5, 3.0, 12.0)  # of the whole model's answer
MOST_TOKENS, SEED = 8, 11
LONGEST_ANSWER_SECONDS, REST_SECONDS = 60.0, 3.0
MOST_GROWTH_MIB = (
    24.0  # of a half's last third over its second: pages that the allocator keeps for larger heaps of requests
)
HOURS, HOUR_SECONDS = 24, 3600
STRETCHES = ((0, 2400, 0.8), (2400, 3000, 1.3))  # of an hour: from second, to second, load
# of a configuration: share of the prompt's tokens, what a token of it costs, how often it is right
CONFIGURATIONS = ((1.0, 1.0, 0.9), (0.5, 0.8, 0.85), (0.25, 0.6, 0.7))
SIMULATED_BUDGETS = (2.0, 4.0, 8.0, 16.0)  # of what the mean prompt takes alone
STEP_NOISE = 0.05  # of a step's time, lognormal
CALIBRATING = 4000  # requests that are there at once: how many a second the engine gets through
STEP_TIME = LinearStepTime(
    base_ms=60.0,
    per_decode_token_ms=0.6,
    per_decode_context_token_ms=0.0006,
    per_prefill_token_ms=0.45,
    per_prefill_attention_token_ms=0.00001,
)


@dataclass(slots=True)
class Window:
    """What became of the requests that were sent in one stretch of time."""

    load: float
    from_seconds: float
    statuses: Counter[str] = field(default_factory=Counter[str])
    first_ms: list[float] = field(default_factory=list[float])
    total_ms: list[float] = field(default_factory=list[float])
    promised: int = 0
    kept: int = 0
    process: dict[str, float] = field(default_factory=dict[str, float])

    def document(self) -> dict[str, Any]:
        """Return it in plain values."""
        return {
            "load": self.load,
            "from_seconds": round(self.from_seconds, 1),
            "answers": dict(sorted(self.statuses.items())),
            "promised": self.promised,
            "kept": self.kept,
            "first_ms": _percentiles(self.first_ms),
            "total_ms": _percentiles(self.total_ms),
            **self.process,
        }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "n": len(values)}


class ServedDigits:
    """`paceline serve digits` in a process of its own."""

    def __init__(self, controller: Path | None) -> None:
        words = [sys.executable, "-m", "paceline.cli.main", "serve", "digits", "--port", "0", "--device", "cpu"]
        words += [] if controller is None else ["--controller", str(controller)]
        environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        self.process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stderr is not None
        told = ""
        for line in self.process.stderr:
            told += line
            if (found := re.search(r"http://[^:]+:(\d+)", line)) is not None:
                self.port = int(found[1])
                # a pipe that nobody reads would hold the server up
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise SystemExit(f"the server did not start: {told}")

    def figures(self) -> dict[str, float]:
        """Return resident memory, open descriptors, threads and processor seconds of the server."""
        home = Path("/proc", str(self.process.pid))
        ticks = (home / "stat").read_text().rpartition(")")[2].split()
        return {
            "memory_mib": round(int((home / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 2),
            "descriptors": len(list((home / "fd").iterdir())),
            "threads": len(list((home / "task").iterdir())),
            "processor_seconds": round((int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"), 2),
        }

    def stop(self) -> int:
        """Let it stop as an operator would; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Soak:
    """A run of the served part, which writes what it has after every window."""

    def __init__(self, server: ServedDigits, arguments: argparse.Namespace) -> None:
        self.server, self.arguments = server, arguments
        self.questions = [
            question for name in DIGIT_SETS for question in digit_questions(name, split="test", count=40, seed=SEED)
        ]
        self.windows: list[Window] = []
        self.at_rest: list[dict[str, float]] = []
        self.whole_ms = 0.0
        self.started = time.perf_counter()

    def capacity(self) -> float:
        """Return the requests a second that the whole model answers one after the other, calibrating the server meanwhile."""
        client = Client(self.server.port)
        seconds: list[float] = []
        for question in self.questions[:90]:
            body = body_of(
                question.picture, question.prompt, latency_budget_ms=3_600_000, stream=True, max_tokens=MOST_TOKENS
            )
            status, _, _, took = client.ask(body)
            assert status == 200, status
            seconds.append(took)
        client.close()
        self.whole_ms = 1e3 * float(np.mean(seconds[30:]))
        return 1e3 / self.whole_ms

    async def run(self, capacity: float) -> None:
        """Serve both halves, windows after windows."""
        self.at_rest.append(self.server.figures())
        for load in LOADS:
            await self._half(load, capacity, 60 * self.arguments.minutes / len(LOADS))
            await asyncio.sleep(REST_SECONDS)
            self.at_rest.append(self.server.figures())

    async def _half(self, load: float, capacity: float, seconds: float) -> None:
        random = np.random.default_rng(SEED + int(100 * load))
        begun, at = time.perf_counter(), 0.0
        asking: set[asyncio.Task[None]] = set()
        number = 0
        while True:
            window = Window(load=load, from_seconds=time.perf_counter() - self.started)
            until = min(seconds, (time.perf_counter() - begun) + self.arguments.window)
            while (at := at + float(random.exponential(1 / (load * capacity)))) < until:
                await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
                task = asyncio.create_task(self._ask(number, window))
                asking.add(task)
                task.add_done_callback(asking.discard)
                number += 1
            window.process = self.server.figures() | {
                "asking": len(asking),
                "client_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
            self.windows.append(window)
            self.write(whole=False)
            if until >= seconds:
                break
        await asyncio.gather(*asking)

    async def _ask(self, number: int, window: Window) -> None:
        question = self.questions[number % len(self.questions)]
        budget_ms = round(BUDGET_TIMES[number % len(BUDGET_TIMES)] * self.whole_ms, 1)
        wanted = "refuse" if number // len(BUDGET_TIMES) % 2 else "degrade"
        body = body_of(
            question.picture,
            question.prompt,
            latency_budget_ms=budget_ms,
            on_infeasible=wanted,
            stream=True,
            max_tokens=MOST_TOKENS,
        )
        try:
            async with asyncio.timeout(LONGEST_ANSWER_SECONDS):
                status, answer, first_ms, total_ms = await _answered(self.server.port, body)
        except (OSError, TimeoutError, ValueError) as error:
            window.statuses[type(error).__name__] += 1
            return
        window.statuses[str(status)] += 1
        report = report_of(answer) if status == 200 else {}
        if first_ms is not None:
            window.first_ms.append(first_ms)
            window.total_ms.append(total_ms)
            window.promised += bool(report.get("promised"))
            window.kept += bool(report.get("promised")) and first_ms <= budget_ms

    def write(self, *, whole: bool, exit_code: int | None = None) -> None:
        """Write what there is."""
        keep(
            {
                "served": {
                    "whole": whole,
                    "minutes": self.arguments.minutes,
                    "window_seconds": self.arguments.window,
                    "machine": platform.platform(),
                    "load_average": os.getloadavg(),
                    "whole_model_ms": round(self.whole_ms, 2),
                    "exit_code": exit_code,
                    "loads": {f"{load:.0%}": summary(self.windows, load) for load in LOADS},
                    "at_rest": self.at_rest,
                    "complaints": complaints(self.windows, self.at_rest, exit_code),
                    "windows": [each.document() for each in self.windows],
                }
            }
        )


async def _answered(port: int, body: bytes) -> tuple[int, bytes, float | None, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        writer.write(head % len(body) + body)
        await writer.drain()
        sent, first_ms, got = time.perf_counter(), None, b""
        while part := await reader.read(1 << 16):
            got += part
            if first_ms is None and b'"content": "' in got.partition(b"\r\n\r\n")[2]:
                first_ms = 1e3 * (time.perf_counter() - sent)
        return int(got[9:12]), got.partition(b"\r\n\r\n")[2], first_ms, 1e3 * (time.perf_counter() - sent)
    finally:
        writer.close()


def thirds(windows: Sequence[Window]) -> list[list[Window]]:
    """Return the first, second and last third of some windows."""
    size = len(windows) // 3
    return [list(windows[:size]), list(windows[size : 2 * size]), list(windows[2 * size :])]


def summary(windows: Sequence[Window], load: float) -> dict[str, Any]:
    """Return what one half came to: answers, coverage with its interval, and what its last third has over its first."""
    own = [each for each in windows if each.load == load]
    promised, kept = sum(each.promised for each in own), sum(each.kept for each in own)
    found: dict[str, Any] = {
        "requests": sum(each.statuses.total() for each in own),
        "answers": dict(sorted(sum((each.statuses for each in own), Counter()).items())),
        "first_ms": _percentiles([value for each in own for value in each.first_ms]),
        "promises_kept": _share(kept, promised),
    }
    if len(own) >= 3:
        first, _, last = thirds(own)
        medians = [np.median([value for each in part for value in each.first_ms] or [np.nan]) for part in (first, last)]
        found |= {
            "median_first_ms_of_the_last_third_over_the_first": round(float(medians[1] / medians[0]), 3),
            "memory_mib_of_the_last_third_over_the_first": round(_memory(last) - _memory(first), 2),
            "promises_kept_by_thirds": [
                _share(sum(each.kept for each in part), sum(each.promised for each in part)) for part in thirds(own)
            ],
        }
    return found


def _memory(windows: Sequence[Window]) -> float:
    return float(np.median([each.process["memory_mib"] for each in windows]))


def _share(hits: int, count: int) -> dict[str, Any] | None:
    if not count:
        return None
    share = Proportion(successes=hits, count=count)
    interval = share.interval()
    return {"share": round(share.share, 4), "ci": [round(interval.low, 4), round(interval.high, 4)], "n": count}


def complaints(windows: Sequence[Window], at_rest: Sequence[dict[str, float]], exit_code: int | None) -> list[str]:
    """Return what must not be: lost answers, descriptors or threads left behind, memory that goes on growing."""
    answers = sum((each.statuses for each in windows), Counter())
    found = [f"{count} answers were {name}" for name, count in answers.items() if name not in ("200", "429", "503")]
    for earlier, later in pairwise(at_rest[1:]):  # before the load some threads are not there yet
        for name in ("descriptors", "threads"):
            if later[name] > earlier[name]:
                found.append(f"{later[name]:.0f} {name} at rest, {earlier[name]:.0f} before")
    for load in LOADS:
        own = [each for each in windows if each.load == load]
        if len(own) >= 6:
            _, second, last = thirds(own)
            if _memory(last) - _memory(second) > MOST_GROWTH_MIB:
                found.append(
                    f"memory at {load:.0%} grew by {_memory(last) - _memory(second):.1f} MiB in the last third"
                )
    return found + ([f"the server ended with {exit_code}"] if exit_code else [])


def requests(arrival_seconds: np.ndarray[Any, Any], random: np.random.Generator) -> RequestColumns:
    """Return requests of lognormal sizes at these times."""
    count = len(arrival_seconds)
    return RequestColumns(
        arrival_seconds=arrival_seconds,
        prompt_tokens=np.clip(random.lognormal(np.log(600), 0.6, count), 1, 3000).astype(np.int64),
        output_tokens=np.clip(random.lognormal(np.log(120), 0.6, count), 1, 600).astype(np.int64),
    )


def day(a_second: float, hours: int, random: np.random.Generator) -> RequestColumns:
    """Return a day whose every hour has the same rates, in shares of the requests a second that the engine gets through."""
    arrivals: list[np.ndarray[Any, Any]] = []
    for hour in range(hours):
        for begins, ends, load in STRETCHES:
            count = random.poisson((ends - begins) * load * a_second)
            arrivals.append(np.sort(random.uniform(begins, ends, count)) + hour * HOUR_SECONDS)
    return requests(np.concatenate(arrivals), random)


def simulated(hours: int = HOURS, seed: int = SEED) -> dict[str, Any]:
    """Serve a day in virtual time under a load controller; return figures by hour, and what must not be."""
    random = np.random.default_rng(seed)
    engine = SimulatedEngine(
        rules="paceline",
        planner=PlannerSettings(chunk_size=512, policy="edf"),
        max_num_seqs=64,
        num_blocks=3000,
        target_model=STEP_TIME,
    )
    at_once = simulate(requests(np.zeros(CALIBRATING), random), engine, LinearCost(STEP_TIME))
    a_second = CALIBRATING / float(at_once.completion_seconds.max())
    load = day(a_second, hours, random)
    alone_seconds = STEP_TIME.predict_ms(StepLoad(prefill_tokens=int(load.prompt_tokens.mean()))) / 1e3
    budgets = random.choice(np.array(SIMULATED_BUDGETS) * alone_seconds, len(load))
    load = replace(load, ttft_budget_seconds=budgets)
    settings = LoadSettings(price=PriceSettings(floor=0.25, step=0.3, share=0.5))
    accuracies = np.tile([accuracy for _, _, accuracy in CONFIGURATIONS], (len(load), 1))
    chooser = LoadChooser(LoadController(settings, engine.planner, STEP_TIME), accuracies)
    candidates = [
        [Candidate(prompt_tokens=max(1, int(share * tokens)), prefill_factor=cost) for share, cost, _ in CONFIGURATIONS]
        for tokens in load.prompt_tokens.tolist()
    ]
    cost = VaryingCost(LinearCost(STEP_TIME), random.lognormal(0, STEP_NOISE, 200_000))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    run = simulate(load, engine, cost, choices=Choices(candidates=candidates, choose=chooser))
    seconds = time.process_time() - started
    rows = by_hour(run, chooser.decisions, budgets, hours)
    promised, kept = sum(each["promised"] for each in rows), sum(each["kept"] for each in rows)
    return {
        "synthetic": True,
        "hours": hours,
        "capacity_requests_a_second": round(a_second, 3),
        "requests": len(load),
        "steps": run.step_count,
        "preemptions": int(run.preemptions.sum()),
        "promises_kept": _share(kept, promised),
        "processor_seconds": round(seconds, 1),
        "times_real": round(hours * HOUR_SECONDS / seconds),
        "memory_mib_more": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "median_of_the_last_hour_over_the_first": round(rows[-1]["first_ms"]["p50"] / rows[0]["first_ms"]["p50"], 3),
        "by_hour": rows,
        "complaints": [name for name, is_so in wrong_with(run, engine).items() if is_so],
    }


def by_hour(
    run: SimulatedRun, decisions: Sequence[LoadDecision], budgets: np.ndarray[Any, Any], hours: int
) -> list[dict[str, Any]]:
    """Return what the requests that arrived in each hour came to."""
    first_seconds = run.first_token_seconds - run.load.arrival_seconds
    hour_of = (run.load.arrival_seconds // HOUR_SECONDS).astype(int)
    promised = np.array([each.promised for each in decisions])
    kept = promised & (first_seconds <= budgets)
    assert run.chosen is not None
    return [
        {
            "requests": int((hour_of == hour).sum()),
            "promised": int(promised[hour_of == hour].sum()),
            "kept": int(kept[hour_of == hour].sum()),
            "first_ms": _percentiles((1e3 * first_seconds[hour_of == hour]).tolist()),
            "chosen": np.bincount(run.chosen[hour_of == hour], minlength=len(CONFIGURATIONS)).tolist(),
        }
        for hour in range(hours)
    ]


def wrong_with(run: SimulatedRun, engine: SimulatedEngine) -> dict[str, bool]:
    """Return what must not be of a run, and whether it is so."""
    assert run.steps is not None
    computed = int(run.steps.prefill_tokens.sum() + run.steps.decode_tokens.sum())
    needed = int((run.load.prompt_tokens + run.load.output_tokens - 1).sum())
    tokens = run.steps.decode_tokens + run.steps.prefill_tokens
    return {
        "a request does not end": not np.isfinite(run.completion_seconds).all(),
        "tokens are not conserved": computed < needed if run.preemptions.any() else computed != needed,
        "a step beyond its budget": bool((tokens > engine.planner.chunk_size).any()),
        "more requests than seats": bool((run.steps.running > engine.max_num_seqs).any()),
    }


def keep(part: dict[str, Any]) -> None:
    """Write a part beside those that stand there, and the chart of all of them."""
    path = RESULTS / "soak.json"
    held: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    document = {"command": "python benchmarks/soak.py " + " ".join(sys.argv[1:]), **held, **part}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)
    write_chart(document, RESULTS / "soak.svg")


def served(arguments: argparse.Namespace) -> list[str]:
    """Run the served part; returns its complaints. Stopped on the way, it leaves what it has."""
    server = ServedDigits(arguments.controller)
    soak = Soak(server, arguments)
    whole = False
    try:
        asyncio.run(soak.run(soak.capacity()))
        whole = True
    except KeyboardInterrupt:
        print("stopped; what there is stands in benchmarks/results/soak.json", file=sys.stderr)
    finally:
        soak.write(whole=whole, exit_code=server.stop())
    return complaints(soak.windows, soak.at_rest, server.process.returncode)


def main() -> None:
    """Run the parts that are asked for; exits with 1 when something must not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the served part, both halves together")
    parser.add_argument("--window", type=float, default=15.0, help="seconds of one window")
    parser.add_argument("--controller", type=Path, default=None)
    parser.add_argument("--hours", type=int, default=HOURS, help="of the simulated part")
    parser.add_argument("--only", nargs="+", choices=("served", "simulated"), default=("simulated", "served"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: list[str] = []
    if "simulated" in arguments.only:
        part = simulated(arguments.hours)
        keep({"simulated": part})
        found += part["complaints"]
        print(json.dumps(part | {"by_hour": len(part["by_hour"])}, indent=1))
    if "served" in arguments.only:
        found += served(arguments)
        part = json.loads((RESULTS / "soak.json").read_text())["served"]
        print(json.dumps(part | {"windows": len(part["windows"])}, indent=1))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
