"""What budgets over HTTP cost, and how many of them are kept, by the client's clock.

    python benchmarks/vllm_budgets.py CONTROLLER [--requests 1000] [--pairs 300] [--decisions 300] [--only decisions ...]

CONTROLLER is the directory of an estimator of the embedded model (`paceline demo` makes one: demo-out/estimator) or a table.

decisions: from a request's last byte to its decision, in one process without vLLM: the body is read, the picture's header, tokens
    are counted, chosen, the body rewritten. Pictures of up to 12 megapixels, long texts, and bodies without a budget.
overhead: native requests to two vLLM servers of the embedded model, with and without Paceline's middleware, worker and scheduler,
    asked in turn, one at a time; the ratio of medians with a bootstrap interval over pairs.
adherence: five budgets in random order at concurrency 1, streamed, each with a picture of its own; a time to first token runs
    from the last byte that the client sends to the first token that it reads.

The vLLM parts need an environment with vLLM (`make setup-vllm`); on its build for a CPU tests/vllm/torchvision_standin on
PYTHONPATH, and a distribution called vllm (tests/vllm/test_vllm_budgets.py makes one). Adds to
benchmarks/results/vllm_budgets.json.
"""

import argparse
import base64
import http.client
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from provenance import provenance

from paceline.control.estimated import DEFAULT_ALPHA
from paceline.control.loading import load_controller
from paceline.datasets.digits import digit_questions
from paceline.datasets.question import VisualQuestion
from paceline.models.loading import load_request_plans
from paceline.serving.desk import CHAT_PATH, Desk
from paceline.serving.rewriting import KnobNames
from paceline.slo import Proportion, percentile
from paceline.vllm_plugin.command import serve_command

RESULTS = Path(__file__).parent / "results" / "vllm_budgets.json"
SEED = 3407
BUDGETS = 5
CALIBRATING = 80  # requests before the first that counts
NEW_TOKENS = 4
PART_BYTES = 64 * 1024  # what a server hands on of a body at a time
START_SECONDS = 600
JSON_HEADERS = {"Content-Type": "application/json"}
NAMES = KnobNames(
    top_k="paceline_top_k", active_blocks="paceline_active_blocks", ttft_budget_ms="paceline_ttft_budget_ms"
)
SERVER_FLAGS = ("--enforce-eager", "--block-size", "32", "--max-num-seqs", "16", "--max-num-batched-tokens", "256")


def main() -> None:
    """Measure what is asked for, print it and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("controller", type=Path)
    parser.add_argument("--requests", type=int, default=1000, help="under each budget")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--decisions", type=int, default=300, help="of each kind of body")
    parser.add_argument("--only", nargs="+", choices=("decisions", "overhead", "adherence"))
    asked = parser.parse_args()
    parts = {
        "decisions": lambda: decisions(asked.controller, asked.decisions),
        "overhead": lambda: overhead(asked.controller, asked.pairs),
        "adherence": lambda: adherence(asked.controller, asked.requests),
    }
    document: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in asked.only or parts:
        before = os.getloadavg()
        found = parts[name]()
        found |= provenance("vllm_budgets.py")
        found["load_average"] = {"before": round(before[0], 2), "after": round(os.getloadavg()[0], 2)}
        document[name] = found
        print(name, json.dumps(found, indent=1))
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


def decisions(controller: Path, count: int) -> dict[str, Any]:
    """Return milliseconds from a body to its decision, by kind of body: wall clock and the thread's own processor time."""
    desk = Desk(
        controllers={"ttft": load_controller(controller)},
        sizes=load_request_plans("digits"),
        alpha=DEFAULT_ALPHA,
        names=NAMES,
    )
    budget = {"latency_budget_ms": 100}
    bodies = {name: body_of(picture, budget) for name, picture in pictures().items()}
    bodies["1 megapixel PNG, slashes escaped as PHP does"] = bodies["1 megapixel PNG"].replace(b"/", b"\\/")
    bodies["8,000 letters, no picture"] = body_of(None, budget, text="count the digits " * 470)
    bodies["200,000 letters, no picture"] = body_of(None, budget, text="count the digits " * 11_765)
    bodies["two pictures, 12 and 1 megapixels JPEG"] = body_of(
        pictures()["12 megapixels JPEG"], budget, more=(pictures()["1 megapixel JPEG"],)
    )
    bodies["without a budget, 12 megapixels JPEG"] = body_of(pictures()["12 megapixels JPEG"], {})
    found: dict[str, Any] = {}
    for name, body in bodies.items():
        times = [_decided(desk, body) for _ in range(count + 20)][20:]
        wall, cpu = ([each[place] for each in times] for place in (0, 1))
        found[name] = {
            "body_bytes": len(body),
            "wall_ms": {"p50": round(percentile(wall, 50), 3), "p95": round(percentile(wall, 95), 3)},
            "cpu_ms": {"p50": round(percentile(cpu, 50), 3), "p95": round(percentile(cpu, 95), 3)},
        }
    return {"requests_of_each": count, "bodies": found}


def _decided(desk: Desk, body: bytes) -> tuple[float, float]:
    received = [body[first : first + PART_BYTES] for first in range(0, len(body), PART_BYTES)]
    wall, cpu = time.perf_counter(), time.thread_time()
    reading = desk.read(CHAT_PATH, [], b"".join(received))
    ticket = None
    if reading.asked is not None:
        ticket = desk.accept(reading, received_seconds=0.0, now_seconds=0.0)
    taken = 1e3 * (time.perf_counter() - wall), 1e3 * (time.thread_time() - cpu)
    if ticket is not None:
        desk.finish(ticket, 0.0)
    return taken


def pictures() -> dict[str, bytes]:
    """Return files of pictures by what they are."""
    noise = np.random.default_rng(SEED)

    def saved(width: int, height: int, kind: str) -> bytes:
        file = io.BytesIO()
        small = Image.fromarray(noise.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8))
        small.resize((width, height)).save(file, kind)
        return file.getvalue()

    return {
        "a digit question's PNG": _png(_questions(1)[0]),
        "1 megapixel JPEG": saved(1152, 864, "JPEG"),
        "12 megapixels JPEG": saved(4000, 3000, "JPEG"),
        "1 megapixel PNG": saved(1152, 864, "PNG"),
        "1 megapixel WebP": saved(1152, 864, "WEBP"),
    }


def _questions(count: int) -> list[VisualQuestion]:
    each = -(-count // 3)
    names = ("digits_read", "digits_count", "digits_exist")
    found = [question for name in names for question in digit_questions(name, split="test", count=each, seed=SEED)]
    random.Random(SEED).shuffle(found)
    return found[:count]


def _png(question: VisualQuestion) -> bytes:
    file = io.BytesIO()
    question.picture.save(file, "PNG")
    return file.getvalue()


def body_of(
    picture: bytes | None, fields: dict[str, Any], *, text: str = "Read the digits.", more: Sequence[bytes] = ()
) -> bytes:
    """Return a streamed chat with these fields beside its messages."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for each in [*more, *([] if picture is None else [picture])]:
        url = "data:image/png;base64," + base64.b64encode(each).decode()
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    asked = {
        "model": "digits",
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "max_tokens": NEW_TOKENS,
    }
    return json.dumps({**asked, "stream": True, **fields}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """One streamed answer: milliseconds to its first token by the client's clock, to its end, and Paceline's report."""

    ttft_ms: float
    total_ms: float
    report: dict[str, Any] | None


def ask(connection: http.client.HTTPConnection, body: bytes) -> Streamed:
    """Send a request, read its stream, and look at the clock; to connect, anew each time, does not count."""
    connection.close()  # a server closes one that was idle while another was asked
    connection.request("POST", CHAT_PATH, body, JSON_HEADERS)
    sent = time.perf_counter()
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{response.status}: {response.read()[:500]!r}")
    ttft_ms, report = None, None
    while line := response.readline():
        if ttft_ms is None and b'"content":"' in line and b'"role"' not in line:
            ttft_ms = 1e3 * (time.perf_counter() - sent)
        if b'"paceline"' in line:
            report = json.loads(line.removeprefix(b"data: "))["paceline"]
    total_ms = 1e3 * (time.perf_counter() - sent)
    return Streamed(ttft_ms=total_ms if ttft_ms is None else ttft_ms, total_ms=total_ms, report=report)


@contextmanager
def served(words: Sequence[str]) -> Generator[http.client.HTTPConnection]:
    """Run a server of the embedded model until the block ends; yields a connection to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as log:
        command = [*words, "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_until_healthy(server, port, Path(log.name))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            yield connection
            connection.close()
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(log.read_text()[-4000:])
        try:
            probe = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            probe.request("GET", "/health")
            if probe.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit("the server did not start: " + log.read_text()[-4000:])


def overhead(controller: Path, pairs: int) -> dict[str, Any]:
    """Return how much longer native requests take on a server with Paceline's parts than on vLLM as it is."""
    ours = serve_command("digits", controller=controller, arguments=SERVER_FLAGS)
    place = ours.index("serve")
    names = ("--served-model-name", "--dtype", "--max-model-len", "--limit-mm-per-prompt")
    plain = [
        *ours[: place + 2],
        *(word for name in names for word in (name, ours[ours.index(name) + 1])),
        *SERVER_FLAGS,
    ]
    bodies = [body_of(_png(question), {}, text=question.prompt) for question in _questions(pairs + 20)]
    order = random.Random(SEED)
    rows: list[tuple[Streamed, Streamed]] = []
    with served(plain) as stock, served(ours) as budgeted:
        for body in bodies:
            if order.random() < 0.5:
                rows.append((ask(stock, body), ask(budgeted, body)))
            else:
                second = ask(budgeted, body)
                rows.append((ask(stock, body), second))
    rows = rows[20:]
    return {"pairs": pairs, "ttft": _ratio([(a.ttft_ms, b.ttft_ms) for a, b in rows])} | {
        "total": _ratio([(a.total_ms, b.total_ms) for a, b in rows])
    }


def _ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    values = np.array(pairs)
    draws = np.random.default_rng(SEED).integers(0, len(values), (2000, len(values)))
    medians = np.median(values[draws], axis=1)
    low, high = np.percentile(medians[:, 1] / medians[:, 0], (2.5, 97.5))
    stock, ours = (statistics.median(values[:, place].tolist()) for place in (0, 1))
    interval = [round(float(low), 4), round(float(high), 4)]
    return {
        "stock_ms": round(stock, 2),
        "ours_ms": round(ours, 2),
        "ratio": round(ours / stock, 4),
        "ratio_ci": interval,
    }


def adherence(controller: Path, requests: int) -> dict[str, Any]:
    """Return, for five budgets, how many were kept by the client's clock, with exact binomial intervals."""
    words = serve_command("digits", controller=controller, arguments=SERVER_FLAGS)
    questions = _questions(min(BUDGETS * requests, 2000) + CALIBRATING)
    chosen = random.Random(SEED)
    with served(words) as connection:
        for number, question in enumerate(questions[:CALIBRATING]):
            ask(connection, _of(question, 1e6 if number % 2 else 0.01))
        budgets_ms = _budgets(connection, questions[:10])
        plan = [budget_ms for budget_ms in budgets_ms for _ in range(requests)]
        chosen.shuffle(plan)
        rows: dict[float, list[Streamed]] = {budget_ms: [] for budget_ms in budgets_ms}
        for budget_ms in plan:
            rows[budget_ms].append(ask(connection, _of(chosen.choice(questions[CALIBRATING:]), budget_ms)))
    return {
        "requests_of_each": requests,
        "alpha": DEFAULT_ALPHA,
        "controller": _kind(controller),
        "budgets": {f"{budget_ms:g}": _figures(budget_ms, each) for budget_ms, each in rows.items()},
    }


def _of(question: VisualQuestion, budget_ms: float) -> bytes:
    return body_of(_png(question), {"latency_budget_ms": budget_ms}, text=question.prompt)


def _budgets(connection: http.client.HTTPConnection, questions: Sequence[VisualQuestion]) -> list[float]:
    """Return five budgets from where the smallest bound fits to where the largest does."""
    ends: list[float] = []
    for budget_ms in (0.01, 1e6):
        reports = [ask(connection, _of(question, budget_ms)).report for question in questions]
        ends.append(max(float(report["bound_ms"]) for report in reports if report and report["bound_ms"]))
    return [round(float(each), 1) for each in np.geomspace(1.1 * ends[0], 1.2 * ends[1], BUDGETS)]


def _kind(controller: Path) -> str:
    return "estimator" if controller.is_dir() else "table"


def _figures(budget_ms: float, rows: Sequence[Streamed]) -> dict[str, Any]:
    ttfts = [row.ttft_ms for row in rows]
    promised = [row for row in rows if row.report and row.report["promised"]]
    reports = [row.report for row in rows if row.report]
    gaps = [row.ttft_ms - row.report["ttft_ms"] for row in rows if row.report]
    return {
        "kept": _share([row.ttft_ms <= budget_ms for row in rows]),
        "kept_by_the_servers_clock": _share([report["within_budget"] for report in reports]),
        "promised": len(promised),
        "promises_kept": _share([row.ttft_ms <= budget_ms for row in promised]),
        "degraded": sum(report["degraded"] for report in reports),
        "ttft_ms": {"p50": round(percentile(ttfts, 50), 2), "p95": round(percentile(ttfts, 95), 2)},
        "client_minus_server_ms": {"p50": round(percentile(gaps, 50), 3), "p95": round(percentile(gaps, 95), 3)},
        "configurations": dict(
            Counter("_".join(map(str, report["config"].values())) for report in reports).most_common(5)
        ),
    }


def _share(outcomes: Sequence[bool]) -> dict[str, Any] | None:
    if not outcomes:
        return None
    share = Proportion(successes=sum(outcomes), count=len(outcomes))
    interval = share.interval()
    return {"share": round(share.share, 4), "ci": [round(interval.low, 4), round(interval.high, 4)], "n": len(outcomes)}


if __name__ == "__main__":
    sys.exit(main())
