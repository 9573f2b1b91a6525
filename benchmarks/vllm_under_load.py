"""Budgets under load in real vLLM: choices at arrival beside vLLM as it is, one configuration for all, and a cap on its queue.

    .venv-vllm/bin/python benchmarks/vllm_under_load.py FOLDER [--models digits wide] [--repetitions 5] [--requests 100]
        [--loads 0.8 1.2 1.8] [--ways paceline dear whole capped low medium] [--minutes 12] [--results FILE]

On vLLM's build for a CPU with tests/vllm/torchvision_standin and a distribution called vllm on PYTHONPATH: `docs/vllm.md`.
FOLDER keeps models, tables and step-time models between runs. Adds to benchmarks/results/vllm_under_load.json, run by run: a
killed call goes on, and one that is given so many minutes begins no run after them.

Open loop: Poisson arrivals at shares of the requests a second that vLLM's whole model completes, measured anew in each
repetition; every way of serving gets the same arrivals, questions and budgets, one after the other, in an order of its own in
each repetition. Ways are compared by the difference of their values on these same requests, with Student's interval over
repetitions: requests of one repetition share a queue. A time to first token runs by the client's clock from when the request
was to be sent to the first token that is read. Budgets are 0.5, 1, 2 and 4 times T0, the whole model's median alone, or none,
with equal chance. No two requests have the same picture, whichever server they go to: prefixes and encodings that an engine
keeps serve none of them. Value is accuracy where the budget was kept, 0 where it was missed or the request refused. Ways:

- `paceline`: `paceline vllm serve` with budgets (edf, a table and a step-time model measured on this engine, 20 T0 for requests
  without a budget; the price of time is the default's, tuned for nothing here); `dear`: the same at twice that price;
- `whole`: vLLM as it is; `capped`: the same with --max-num-queued-reqs; `low`: the smallest configuration for all, by the
  clients' knobs on a Paceline server of its own; `medium`: on the same server, the configuration that is best for all loads
  together by a simulation of them, with requests drawn for it: knowing the loads.

The first third of each run, while queues fill and the price of time rises, is counted apart from the rest.

`digits` is the embedded model, whose answers are judged. `wide` is a random model whose kernels dominate a step (`wide_vlm.py`):
its accuracies are those of the embedded model's configurations, assumed, and no answer is judged: a value there is that of the
configuration that served.
"""

import argparse
import asyncio
import base64
import io
import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from measured_engine import DEFAULT_BUDGET_T0, NEW_TOKENS, drawn, tuning_of
from PIL import Image
from provenance import provenance
from tokenizers import Tokenizer
from wide_vlm import write_wide_vlm

from paceline.control.table import LookupTable
from paceline.control.table_entry import TableEntry, TableMetadata
from paceline.datasets.digits import digit_questions
from paceline.datasets.question import VisualQuestion
from paceline.datasets.scoring import score
from paceline.errors import StepTimeError
from paceline.fit.step_time import fit_step_time
from paceline.models.loading import EMBEDDED, load_request_plans
from paceline.records import KnobConfig
from paceline.schedule.step_log import read_step_log
from paceline.serving.desk import CHAT_PATH
from paceline.serving.pricing import PER_ARRIVAL
from paceline.slo import Proportion
from paceline.tune.price import best_for_all
from paceline.vllm_plugin.command import serve_command

RESULTS = Path(__file__).parent / "results" / "vllm_under_load.json"
POPULATION = Path(__file__).parent / "results" / "certified_population.npz"
SEED, START_SECONDS, TIMEOUT_SECONDS = 3407, 900, 300
LOADS, BUDGETS_T0 = (0.8, 1.2, 1.8), (0.5, 1.0, 2.0, 4.0, None)
WAYS = ("paceline", "dear", "whole", "capped", "low", "medium")
WITH_BUDGETS = ("paceline", "dear")
CAP = 8
TURNS = 5
FIRST_SHARE = 1 / 3  # of a run, counted apart
ALPHA = 0.1
STRETCHES, REQUESTS_A_STRETCH = 12, 200  # of each load, that the best configuration for all is found on
CAPACITY_CLIENTS = 16
FLAGS = ("--enforce-eager", "--block-size", "32", "--max-num-seqs", "16", "--mm-processor-cache-gb", "0")
LIMITS = ("--dtype", "float32", "--max-model-len", "512", "--limit-mm-per-prompt", '{"image": 1, "video": 0}')
TOKENS_A_STEP = {"digits": 256, "wide": 256}
REQUESTS_A_CLIENT = {"digits": 20, "wide": 4}  # while steps are measured: the embedded model's are short and vary
TOP_KS = {"digits": (1, 4, 8), "wide": (2, 4, 8)}
BLOCKS, TIERS = (8, 12, 16), ("low", "medium", "high")
SIDES = {"digits": None, "wide": (280, 520)}  # pixels that pictures are scaled to
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: when it is to be sent, which question, its budget in ms, and its body."""

    at_seconds: float
    question: int
    budget_ms: float | None
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of a request: its status, ms to the first token by the client's clock, its text and Paceline's report."""

    status: int
    ttft_ms: float | None
    text: str
    report: Row | None


class Model:
    """One model of the benchmark: its folder, questions, pictures and configurations."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.place = name
        if name == "wide":
            self.place = str(folder / "wide_vlm")
            if not Path(self.place, "config.json").exists():
                write_wide_vlm(Path(self.place))
        self.plans = load_request_plans(self.place)
        self.configs = [
            KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks)
            for tier, top_k, blocks in product(TIERS, TOP_KS[name], BLOCKS)
        ]
        sets = ("digits_read", "digits_count", "digits_exist")
        self.questions = [each for one in sets for each in digit_questions(one, split="test", count=60, seed=SEED)]
        random.Random(SEED).shuffle(self.questions)
        self.pictures = [self._picture(question, number) for number, question in enumerate(self.questions)]
        self._bodies = 0

    def _picture(self, question: VisualQuestion, number: int) -> Image.Image:
        picture, sides = question.picture.convert("RGB"), SIDES[self.name]
        if sides is None:
            return picture
        own = random.Random(number)
        return picture.resize((own.randint(*sides), own.randint(*sides)))

    def _url(self, number: int) -> str:
        """Return a picture that no other request has: the colour of one corner counts them."""
        self._bodies += 1
        picture = self.pictures[number].copy()
        picture.putpixel((0, 0), tuple(self._bodies.to_bytes(3)))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    def body(self, number: int, *, budget_ms: float | None = None, config: KnobConfig | None = None) -> bytes:
        """Return a streamed chat about one question, with a budget or with knobs."""
        number %= len(self.questions)
        url, size = self._url(number), self.pictures[number].size
        asked: Row = {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": self.questions[number].prompt},
                    ],
                }
            ],
            "temperature": 0,
            "max_tokens": NEW_TOKENS,
            "stream": True,
            "ignore_eos": self.name != "digits",  # answers that mean nothing are all of one length
        }
        if budget_ms is not None:
            asked["latency_budget_ms"] = budget_ms
        if config is not None:
            asked["vllm_xargs"] = {"paceline_top_k": config.top_k, "paceline_active_blocks": config.num_active_blocks}
            asked["mm_processor_kwargs"] = dict(self.plans.plans([size])[config.tier].arguments)
        return json.dumps(asked).encode()

    def worth(self, number: int, answered: Answered, config: KnobConfig) -> float:
        """Return whether an answer is right; of a model whose answers mean nothing the accuracy of what served it."""
        if self.name == "digits":
            return float(score(self.questions[number % len(self.questions)], answered.text) or 0.0)
        if answered.report is not None:
            config = KnobConfig(**answered.report["config"])
        return self.accuracies[config.key]

    @cached_property
    def text_tokens(self) -> int:
        """The median tokens of a question's text, without the template around it."""
        tokenizer = Tokenizer.from_file(str(Path(self._checkpoint, "tokenizer.json")))
        return round(statistics.median(len(tokenizer.encode(each.prompt).ids) for each in self.questions))

    @property
    def _checkpoint(self) -> Path:
        return Path(self.place) if self.name == "wide" else Path(EMBEDDED["digits"])

    @cached_property
    def accuracies(self) -> dict[str, float]:
        """The embedded model's accuracies by configuration, its numbers of experts named as this model's."""
        population = np.load(POPULATION, allow_pickle=False)
        keys = json.loads(str(population["note"]))["configurations"]
        means = dict(zip(keys, population["accuracy"].mean(axis=0).tolist(), strict=True))
        ks = dict(zip(TOP_KS[self.name], TOP_KS["digits"], strict=True))
        own = ((config, f"{config.tier}_{ks[config.top_k or 0]}_{config.num_active_blocks}") for config in self.configs)
        return {config.key: means[key] for config, key in own}

    def table(self, times_ms: Mapping[KnobConfig, float]) -> LookupTable:
        """Return the table of measured times and of the embedded model's accuracies, smallest configuration first."""
        ranking = json.loads(self._checkpoint.joinpath("paceline.json").read_text())["block_ranking"]
        return LookupTable(
            entries=[
                TableEntry(
                    config=config,
                    accuracy=self.accuracies[config.key],
                    latency_ms=times_ms[config],
                    num_samples=TURNS,
                    accuracy_std=0.0,
                    latency_std_ms=0.0,
                )
                for config in self.configs
            ],
            metadata=TableMetadata(
                aggregation_method="mean",
                tolerance=0.05,
                latency_kind="ttft",
                datasets=("digits",),
                num_profiling_results=TURNS * len(self.configs),
                provenance=({"model": self.name, "block_ranking": ranking},),
            ),
        )

    def ours(self, table: Path, section: Mapping[str, Any]) -> list[str]:
        """Return the command of Paceline's server."""
        config = json.dumps({"paceline": dict(section)})
        return serve_command(
            self.place,
            controller=table,
            alpha=ALPHA,
            arguments=["--served-model-name", "m", *LIMITS, *FLAGS, *self.step(), "--additional-config", config],
        )

    def stock(self, table: Path, *flags: str) -> list[str]:
        """Return the command of vLLM as it is, for the same checkpoint."""
        ours = self.ours(table, {})
        return [*ours[: ours.index("serve") + 2], "--served-model-name", "m", *LIMITS, *FLAGS, *self.step(), *flags]

    def step(self) -> tuple[str, str]:
        """Return the flag of a step's tokens."""
        return ("--max-num-batched-tokens", str(TOKENS_A_STEP[self.name]))


@contextmanager
def served(commands: Mapping[str, Sequence[str]], logs: Path) -> Generator[dict[str, int]]:
    """Run servers until the block ends, started at once; yields their ports by name."""
    ports: dict[str, int] = {}
    with ExitStack() as stack:
        servers: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        for name, words in commands.items():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports[name] = free.getsockname()[1]
            log = logs / f"{name}.txt"
            output = stack.enter_context(log.open("w"))
            command = [*words, "--host", "127.0.0.1", "--port", str(ports[name])]
            server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            stack.callback(_end, server)
            servers[name] = (server, log)
        for name, (server, log) in servers.items():
            asyncio.run(_healthy(server, ports[name], log))
        yield ports


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
    server.wait(60)


async def _healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(log.read_text()[-4000:])
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            writer.close()
            if b" 200 " in line:
                return
        except OSError:
            pass
        await asyncio.sleep(0.5)
    raise SystemExit("the server did not start: " + log.read_text()[-4000:])


async def ask(port: int, body: bytes, *, since: float | None = None) -> Answered:
    """Send a request and read its stream; its time counts from `since`, by default from here."""
    since = time.perf_counter() if since is None else since
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    status = int((await reader.readline()).split()[1])
    ttft_ms, text, report = None, "", None
    try:
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            document = json.loads(line.removeprefix(b"data: "))
            report = document.get("paceline", report)
            for choice in document.get("choices", []):
                delta = choice.get("delta", {})
                if "role" not in delta and ttft_ms is None:  # a token, though it may be no whole letter yet
                    ttft_ms = 1e3 * (time.perf_counter() - since)
                text += delta.get("content") or ""
    finally:
        writer.close()
    return Answered(status=status, ttft_ms=ttft_ms, text=text, report=report)


def ttft_ms_of(answered: Answered) -> float:
    """Return the time to first token of a request that must have been served."""
    if answered.ttft_ms is None:
        raise SystemExit(
            f"a request of an idle server came to nothing (status {answered.status}): see its log in FOLDER"
        )
    return answered.ttft_ms


async def open_loop(port: int, requests: Sequence[Asked]) -> list[Answered]:
    """Send every request when it is to be sent, whatever became of those before it."""
    start = time.perf_counter() + 0.05

    async def one(each: Asked) -> Answered:
        await asyncio.sleep(max(0.0, start + each.at_seconds - time.perf_counter()))
        try:
            asked = ask(port, each.body, since=start + each.at_seconds)
            return await asyncio.wait_for(asked, TIMEOUT_SECONDS)
        except (OSError, TimeoutError):
            return Answered(status=0, ttft_ms=None, text="", report=None)

    return list(await asyncio.gather(*(one(each) for each in requests)))


async def closed_loop(port: int, bodies: Sequence[bytes], clients: int) -> float:
    """Return the requests a second that so many clients get answered, each sending its next once it has its last."""
    left = list(bodies)
    begun = time.perf_counter()

    async def client() -> None:
        while left:
            ttft_ms_of(await ask(port, left.pop()))

    await asyncio.gather(*(client() for _ in range(clients)))
    return len(bodies) / (time.perf_counter() - begun)


def prepared(model: Model) -> tuple[Path, Row | None]:
    """Return the table of this engine's own times alone, and its step-time model; measured once, and kept."""
    table, steps = model.folder / f"table-{model.name}.json", model.folder / f"step_time-{model.name}.json"
    if not table.exists():
        made_up = model.folder / f"made_up-{model.name}.json"
        made_up.write_text(json.dumps(model.table(dict.fromkeys(model.configs, 100.0)).document()))
        step_log = model.folder / f"steps-{model.name}.jsonl"
        words = model.ours(made_up, {"client_knobs": True, "step_log": str(step_log), "policy": "fcfs"})
        with served({"prepare": words}, model.folder) as ports:
            times = asyncio.run(_alone(model, ports["prepare"]))
            for clients in (
                1,
                2,
                4,
                8,
                12,
            ):  # steps of as many decodes as they come, so that their costs can be told apart
                bodies = [model.body(number) for number in range(REQUESTS_A_CLIENT[model.name] * clients)]
                asyncio.run(closed_loop(ports["prepare"], bodies, clients))
        table.write_text(json.dumps(model.table(times).document()))
        try:
            document = fit_step_time(read_step_log(step_log)).document()
            steps.write_text(json.dumps({key: document[key] for key in STEP_KEYS}))
        except StepTimeError as error:
            print(f"no step-time model: {error}")
    return table, json.loads(steps.read_text()) if steps.exists() else None


STEP_KEYS = (
    "base_ms",
    "per_decode_token_ms",
    "per_decode_context_token_ms",
    "per_prefill_token_ms",
    "per_prefill_attention_token_ms",
)


async def _alone(model: Model, port: int) -> dict[KnobConfig, float]:
    for number in range(6):
        await ask(port, model.body(number))
    found: dict[KnobConfig, list[float]] = {config: [] for config in model.configs}
    for turn in range(TURNS):  # every configuration gets the same questions, and pictures of the same sizes
        for config in random.Random(turn).sample(model.configs, len(model.configs)):
            found[config].append(ttft_ms_of(await ask(port, model.body(31 * turn, config=config))))
    return {config: statistics.median(times) for config, times in found.items()}


def arrivals(
    model: Model, *, rate: float, count: int, t0_ms: float, seed: int
) -> list[tuple[float, int, float | None]]:
    """Return when so many requests are to be sent, which questions, and their budgets in ms."""
    own = random.Random(seed)
    found: list[tuple[float, int, float | None]] = []
    now = own.expovariate(rate)
    for _ in range(count):
        budget = own.choice(BUDGETS_T0)
        found.append((now, own.randrange(len(model.questions)), None if budget is None else budget * t0_ms))
        now += own.expovariate(rate)
    return found


def fixed(model: Model, way: str, own: Mapping[str, Any]) -> KnobConfig:
    """Return the configuration of a way that chooses none: the smallest, the simulation's best for all, or the whole model."""
    if way == "medium":
        return next(config for config in model.configs if config.key == own["medium"])
    return min(model.configs, key=_size) if way == "low" else max(model.configs, key=_size)


def _size(config: KnobConfig) -> tuple[int, int, int]:
    return config.size


def requests_of(
    model: Model, way: str, drawn: Sequence[tuple[float, int, float | None]], own: Mapping[str, Any]
) -> list[Asked]:
    """Return the same requests as one way of serving gets them."""
    config = fixed(model, way, own) if way in ("low", "medium") else None
    return [
        Asked(
            at_seconds=at,
            question=number,
            budget_ms=budget,
            body=model.body(number, budget_ms=budget if way in WITH_BUDGETS else None, config=config),
        )
        for at, number, budget in drawn
    ]


def figures(model: Model, whole: KnobConfig, asked: Sequence[Asked], answered: Sequence[Answered]) -> Row:
    """Return counts and times of one run, and the value of each request with a budget, in their order."""
    limited = [(one, other) for one, other in zip(asked, answered, strict=True) if one.budget_ms is not None]
    kept = [
        other.ttft_ms is not None and other.ttft_ms <= one.budget_ms  # pyright: ignore[reportOperatorIssue]
        for one, other in limited
    ]
    worth = [
        model.worth(one.question, other, whole) if in_time else 0.0
        for (one, other), in_time in zip(limited, kept, strict=True)
    ]
    reports = [other.report for _, other in limited if other.report]
    promised = [
        in_time for (_, other), in_time in zip(limited, kept, strict=True) if other.report and other.report["promised"]
    ]
    free = [other.ttft_ms for one, other in zip(asked, answered, strict=True) if one.budget_ms is None]
    return {
        "requests": len(asked),
        "limited": len(limited),
        "kept": sum(kept),
        "values": [round(each, 4) for each in worth],
        "promised": len(promised),
        "promises_kept": sum(promised),
        "refused": sum(each.status != 200 for each in answered),
        "degraded": sum(bool(each["degraded"]) for each in reports),
        "ttft_ms": [round(each.ttft_ms, 1) for each in answered if each.ttft_ms is not None],
        "longest_without_budget_ms": max((each for each in free if each is not None), default=None),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run: loads and ways, requests a run, and when no further run begins, by the monotonic clock."""

    loads: Sequence[float]
    ways: Sequence[str]
    requests: int
    until: float
    document: Row
    results: Path

    def write(self) -> None:
        """Write what is there."""
        self.results.write_text(json.dumps(self.document) + "\n")


def repeat(model: Model, ports: Mapping[str, int], own: Row, found: Row, plan: Plan) -> None:
    """Add to a repetition what it lacks: the whole model's capacity, then every way at every load, in a random order."""
    number = found["repetition"]
    if "capacity_per_second" not in found:
        bodies = [model.body(each) for each in range(3 * CAPACITY_CLIENTS)]
        found["capacity_per_second"] = asyncio.run(closed_loop(ports["whole"], bodies, CAPACITY_CLIENTS))
        found["load_average"] = os.getloadavg()[0]
    there = {(run["load"], run["way"]) for run in found["runs"]}
    order = [(load, way) for load in plan.loads for way in plan.ways]
    random.Random(number).shuffle(order)
    for load, way in (each for each in order if each not in there):
        if time.monotonic() > plan.until:
            return
        due = arrivals(
            model,
            rate=load * found["capacity_per_second"],
            count=plan.requests,
            t0_ms=own["t0_ms"],
            seed=1000 * number + int(100 * load),
        )
        asked = requests_of(model, way, due, own)
        answered = asyncio.run(open_loop(ports[way], asked))
        first = round(FIRST_SHARE * len(asked))
        config = fixed(model, way, own)
        row = {"load": load, "way": way} | figures(model, config, asked[first:], answered[first:])
        row["first"] = figures(model, config, asked[:first], answered[:first])
        found["runs"].append(row)
        plan.write()
        print(
            model.name, number, load, way, f"{row['kept']} of {row['limited']}", f"refused {row['refused']}", flush=True
        )


def warmed(model: Model, ports: Mapping[str, int], own: Row, *, alone: int, beside: int) -> None:
    """Let every server answer some requests, and Paceline's enough for its bounds."""
    t0_ms: float = own["t0_ms"]
    for name in ports.keys() - {*WITH_BUDGETS}:
        asyncio.run(closed_loop(ports[name], [model.body(each) for each in range(8)], 4))
    due = arrivals(model, rate=own["simulated_at_per_second"], count=beside, t0_ms=t0_ms, seed=1)
    for name in ports.keys() & {*WITH_BUDGETS}:
        asyncio.run(closed_loop(ports[name], [model.body(each, budget_ms=4 * t0_ms) for each in range(alone)], 1))
        asyncio.run(open_loop(ports[name], requests_of(model, name, due, own)))


def unloaded(model: Model, table: Path, own: Row) -> None:
    """Add T0 and the rate at capacity of vLLM as it is."""
    if "simulated_at_per_second" in own:
        return
    with served({"whole": model.stock(table)}, model.folder) as ports:
        times = [ttft_ms_of(asyncio.run(ask(ports["whole"], model.body(each)))) for each in range(25)][5:]
        own["t0_ms"] = statistics.median(times)
        bodies = [model.body(each) for each in range(4 * CAPACITY_CLIENTS)]
        own["simulated_at_per_second"] = asyncio.run(closed_loop(ports["whole"], bodies, CAPACITY_CLIENTS))


def measured_engine(model: Model, table: Path, step_time: Row) -> Row:
    """Return what the simulator needs of this engine, at the mean size of the pictures."""
    sizes = [picture.size for picture in model.pictures]
    mean_size = round(statistics.mean(w for w, _ in sizes)), round(statistics.mean(h for _, h in sizes))
    plans = model.plans.plans([mean_size])
    cells = [
        {
            "config": asdict(entry.config),
            "accuracy": entry.accuracy,
            "latency_ms": entry.latency_ms,
            "image_tokens": plans[entry.config.tier].tokens,
        }
        for entry in LookupTable.load(table).entries
    ]
    return {
        "step_time": step_time,
        "chunk_size": TOKENS_A_STEP[model.name],
        "text_tokens": model.text_tokens,
        "table": cells,
    }


def for_all(own: Row, loads: Sequence[float]) -> Row:
    """Return the best configuration for all, simulated at these loads with requests drawn for it, and its values."""
    tuning = tuning_of(own, alpha=ALPHA)
    stretches = [
        [drawn(own, load, requests=REQUESTS_A_STRETCH, seed=SEED + number) for number in range(STRETCHES)]
        for load in loads
    ]
    best, _ = best_for_all(tuning, [load for part in stretches for load in part])
    values = [statistics.mean(tuning.fixed(load, best).value for load in part) for part in stretches]
    return {"medium": best.config.key, "medium_simulated": dict(zip(map(str, loads), values, strict=True))}


def measure(model: Model, plan: Plan, *, repetitions: int, alone: int, beside: int) -> None:
    """Add the runs of a model that the results lack."""
    table, step_time = prepared(model)
    own: Row = plan.document["models"].setdefault(model.name, {"repetitions": []})
    numbers = {each["repetition"] for each in own["repetitions"]}
    own["repetitions"] += [{"repetition": n, "runs": []} for n in range(repetitions) if n not in numbers]
    wanted = len(plan.loads) * len(plan.ways)
    todo = [each for each in own["repetitions"] if each["repetition"] < repetitions and len(each["runs"]) < wanted]
    if not todo:
        return
    own |= provenance("vllm_under_load.py")
    unloaded(model, table, own)
    if "medium" not in own:
        if step_time is None:
            raise SystemExit(f"no step-time model of {model.name}: measure on an idle machine, with another FOLDER")
        own |= measured_engine(model, table, step_time)
        own |= for_all(own, LOADS)
        print(f"{model.name}: for all {own['medium']}", flush=True)
        plan.write()
    section: Row = {"client_knobs": True, "policy": "edf", "step_time": step_time}
    largest_ms = max(entry.latency_ms for entry in LookupTable.load(table).entries)
    own |= {"requests_a_run": plan.requests, "first_share": FIRST_SHARE}
    budgets: Row = {**section, "default_budget_ms": DEFAULT_BUDGET_T0 * largest_ms}
    commands = {
        "paceline": model.ours(table, budgets),
        "dear": model.ours(table, {**budgets, "price_per_arrival": 2 * PER_ARRIVAL}),
        "low": model.ours(table, section),
        "whole": model.stock(table),
        "capped": model.stock(table, "--max-num-queued-reqs", str(CAP)),
    }
    ways = {"low" if way == "medium" else way for way in plan.ways} | {"paceline", "whole"}
    with served({way: words for way, words in commands.items() if way in ways}, model.folder) as ports:
        warmed(model, ports, own, alone=alone, beside=beside)
        if "low" in ports:
            ports["medium"] = ports["low"]
        for found in todo:
            repeat(model, ports, own, found, plan)


def shared(hits: int, count: int) -> tuple[float, float, float] | None:
    """Return a share with its exact interval; None of nothing."""
    if not count:
        return None
    interval = Proportion(successes=hits, count=count).interval()
    return hits / count, interval.low, interval.high


def summary(own: Row, load: float, way: str) -> Row:
    """Return the pooled figures of a way at a load, and the value and the attainment of the first third of each run."""
    runs = [run for each in own["repetitions"] for run in each["runs"] if (run["load"], run["way"]) == (load, way)]
    begun = [run["first"] for run in runs]
    counts = ("requests", "limited", "kept", "promised", "promises_kept", "refused")
    total = {key: sum(run[key] for run in runs) for key in counts}
    value = sum(sum(run["values"]) for run in runs)
    times = [ms for run in runs for ms in run["ttft_ms"]]
    return {
        "attainment": shared(total["kept"], total["limited"]),
        "accuracy": value / total["kept"] if total["kept"] else None,
        "value": value / total["limited"],
        "first_value": sum(sum(run["values"]) for run in begun) / sum(run["limited"] for run in begun),
        "promised": total["promised"] / total["limited"],
        "promises_kept": shared(total["promises_kept"], total["promised"]),
        "refused": total["refused"] / total["requests"],
        "ttft_t0": [float(np.percentile(times, p)) / own["t0_ms"] for p in (50, 95, 99)] if times else None,
        "requests": total["requests"],
    }


def against(own: Row, load: float, one: str, other: str) -> tuple[float, float, int] | None:
    """Return by how much one way's value exceeds another's on the same requests, Student's half width, and repetitions."""
    means: list[float] = []
    for each in own["repetitions"]:
        values = {run["way"]: run["values"] for run in each["runs"] if run["load"] == load}
        if one in values and other in values:
            means.append(statistics.mean(a - b for a, b in zip(values[one], values[other], strict=True)))
    if len(means) < 2:
        return None
    half = float(scipy.stats.t.ppf(0.975, len(means) - 1)) * statistics.stdev(means) / math.sqrt(len(means))
    return statistics.mean(means), half, len(means)


def show(document: Row) -> None:
    """Print a table a model, and the differences that are paired."""
    for name, own in document["models"].items():
        begun = [each for each in own["repetitions"] if each["runs"]]
        if not begun:
            continue
        rates, loads = [each["capacity_per_second"] for each in begun], [each["load_average"] for each in begun]
        print(
            f"\n{name}: T0 {own['t0_ms']:.0f} ms, {min(rates):.1f} to {max(rates):.1f} requests/s at capacity, {len(rates)} "
            f"repetitions of {own['requests_a_run']} requests a run, load average {min(loads):.1f} to {max(loads):.1f}\n"
        )
        accuracy_of = "accuracy in budget" + ("" if name == "digits" else ", assumed")
        print(
            f"| load | way | requests | attainment (95 %) | {accuracy_of} | value (first third) | promised; kept | refused | "
            "TTFT P50 / P95 / P99, × T0 |"
        )
        print("|---" * 9 + "|")
        there = {(run["load"], run["way"]) for each in begun for run in each["runs"]}
        for load, way in ((load, way) for load in LOADS for way in WAYS if (load, way) in there):
            print("| " + " | ".join(_cells(load, way, summary(own, load, way))) + " |")
        for load, other in ((load, way) for load in LOADS for way in WAYS[1:]):
            if found := against(own, load, "paceline", other):
                less, half, count = found
                print(
                    f"{load:.0%}: value of paceline less that of {other}: {less:+.3f} ± {half:.3f} ({count} repetitions)"
                )


def _cells(load: float, way: str, each: Row) -> list[str]:
    share, low, high = each["attainment"]
    promises = "–"
    if each["promises_kept"]:
        promises = "{:.0%}; {:.3f} ({:.3f} to {:.3f})".format(each["promised"], *each["promises_kept"])
    return [
        f"{load:.0%}",
        way,
        str(each["requests"]),
        f"{share:.3f} ({low:.3f} to {high:.3f})",
        "–" if each["accuracy"] is None else f"{each['accuracy']:.2f}",
        f"{each['value']:.3f} ({each['first_value']:.3f})",
        promises,
        f"{each['refused']:.0%}",
        "–" if each["ttft_t0"] is None else " / ".join(f"{value:.1f}" for value in each["ttft_t0"]),
    ]


def main() -> None:
    """Measure what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", choices=("digits", "wide"), default=["digits", "wide"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100, help="of each run")
    parser.add_argument("--loads", type=float, nargs="+", choices=LOADS, default=[*LOADS])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no run begins")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gone on with: runs that are there stay")
    parser.add_argument(
        "--alone", type=int, default=60, help="requests that bounds of an idle engine are calibrated on"
    )
    parser.add_argument("--beside", type=int, default=150, help="requests that bounds beside others are calibrated on")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results: Path = arguments.results
    document: Row = json.loads(results.read_text()) if results.is_file() else {"models": {}}
    document["models"] = {name: own for name, own in document["models"].items() if "simulated_at_per_second" in own}
    document |= {"alpha": ALPHA}
    plan = Plan(
        loads=arguments.loads,
        ways=arguments.ways,
        requests=arguments.requests,
        until=time.monotonic() + 60 * arguments.minutes,
        document=document,
        results=results,
    )
    for name in arguments.models:
        measure(
            Model(name, arguments.folder.resolve()),
            plan,
            repetitions=arguments.repetitions,
            alone=arguments.alone,
            beside=arguments.beside,
        )
    show(document)


if __name__ == "__main__":
    main()
