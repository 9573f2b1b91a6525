"""What `paceline serve` costs and keeps: its time a request, its memory, its answers at five times its capacity, its promises.

    python benchmarks/server.py CONTROLLER [--only overhead memory overload coverage] [--pairs 400] [--requests 10000]

CONTROLLER is a table or an estimator of the embedded model (`demo-out/estimator`). Client and server share this process, so
the client's work counts as the server's.

- overhead: a made-up model that answers at once is asked over HTTP, whole and streamed, and in turn called directly, after the
  decision that `AdaptiveModel` makes in process. The difference of each pair in wall time, and in this process's processor time,
  which other processes lengthen less.
- memory: so many requests with a picture to a made-up model; the resident set after a tenth of them and after all.
- overload: a made-up model that takes 20 ms, asked at five times its capacity with budgets of 100 ms; half of the requests would
  rather be refused.
- coverage: the embedded model, `--asked` requests at each of three budgets, one at a time, streamed; the client's clock from the
  last byte sent to the first content received. Of those promised, the share that came within budget and within bound.

Writes benchmarks/results/server.json; the load of the machine stands beside every part.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from paceline.control.estimated import DEFAULT_ALPHA
from paceline.datasets import DIGIT_SETS, digit_questions
from paceline.records import KnobConfig
from paceline.runtime import AdaptiveModel
from paceline.server.engine import HandOn, Unwanted
from paceline.server.question import Answered, Caps, FirstToken, Question
from paceline.server.serve import ChatServer, Server, ServerSettings, build_server, load_served
from paceline.slo import Proportion

RESULTS = Path(__file__).parent / "results" / "server.json"
PARTS = ("overhead", "memory", "overload", "coverage")
OVERLOAD_MS, OVERLOAD_BUDGET_MS, OVERLOAD = 20.0, 100.0, 5.0
SEED = 11


class MadeUp:
    """A model of no weights: its first token is there after `first_ms`, and one more follows at once."""

    context, largest_picture_tokens = 4096, 100

    def __init__(self, first_ms: float = 0.0) -> None:
        self.first_ms = first_ms

    def whole(self, *, low: bool = False) -> KnobConfig:
        """Return a configuration."""
        return KnobConfig(tier="low" if low else "high", top_k=None, num_active_blocks=None)

    def answer(
        self, question: Question, config: KnobConfig, caps: Caps, hand_on: HandOn, unwanted: Unwanted
    ) -> Answered:
        """Answer after the time."""
        del question, config, caps, unwanted
        if self.first_ms:
            time.sleep(self.first_ms / 1e3)
        hand_on(FirstToken(seconds=time.perf_counter(), preprocess_ms=0.0, vision_ms=0.0, prefill_ms=self.first_ms))
        hand_on("4")
        hand_on(" 2")
        return Answered(rest="", finish_reason="stop", prompt_tokens=7, completion_tokens=2)


@contextmanager
def served(parts: ChatServer) -> Generator[int]:
    """Serve in a thread; yields the port."""
    server = Server(parts, host="127.0.0.1", port=0)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    port = listening.getsockname()[1]
    try:
        yield port
    finally:
        loops[0].call_soon_threadsafe(server.stop)
        thread.join()


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, body: bytes) -> tuple[int, bytes, float | None, float]:
        """Return status, body, and the seconds from the last byte sent to the first content and to the end."""
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.sock.sendall(head % len(body) + body)
        sent, first, got = time.perf_counter(), None, b""
        while not _whole(got):
            part = self.sock.recv(1 << 16)
            if not part:
                raise ConnectionError("the server closed the connection")
            got += part
            if first is None and b'"content": "' in got.partition(b"\r\n\r\n")[2]:
                first = time.perf_counter() - sent
        return int(got[9:12]), got.partition(b"\r\n\r\n")[2], first, time.perf_counter() - sent

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


def _whole(got: bytes) -> bool:
    head, _, body = got.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    place = head.lower().find(b"content-length: ")
    return place >= 0 and len(body) >= int(head[place + 16 :].split(b"\r")[0])


def body_of(picture: Any, prompt: str, **fields: Any) -> bytes:
    """Return the body of a question about a picture."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]
    return json.dumps({"messages": [{"role": "user", "content": parts}], **fields}).encode()


def report_of(body: bytes) -> dict[str, Any]:
    """Return the object `paceline` of an answer, streamed or whole; empty without one."""
    place = body.find(b'"paceline":')
    return {} if place < 0 else json.JSONDecoder().raw_decode(body[place + 11 :].lstrip().decode())[0]


def percentiles(values: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile."""
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "n": len(values)}


def overhead(parts: ChatServer, own: AdaptiveModel, pairs: int) -> dict[str, Any]:
    """Return the server's own milliseconds a request, by kind of answer."""
    question, model = digit_questions(DIGIT_SETS[0], split="test", count=1, seed=SEED)[0], MadeUp()

    def direct() -> None:
        own.decide(question.picture, question.prompt, latency_budget_ms=100)
        asked = Question(messages=(), pictures=())
        model.answer(asked, model.whole(), None, lambda _: None, lambda: False)

    found: dict[str, Any] = {}
    with served(parts) as port:
        client = Client(port)
        for name, fields in (("whole", {}), ("streamed", {"stream": True})):
            over = partial(client.ask, body_of(question.picture, question.prompt, latency_budget_ms=100, **fields))
            for _ in range(20):  # the first are slow
                over()
            pairs_ms = [(_timed(over), _timed(direct)) for _ in range(pairs)]
            found[name] = {
                "wall_ms": percentiles([one[0] - other[0] for one, other in pairs_ms]),
                "processor_ms": percentiles([one[1] - other[1] for one, other in pairs_ms]),
            }
        client.close()
    return found


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def memory(parts: ChatServer, requests: int) -> dict[str, Any]:
    """Return the resident set in MiB after a tenth of the requests and after all."""
    question = digit_questions(DIGIT_SETS[0], split="test", count=1, seed=SEED)[0]
    bodies = [
        body_of(question.picture, question.prompt, latency_budget_ms=100, stream=stream) for stream in (False, True)
    ]
    with served(parts) as port:
        client, early = Client(port), 0.0
        for number in range(requests):
            status = client.ask(bodies[number % 2])[0]
            assert status == 200, status
            if number == requests // 10:
                early = _resident_mib()
        client.close()
        late = _resident_mib()
    return {
        "requests": requests,
        "early_mib": round(early, 1),
        "late_mib": round(late, 1),
        "grown_mib": round(late - early, 2),
    }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def overload(parts: ChatServer, requests: int = 400) -> dict[str, Any]:
    """Return what requests at five times the capacity were answered, and how late those were that would rather be refused."""
    question = digit_questions(DIGIT_SETS[0], split="test", count=1, seed=SEED)[0]
    kinds = ("degrade", "refuse")
    bodies = {
        kind: body_of(
            question.picture, question.prompt, latency_budget_ms=OVERLOAD_BUDGET_MS, on_infeasible=kind, stream=True
        )
        for kind in kinds
    }
    generator = np.random.default_rng(SEED)
    gaps = generator.exponential(OVERLOAD_MS / OVERLOAD / 1e3, requests)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    refused_ms: list[float] = []
    lock = threading.Lock()

    def one(port: int, kind: str) -> None:
        client = Client(port)
        status, body, _, seconds = client.ask(bodies[kind])
        client.close()
        report = report_of(body)
        said = (
            "within budget"
            if report.get("within_budget")
            else "late, and says so"
            if report.get("within_budget") is False
            else "unsaid"
        )
        with lock:
            outcomes[kind][said if status == 200 else str(status)] += 1
            if status in (429, 503):
                refused_ms.append(1e3 * seconds)

    with served(parts) as port:
        threads: list[threading.Thread] = []
        for number, gap in enumerate(gaps):
            time.sleep(gap)
            threads.append(threading.Thread(target=one, args=(port, kinds[number % 2])))
            threads[-1].start()
        for thread in threads:
            thread.join()
    answered = {kind: dict(count) for kind, count in outcomes.items()}
    late = percentiles(refused_ms) if refused_ms else None
    return {
        "requests": requests,
        "times_capacity": OVERLOAD,
        "budget_ms": OVERLOAD_BUDGET_MS,
        "answers": answered,
        "refused_after_ms": late,
    }


def coverage(parts: ChatServer, asked: int) -> dict[str, Any]:
    """Return the shares of promises kept by the client's clock, at three budgets."""
    sets = [digit_questions(name, split="test", count=120, seed=SEED) for name in DIGIT_SETS]
    questions = [question for each in sets for question in each]
    with served(parts) as port:
        client = Client(port)
        seen: list[float] = []
        for question in questions[:60]:  # calibrates, and tells what is usual here
            seen.append(
                1e3
                * (
                    client.ask(
                        body_of(
                            question.picture, question.prompt, latency_budget_ms=3_600_000, stream=True, max_tokens=8
                        )
                    )[2]
                    or 0.0
                )
            )
        budgets = [round(float(np.median(seen)) * share, 1) for share in (0.7, 1.2, 2.0)]
        rows: dict[float, list[tuple[bool, bool, bool]]] = {budget: [] for budget in budgets}
        for number in range(asked):
            question = questions[number % len(questions)]
            for budget in budgets:
                body = body_of(question.picture, question.prompt, latency_budget_ms=budget, stream=True, max_tokens=8)
                _, answer, first, _ = client.ask(body)
                report, first_ms = report_of(answer), 1e3 * (first or float("inf"))
                bound = report["bound_ms"]
                rows[budget].append((report["promised"], first_ms <= budget, bound is not None and first_ms <= bound))
        client.close()
    return {f"{budget:g} ms": _kept(each) for budget, each in rows.items()} | {
        "all": _kept([row for each in rows.values() for row in each])
    }


def _kept(rows: list[tuple[bool, bool, bool]]) -> dict[str, Any]:
    promised = [row for row in rows if row[0]]
    return {
        "asked": len(rows),
        "promised": len(promised),
        "promises_kept": _share([kept for _, kept, _ in promised]),
        "within_bound": _share([bound for _, _, bound in rows]),
    }


def _share(held: list[bool]) -> dict[str, Any] | None:
    if not held:
        return None
    share = Proportion(successes=sum(held), count=len(held))
    interval = share.interval()
    return {"share": round(share.share, 4), "ci": [round(interval.low, 4), round(interval.high, 4)], "n": share.count}


def main() -> None:
    """Run the parts that are asked for and write them beside those that stand there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("controller", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--asked", type=int, default=340)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    model, controllers = load_served("digits", chosen.controller, alpha=DEFAULT_ALPHA, device="cpu")

    own = AdaptiveModel(model=model, controller=next(iter(controllers.values())))

    def parts(first_ms: float | None) -> ChatServer:
        built = build_server(model, controllers, ServerSettings(name="digits"), log=len)
        if first_ms is not None:
            object.__setattr__(built.host, "model", MadeUp(first_ms))  # the host is frozen for everybody else
        return built

    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": lambda: overhead(parts(0.0), own, chosen.pairs),
        "memory": lambda: memory(parts(0.0), chosen.requests),
        "overload": lambda: overload(parts(OVERLOAD_MS)),
        "coverage": lambda: coverage(parts(None), chosen.asked),
    }
    for name in chosen.only:
        result = runs[name]()
        found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found[name] = {**provenance("server.py"), "load_average": os.getloadavg(), **result}
        print(json.dumps({name: found[name]}, indent=2))
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
