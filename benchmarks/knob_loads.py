"""Random requests with random knobs on one real engine, and each of them alone: the answers are the same, nothing is left.

    python benchmarks/knob_loads.py [--requests 1000] [--seed 0] [--minutes 60]

Needs vLLM. Prompts share beginnings, knobs are drawn (a tenth of them are lies: too large, no numbers, infinite), priorities and
arrivals too; a seventh of the requests is given up on the way; key-value memory holds a few requests, prefixes are cached,
prompts are computed in chunks. One engine serves them in rounds under each of Paceline's orders and vLLM's own, with a tiny
mixture of experts of random weights. Held: tokens and log-probabilities are those of the same request alone, blocks are free
at rest, and no dictionary, list or set of scheduler, engine and worker holds a request or grows from round to round.
Writes benchmarks/results/knob_loads.json.

With `--minutes` the engine is kept under open-loop load for that long instead (`knob_endurance.py`).
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, cast

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from provenance import provenance
from random_loads import POLICIES, leaks
from scheduler_swap import with_scheduler
from tiny_moe import write_tiny_moe

from paceline.vllm_plugin import scheduler, stock
from paceline.vllm_plugin.relied_on import EngineArgs, LLMEngine, SamplingParams, TokensPrompt
from paceline.vllm_plugin.request_knobs import ACTIVE_BLOCKS, TOP_K

RESULTS = Path(__file__).parent / "results" / "knob_loads.json"
LAYERS, TOP_KS, RANKING = 6, (1, 2, 3, 4), (4, 2, 3, 1)
BLOCK_TOKENS, STEP_TOKENS, RUNNING = 32, 96, 12
SMALL_CACHE, LARGE_CACHE = 26, 200  # blocks
# float32 sums depend on the composition of a batch; a wrong expert or block costs 1e-2 and more
TOLERANCE = 1e-4
ORDERS = (*POLICIES, "stock")
MARK = "knob-load"
LIES: tuple[dict[str, object], ...] = (
    {TOP_K: 2**64 - 1, ACTIVE_BLOCKS: -(2**63)},
    {TOP_K: float("nan"), ACTIVE_BLOCKS: float("inf")},
    {TOP_K: "4; drop", ACTIVE_BLOCKS: None},
    {TOP_K: True, ACTIVE_BLOCKS: [1, 2]},
    {TOP_K: -1},
    {TOP_K: 1e308, ACTIVE_BLOCKS: 0.5},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobRequest:
    """A request: handed over before step `step`, given up before step `abort_step`."""

    name: str
    step: int
    prompt: tuple[int, ...]
    output_tokens: int
    asked: Mapping[str, object]
    priority: int
    abort_step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Tokens with their log-probabilities, and how far the second most likely token was behind each."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    gaps: tuple[float, ...]
    finished: bool
    cached: int = 0


@dataclass(slots=True, kw_only=True)
class Found:
    """What a load led to: violations, counts, and container sizes by path after each round."""

    violations: list[str] = field(default_factory=list[str])
    totals: Counter[str] = field(default_factory=Counter[str])
    sizes: list[dict[str, int]] = field(default_factory=list[dict[str, int]])


def random_requests(seed: int, round_number: int, count: int) -> list[KnobRequest]:
    """Return the requests of a round; the same numbers are the same requests."""
    random = Random(f"knobs {seed} {round_number}")
    beginnings = [random.choices(range(512), k=3 * BLOCK_TOKENS) for _ in range(3)]
    found: list[KnobRequest] = []
    for number in range(count):
        own = random.choices(range(512), k=random.choice([2, 17, 60, 150]))
        shared = random.choice([[], random.choice(beginnings)[: random.choice([BLOCK_TOKENS, 3 * BLOCK_TOKENS])]])
        step = random.randint(0, 2 * count)
        found.append(
            KnobRequest(
                name=f"{MARK}-{round_number}-{number}",
                step=step,
                prompt=tuple(shared + own),
                output_tokens=random.choice([1, 6, 25]),
                asked=_asked(random),
                priority=random.choice([0, 0, 0, -1, 3]),
                abort_step=step + random.randint(0, 25) if random.random() < 1 / 7 else None,
            )
        )
    return found


def _asked(random: Random) -> Mapping[str, object]:
    kind = random.random()
    if kind < 0.1:
        return random.choice(LIES)
    honest: dict[str, object] = {TOP_K: random.choice(TOP_KS), ACTIVE_BLOCKS: random.randint(2, LAYERS)}
    return {} if kind < 0.3 else honest


def knob_engine(folder: Path, **changed: Any) -> Any:
    """Return an in-process engine of a tiny mixture of experts with knobs."""
    model = str(write_tiny_moe(folder, layers=LAYERS, top_k=TOP_KS[-1]))
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_batched_tokens": STEP_TOKENS,
        "max_num_seqs": RUNNING,
        "block_size": BLOCK_TOKENS,
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "num_gpu_blocks_override": LARGE_CACHE,
        "worker_cls": "paceline.vllm_plugin.worker",
        "scheduler_cls": "paceline.vllm_plugin.scheduler",
        "additional_config": {"paceline": {"block_ranking": list(RANKING)}},
    }
    return LLMEngine.from_engine_args(EngineArgs(**arguments | changed))


def check(engine: Any, *, seed: int, count: int) -> Found:
    """Serve `count` requests in rounds, one an order, and each request alone; return what was found."""
    found = Found()
    share = -(-count // len(ORDERS))
    for round_number, order in enumerate(ORDERS):
        requests = random_requests(seed, round_number, min(share, count - round_number * share))
        built = fresh_scheduler(engine, order, SMALL_CACHE, found.totals)
        together = serve(engine, requests)
        found.violations += [f"{order}: holds {name}" for name in leaks(built)]
        # with another request a worker is told of the last that ended
        serve(engine, [closing_request()])
        roots = roots_of(engine)
        found.violations += [f"{order}: {path} holds a request that ended" for path in holding(roots, MARK)]
        found.sizes.append(container_sizes(roots))
        fresh_scheduler(engine, "stock", LARGE_CACHE, Counter())
        for request in requests:
            alone = serve(engine, [request], by_itself=True)[request.name]
            found.violations += compared(request, together[request.name], alone, order, found.totals)
    found.violations += grown(found.sizes)
    return found


def fresh_scheduler(engine: Any, order: str, blocks: int, totals: Counter[str]) -> Any:
    """Put a new scheduler of that order into the engine and return it; its preemptions are counted."""
    settings = {"paceline": {"block_ranking": list(RANKING)} | ({} if order == "stock" else {"policy": order})}
    built = with_scheduler(engine, stock if order == "stock" else scheduler, settings, blocks=blocks)
    preempt = built._preempt_request

    def counted(*args: Any, **kwargs: Any) -> Any:
        totals["preemptions"] += 1
        return preempt(*args, **kwargs)

    built._preempt_request = counted
    return built


def closing_request() -> KnobRequest:
    """Return a small request that nobody looks at."""
    return KnobRequest(name="closing", step=0, prompt=(1, 2), output_tokens=2, asked={}, priority=0, abort_step=None)


def serve(engine: Any, requests: Sequence[KnobRequest], *, by_itself: bool = False) -> dict[str, Answer]:
    """Serve requests as they arrive; `by_itself` neither gives up nor reads cached prefixes. Answers by name."""
    coming = deque(sorted(requests, key=lambda request: request.step))
    answers = {request.name: Answer(tokens=(), logprobs=(), gaps=(), finished=False) for request in requests}
    step = coming[0].step if by_itself else 0
    while coming or engine.has_unfinished_requests():
        while coming and coming[0].step <= step:
            hand_over(engine, coming.popleft(), by_itself)
        given_up = [each.name for each in requests if each.abort_step == step and not by_itself]
        engine.abort_request(given_up)
        for output in engine.step():
            answers[output.request_id] = answer_of(output)
        step += 1
    return answers


def hand_over(engine: Any, request: KnobRequest, by_itself: bool) -> None:
    """Give a request to the engine; `by_itself` it reads no cached prefix."""
    params = SamplingParams(
        temperature=0.0,
        max_tokens=request.output_tokens,
        ignore_eos=True,
        detokenize=False,
        logprobs=2,
        extra_args=dict(request.asked),
        skip_reading_prefix_cache=by_itself,
    )
    tokens = TokensPrompt(prompt_token_ids=list(request.prompt))
    engine.add_request(request.name, tokens, params, arrival_time=float(request.step), priority=request.priority)


def answer_of(output: Any) -> Answer:
    """Return what an output of the engine says so far."""
    made = output.outputs[0]
    ranked = [sorted((entry.logprob for entry in step.values()), reverse=True) for step in made.logprobs]
    chosen = [step[token].logprob for token, step in zip(made.token_ids, made.logprobs, strict=True)]
    return Answer(
        tokens=tuple(made.token_ids),
        logprobs=tuple(chosen),
        gaps=tuple(two[0] - two[1] for two in ranked),
        finished=output.finished,
        cached=output.num_cached_tokens or 0,
    )


def compared(request: KnobRequest, together: Answer, alone: Answer, order: str, totals: Counter[str]) -> list[str]:
    """Return how an answer differs from that of the same request alone, beyond tokens that are as good as equally likely."""
    totals["requests"] += 1
    totals["tokens"] += len(together.tokens)
    totals["cached prompt tokens"] += together.cached
    totals["given up"] += request.abort_step is not None
    if request.abort_step is None and len(together.tokens) != request.output_tokens:
        return [f"{order}: {request.name} has {len(together.tokens)} tokens, not {request.output_tokens}"]
    for place, token in enumerate(together.tokens):
        if abs(together.logprobs[place] - alone.logprobs[place]) > TOLERANCE:
            return [f"{order}: {request.name} {dict(request.asked)} is off at token {place}"]
        if token != alone.tokens[place]:
            if alone.gaps[place] > TOLERANCE:
                return [f"{order}: {request.name} {dict(request.asked)} has another token {place}"]
            totals["undecided"] += 1
            break
    return []


def roots_of(engine: Any) -> dict[str, Any]:
    """Return the objects of an engine that a request passes through, by name."""
    worker = engine.model_executor.driver_worker.worker
    core = engine.engine_core.engine_core
    return {
        "scheduler": core.scheduler,
        "core": core,
        "output_processor": engine.output_processor,
        "worker": worker,
        "runner": worker.model_runner,
        "steering": worker.steering,
    }


def containers(roots: Mapping[str, Any], *, depth: int = 5) -> Iterator[tuple[str, Any]]:
    """Return every dictionary, list, set and queue that is reached from the attributes of `roots`, with its path, once."""
    seen: set[int] = set()
    pending: deque[tuple[str, Any, int]] = deque((name, root, 0) for name, root in roots.items())
    while pending:
        path, value, level = pending.popleft()
        if id(value) in seen or level > depth:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping | Sequence | Set | deque) and not isinstance(value, str | bytes):
            yield path, value
        pending.extend((f"{path}{name}", each, level + 1) for name, each in _parts(value))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", each) for key, each in cast("Mapping[Any, Any]", value).items())
    elif isinstance(value, list | tuple | deque):
        entries = islice(cast("Sequence[Any]", value), 64)
        yield from ((f"[{place}]", each) for place, each in enumerate(entries))
    elif type(value).__module__.startswith(("paceline.", "vllm.v1.")):
        names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
        yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


def holding(roots: Mapping[str, Any], mark: str) -> list[str]:
    """Return the paths of containers that hold a text with `mark` in it: the name of a request."""
    found: list[str] = []
    for path, value in containers(roots):
        keys = list(value) if not isinstance(value, Mapping) else [*value, *cast("Mapping[Any, Any]", value).values()]
        found += [path] if any(isinstance(each, str) and mark in each for each in keys) else []
    return found


def container_sizes(roots: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of entries of every container by its path, but of the cache of prefixes, which has its own bound."""
    return {path: len(value) for path, value in containers(roots) if "block_pool" not in path and "[" not in path}


def grown(sizes: Sequence[Mapping[str, int]]) -> list[str]:
    """Return the containers that hold more after the last round than after the first, though nothing runs after either."""
    first, last = sizes[0], sizes[-1]
    return [
        f"{path} grew from {first[path]} to {last[path]}"
        for path in sorted(first.keys() & last)
        if last[path] > first[path]
    ]


def main() -> None:
    """Check the loads, print and write what was found; exits with 1 when something was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=None, help="keep the engine under open-loop load for so long")
    arguments = parser.parse_args()
    if arguments.minutes is not None:
        from knob_endurance import endure  # built upon this module

        sys.exit(bool(endure(arguments.minutes, seed=arguments.seed)))
    with tempfile.TemporaryDirectory() as folder:
        engine = knob_engine(Path(folder))
        found = check(engine, seed=arguments.seed, count=arguments.requests)
        [steps] = engine.collective_rpc("paceline_steps")
        engine.engine_core.shutdown()
    document = {
        **provenance("knob_loads.py"),
        "violations": found.violations,
        "totals": dict(sorted(found.totals.items())),
        "steps": steps,
        "containers": len(found.sizes[-1]),
    }
    print(json.dumps(document, indent=2))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(1 if found.violations else 0)


if __name__ == "__main__":
    main()
