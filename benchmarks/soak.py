"""A server under load for long: the embedded model over HTTP at 80 % and at 130 % of its capacity, and a day in virtual time.

    python benchmarks/soak.py [--minutes 30] [--controller demo-out/estimator] [--only served simulated]

`--minutes 2 --window 5 --hours 1` is a rehearsal of all of it.

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
import gc
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from server import Client, body_of, report_of
from simulated_day import HOURS, simulated
from soak_chart import write_chart
from soak_figures import GAVE_UP, LOADS, Window, complaints, summary

from paceline.datasets import DIGIT_SETS, digit_questions

RESULTS = Path(__file__).parent / "results"
BUDGET_TIMES = (1.0, 1.5, 3.0, 12.0)  # of the whole model's answer
KINDS = ("degrade", "refuse")
MOST_TOKENS, SEED = 8, 11
LONGEST_ANSWER_SECONDS, REST_SECONDS = 60.0, 3.0
MOST_LINES = 20  # of what the server said last


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
        self.told: deque[str] = deque(maxlen=MOST_LINES)
        for line in self.process.stderr:
            self.told.append(line)
            if (found := re.search(r"http://[^:]+:(\d+)", line)) is not None:
                self.port = int(found[1])
                # a pipe that nobody reads would hold the server up
                threading.Thread(target=self.told.extend, args=(self.process.stderr,), daemon=True).start()
                return
        raise SystemExit(f"the server did not start: {''.join(self.told)}")

    def require_running(self) -> None:
        """Raise SystemExit with what it said last where it has ended."""
        if self.process.poll() is not None:
            raise SystemExit(f"the server ended with {self.process.returncode}: {''.join(self.told)}")

    def figures(self) -> dict[str, float]:
        """Return resident memory, open descriptors, threads and processor seconds of the server."""
        home = Path("/proc", str(self.process.pid))
        ticks = (home / "stat").read_text().rpartition(")")[2].split()
        return {
            "memory_mib": round(int((home / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 2),
            "descriptors": len(list((home / "fd").iterdir())),
            "threads": len(list((home / "task").iterdir())),
            "processor_seconds": round((int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"), 2),
            "load_average": round(os.getloadavg()[0], 2),  # of the machine
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
        self.requests: list[tuple[float, bytes]] = []
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

    def bodies(self) -> list[tuple[float, bytes]]:
        """Return the bodies with their budgets in ms, in the order in which they are sent again and again."""
        made: list[tuple[float, bytes]] = []
        for number in range(len(self.questions) * len(BUDGET_TIMES) * len(KINDS)):
            question = self.questions[number % len(self.questions)]
            kind, place = divmod(number // len(self.questions), len(BUDGET_TIMES))
            budget_ms = round(BUDGET_TIMES[(number + place) % len(BUDGET_TIMES)] * self.whole_ms, 1)
            body = body_of(
                question.picture,
                question.prompt,
                latency_budget_ms=budget_ms,
                on_infeasible=KINDS[(number // len(BUDGET_TIMES) + kind) % len(KINDS)],
                stream=True,
                max_tokens=MOST_TOKENS,
            )
            made.append((budget_ms, body))
        return made

    async def run(self, capacity: float) -> None:
        """Serve both halves, windows after windows."""
        self.requests = self.bodies()
        self.at_rest.append(self.server.figures())
        for load in LOADS:
            await self._half(load, capacity, 60 * self.arguments.minutes / len(LOADS))
            await asyncio.sleep(REST_SECONDS)
            self.at_rest.append(self.server.figures())

    async def _half(self, load: float, capacity: float, seconds: float) -> None:
        random = np.random.default_rng(SEED + int(100 * load))
        begun = time.perf_counter()
        at = float(random.exponential(1 / (load * capacity)))
        asking: set[asyncio.Task[None]] = set()
        number = 0
        while True:
            window = Window(load=load, from_seconds=time.perf_counter() - self.started)
            until = min(seconds, (time.perf_counter() - begun) + self.arguments.window)
            while at < until:
                await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
                window.sent += 1
                window.late_ms.append(1e3 * (time.perf_counter() - begun - at))
                task = asyncio.create_task(self._ask(number, window))
                asking.add(task)
                task.add_done_callback(asking.discard)
                number += 1
                at += float(random.exponential(1 / (load * capacity)))
            self.server.require_running()
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
        budget_ms, body = self.requests[number % len(self.requests)]
        try:
            async with asyncio.timeout(LONGEST_ANSWER_SECONDS):
                status, answer, first_ms, total_ms = await _answered(self.server.port, body)
            report = report_of(answer) if status == 200 else {}
        except TimeoutError:
            window.statuses[GAVE_UP] += 1
            return
        except Exception as error:  # whatever it is, it is counted and complained of, and the load goes on
            window.statuses[type(error).__name__] += 1
            return
        is_whole = status != 200 or (report and first_ms is not None)
        window.statuses[str(status) if is_whole else "200 without a token or a report"] += 1
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
                    **provenance("soak.py"),
                    "whole": whole,
                    "minutes": self.arguments.minutes,
                    "window_seconds": self.arguments.window,
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


def keep(part: dict[str, Any]) -> None:
    """Write a part beside those that stand there, and the chart of all of them."""
    path = RESULTS / "soak.json"
    held: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    held.pop("command", None)  # of a file that an older version wrote: each part has its own
    document = held | part
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
        with no_collections():
            asyncio.run(soak.run(soak.capacity()))
        whole = True
    except KeyboardInterrupt:
        print("stopped; what there is stands in benchmarks/results/soak.json", file=sys.stderr)
    finally:
        soak.write(whole=whole, exit_code=server.stop())
    return complaints(soak.windows, soak.at_rest, server.process.returncode)


@contextmanager
def no_collections() -> Generator[None]:
    """Keep Python from looking through the client's whole heap while answers are timed; what it then leaves is little."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
        part = {**provenance("soak.py"), **simulated(arguments.hours)}
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
