"""What a decision costs while requests come in a burst: from a request's last byte to its body for the engine.

    python benchmarks/decision_burst.py CONTROLLER [--requests 300] [--waiting 0 64 512]

CONTROLLER is the directory of an estimator of the embedded model (`paceline demo` makes one: demo-out/estimator) or a table. The
middleware stands before an application that answers the oldest request once more than so many wait, as an engine would that is
behind; so many, of a small picture each, are there before the first that is measured. All is in one thread, and no picture is
decoded in it. Three of four requests have a budget. Seconds are of the
processor, of the thread that an API server decides in; the wall's stand beside them. Asked: at most 5 ms a request at 200
requests a second, so that a second of them takes less than a second of one core. Adds to
benchmarks/results/decision_burst.json.
"""

import argparse
import asyncio
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from vllm_budgets import NAMES, body_of, pictures

from paceline.control.loading import load_controller
from paceline.models.loading import load_request_plans
from paceline.schedule import LinearStepTime, LoadController, LoadSettings, PlannerSettings, ServerLoad
from paceline.serving.desk import CHAT_PATH, Desk
from paceline.serving.middleware import BudgetMiddleware, Message, Receive, Scope, Send

RESULTS = Path(__file__).parent / "results" / "decision_burst.json"
ASKED_MS, RATE = 5.0, 200.0
BUDGETS_MS = (20, 60, 200, None)
STEP_TIME = LinearStepTime(
    base_ms=5.0,
    per_decode_token_ms=0.2,
    per_decode_context_token_ms=0.0001,
    per_prefill_token_ms=0.05,
    per_prefill_attention_token_ms=0.00001,
)
ANSWER = b'data: {"choices":[{"delta":{"content":"4"}}]}\n\ndata: [DONE]\n\n'


class Behind:
    """An application that is so many requests behind; notes when each request reaches it."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.reached = waiting, asyncio.Event()
        self.queue: deque[asyncio.Event] = deque()
        self.cpu: list[int] = []

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer once more than so many came after."""
        await receive()
        self.cpu.append(time.thread_time_ns())
        turn = asyncio.Event()
        self.queue.append(turn)
        self.reached.set()
        await turn.wait()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})


async def burst(desk: Desk, first: list[bytes], bodies: list[bytes], waiting: int) -> tuple[list[float], list[float]]:
    """Return the ms of processor and of wall of each decision on `bodies`, which come behind the `first`."""
    now = {"seconds": 0.0}
    app = Behind(waiting)
    middleware = BudgetMiddleware(app, desk, clock=lambda: now["seconds"], wall=lambda: now["seconds"])
    scope = {"type": "http", "method": "POST", "path": CHAT_PATH, "headers": [(b"content-type", b"application/json")]}
    tasks: list[asyncio.Task[None]] = []
    cpu_ms: list[float] = []
    wall_ms: list[float] = []

    async def send(_: Message) -> None:
        return None

    for body in [*first, *bodies]:
        now["seconds"] += 1 / RATE

        async def receive(body: bytes = body) -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        app.reached.clear()
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        tasks.append(asyncio.ensure_future(middleware(dict(scope), receive, send)))
        await app.reached.wait()
        cpu_ms.append((app.cpu[-1] - cpu) / 1e6)
        wall_ms.append((time.perf_counter_ns() - wall) / 1e6)
        while len(app.queue) > waiting:
            app.queue.popleft().set()
        await asyncio.sleep(0)
    for turn in app.queue:
        turn.set()
    await asyncio.gather(*tasks)
    return cpu_ms[len(first) :], wall_ms[len(first) :]


def clock_ms() -> float:
    """Return what it costs to read the processor's clock, which is in every figure and taken off: up to a millisecond here."""
    reads = [time.thread_time_ns() for _ in range(401)]
    return float(np.median(np.diff(reads))) / 1e6


def described(values: list[float]) -> dict[str, float]:
    """Return percentiles and mean."""
    p50, p95, p99, top = np.percentile(values, [50, 95, 99, 100]).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "max": top, "mean": float(np.mean(values))}


def asking(picture: bytes, requests: int) -> list[bytes]:
    """Return the bodies of requests that ask for one budget after the other."""
    return [
        body_of(picture, {} if budget is None else {"latency_budget_ms": budget}, text=f"Count the digits, {number}.")
        for number in range(requests)
        for budget in [BUDGETS_MS[number % len(BUDGETS_MS)]]
    ]


def measured(controller: Path, small: bytes, picture: bytes, requests: int, waiting: int) -> dict[str, Any]:
    """Return what decisions cost with so many waiting."""
    line = LoadController(LoadSettings(alpha=0.05), PlannerSettings(chunk_size=256, policy="edf"), STEP_TIME)
    desk = Desk(
        controllers={"ttft": load_controller(controller)},
        sizes=load_request_plans("digits"),
        alpha=0.05,
        names=NAMES,
        line=ServerLoad(line),
    )
    bodies = asking(picture, requests)
    asyncio.run(burst(desk, [], bodies[:20], waiting))
    cpu, wall = asyncio.run(burst(desk, asking(small, waiting), bodies, waiting))
    cost = clock_ms()
    cpu = [max(0.0, ms - cost) for ms in cpu]
    decided = [ms for number, ms in enumerate(cpu) if BUDGETS_MS[number % len(BUDGETS_MS)] is not None]
    return {
        "body_bytes": len(bodies[0]),
        "waiting": waiting,
        "clock_ms": cost,
        "cpu_ms": described(decided),
        "wall_ms": described(wall),
        "within_5_ms": float(np.mean(np.array(decided) <= ASKED_MS)),
        "core_share_at_200_a_second": float(np.mean(cpu)) / 1e3 * RATE,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("controller", type=Path)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 64, 512])
    asked = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    found = pictures()
    small = min(found.values(), key=len)
    for name, picture in found.items():
        rows[name] = []
        for waiting in asked.waiting:
            rows[name].append(measured(asked.controller, small, picture, asked.requests, waiting))
            each = rows[name][-1]
            print(
                f"{name}, {waiting} waiting: {each['cpu_ms']['p50']:.2f} ms, P99 {each['cpu_ms']['p99']:.2f}, "
                f"{each['within_5_ms']:.1%} within 5 ms; {each['core_share_at_200_a_second']:.0%} of a core",
                flush=True,
            )
    document = {
        **provenance("decision_burst.py"),
        "requests_of_each": asked.requests,
        "bodies": rows,
        "load_average": os.getloadavg()[0],
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
