"""What knobs save in vLLM on a model whose kernels dominate, what Paceline's worker costs, and both against transformers.

    .venv-vllm/bin/python benchmarks/vllm_knobs.py [--rounds 10] [--bursts 4] [--pairs 200] [--requests 24] [--questions 8]

Writes benchmarks/results/vllm_knobs.json. A synthetic vision-language mixture of experts (`wide_vlm`: random weights) in one
vLLM engine, on one thread. What is compared takes turns, in an order of its own in every round; ratios are of the same round, as
geometric means with Student's 95 % interval. Seconds are of the processor, which leaves out what other work on the machine took;
the wall's stand beside them.

- Steps: 256 prompt tokens of eight requests, then five steps of their eight decodes, by configuration and by mix.
- Bursts: requests of 16 to 128 tokens handed over at once, answers of six tokens, native, mixed and at each fixed configuration.
- The worker: steps of eight native decodes, one with Paceline's hooks on the model and one without, again and again.
- Transformers: the same questions about pictures, each under its own configuration, one at a time there and at once in vLLM.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from vllm_in_process import ENGINE, prepare_process

prepare_process()

import torch  # noqa: E402
from paired import paired  # noqa: E402
from provenance import provenance  # noqa: E402
from wide_vlm import write_wide_vlm  # noqa: E402

from paceline.measure.clock import HostClock  # noqa: E402
from paceline.measure.hosts import ModelHost  # noqa: E402
from paceline.measure.profiling import ProfilePlan, load_questions  # noqa: E402
from paceline.models.loading import load_model  # noqa: E402
from paceline.records import KnobConfig  # noqa: E402
from paceline.vllm_plugin.measuring import VllmProfile  # noqa: E402
from paceline.vllm_plugin.relied_on import SamplingParams, TokensPrompt  # noqa: E402
from paceline.vllm_plugin.request_knobs import ACTIVE_BLOCKS, TOP_K  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "vllm_knobs.json"
SEED, WORDS = 3407, range(16, 60)  # token ids of letters
NATIVE = (8, 16)
FIXED = {
    "native": NATIVE,
    "k 4": (4, 16),
    "k 2": (2, 16),
    "12 blocks": (8, 12),
    "8 blocks": (8, 8),
    "k 2, 8 blocks": (2, 8),
}
MIXES = {"half k 2": (NATIVE, (2, 16)), "half 8 blocks": (NATIVE, (8, 8)), "all six": tuple(FIXED.values())}
ROWS, ROW_TOKENS, DECODES = 8, 32, 5
Knobs = tuple[int, int]
Seconds = tuple[float, float]  # of the processor, of the wall


def now() -> Seconds:
    """Return the time by both clocks."""
    return time.process_time(), time.perf_counter()


def since(start: Seconds) -> Seconds:
    """Return what passed by both clocks."""
    processor, wall = now()
    return processor - start[0], wall - start[1]


def add(engine: Any, name: str, tokens: Sequence[int], knobs: Knobs, length: int) -> None:
    """Hand over a request of text."""
    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=length,
        ignore_eos=True,
        detokenize=False,
        extra_args={TOP_K: knobs[0], ACTIVE_BLOCKS: knobs[1]},
    )
    engine.add_request(name, TokensPrompt(prompt_token_ids=list(tokens)), parameters)


def timed_steps(engine: Any, knobs: Sequence[Knobs], random: Random) -> dict[str, Seconds]:
    """Return the time of a step of 256 prompt tokens, and of one of eight decodes (mean of five)."""
    for row in range(ROWS):
        add(engine, str(row), random.choices(WORDS, k=ROW_TOKENS), knobs[row % len(knobs)], DECODES + 1)
    start = now()
    engine.step()
    prefill, start = since(start), now()
    while engine.has_unfinished_requests():
        engine.step()
    processor, wall = since(start)
    return {"prefill": prefill, "decode": (processor / DECODES, wall / DECODES)}


def measure_steps(engine: Any, rounds: int) -> dict[str, Any]:
    """Return by configuration and mix the milliseconds of both kinds of step, and their ratio to native of the same round."""
    ways: dict[str, Sequence[Knobs]] = {**{name: (knobs,) for name, knobs in FIXED.items()}, **MIXES}
    found: dict[str, dict[str, list[Seconds]]] = {name: {"prefill": [], "decode": []} for name in ways}
    order = Random(SEED)
    for number in range(-1, rounds):  # the first one warms up
        for name in order.sample(list(ways), k=len(ways)):
            for kind, seconds in timed_steps(engine, ways[name], Random(number)).items():
                if number >= 0:
                    found[name][kind].append(seconds)
    return {
        name: {kind: compared(each, found["native"][kind]) for kind, each in kinds.items()}
        for name, kinds in found.items()
    }


def compared(taken: Sequence[Seconds], native: Sequence[Seconds]) -> dict[str, Any]:
    """Return the median milliseconds by both clocks, and the change against native by the processor's."""
    return {
        "processor_ms": 1e3 * statistics.median(each[0] for each in taken),
        "wall_ms": 1e3 * statistics.median(each[1] for each in taken),
        "change": paired([each[0] for each in taken], [each[0] for each in native]),
    }


def measure_bursts(engine: Any, *, bursts: int, requests: int) -> dict[str, Any]:
    """Return by way the requests that a second serves, when they are handed over at once."""
    ways: dict[str, Sequence[Knobs]] = {
        **{name: (knobs,) for name, knobs in FIXED.items()},
        "mixed budgets": MIXES["all six"],
    }
    found: dict[str, list[Seconds]] = {name: [] for name in ways}
    order = Random(SEED)
    for number in range(bursts):
        for name in order.sample(list(ways), k=len(ways)):
            random = Random(number)
            start = now()
            for request in range(requests):
                knobs = ways[name][request % len(ways[name])]
                add(engine, str(request), random.choices(WORDS, k=random.randint(16, 128)), knobs, 6)
            while engine.has_unfinished_requests():
                engine.step()
            found[name].append(since(start))
    return {
        name: {
            "requests_a_processor_second": requests / statistics.median(each[0] for each in taken),
            "requests_a_second": requests / statistics.median(each[1] for each in taken),
            "change": paired([1 / each[0] for each in taken], [1 / each[0] for each in found["native"]]),
        }
        for name, taken in found.items()
    }


@contextmanager
def hooks_off(worker: Any) -> Generator[None]:
    """Let the model and its runner be vLLM's own inside the block: hooks are attributes that hide the methods of a class."""
    steering, runner = worker.steering, worker.model_runner
    hooks = [(runner, "_prepare_inputs"), (runner, "_model_forward")]
    hooks += [(layer, "forward") for layer in steering.layers]
    hooks += [(moe.router, "select_experts") for moe in steering.moes]
    hooks += [(moe.routed_experts, "forward_modular") for moe in steering.moes]
    kept = [(owner, name, vars(owner).pop(name)) for owner, name in hooks]
    execute = type(worker).__mro__[1].execute_model
    worker.execute_model = partial(execute, worker)
    try:
        yield
    finally:
        del worker.execute_model
        for owner, name, hook in kept:
            setattr(owner, name, hook)


def measure_worker(engine: Any, pairs: int) -> dict[str, Any]:
    """Return how much longer a step of native decodes takes with Paceline's hooks than without."""
    worker = engine.model_executor.driver_worker.worker
    random = Random(SEED)
    with_hooks: list[float] = []
    without: list[float] = []

    def step(taken: list[float]) -> None:
        start = time.process_time()
        engine.step()
        taken.append(time.process_time() - start)

    def plain_step() -> None:
        with hooks_off(worker):
            step(without)

    ways: list[Callable[[], None]] = [lambda: step(with_hooks), plain_step]
    while len(without) < pairs:
        for row in range(ROWS):
            add(engine, str(row), random.choices(WORDS, k=16), NATIVE, 102)
        engine.step()
        for _ in range(50):
            for way in random.sample(ways, k=2):
                way()
        while engine.has_unfinished_requests():
            engine.step()
    return {
        "with_ms": 1e3 * statistics.median(with_hooks),
        "without_ms": 1e3 * statistics.median(without),
        "change": paired(with_hooks, without),
    }


def measure_transformers(engine: Any, model: Any, questions: int) -> dict[str, Any]:
    """Answer the same questions under the same configurations in both, and return what that took and whether they agree."""
    asked = load_questions(ProfilePlan(datasets=("digits_read", "digits_count"), samples=-(-questions // 2)))[
        :questions
    ]
    knobs = list(FIXED.values())
    cases = [
        (
            each,
            KnobConfig(tier=tier, top_k=knobs[index % len(knobs)][0], num_active_blocks=knobs[index % len(knobs)][1]),
        )
        for index, (each, tier) in enumerate(zip(asked, ["low", "medium", "high"] * questions, strict=False))
    ]
    host = ModelHost(model=model, ranking=model.block_ranking, max_new_tokens=6, clock=HostClock())
    host.measure(cases[0][0].picture, cases[0][0].prompt, cases[0][1])
    requests = [(model.unencoded(each.picture, each.prompt, config.tier), config) for each, config in cases]
    engine.answer_all(requests[:1])
    start = now()
    theirs = [host.measure(each.picture, each.prompt, config).text for each, config in cases]
    alone, start = since(start), now()
    ours = [model.decode(torch.tensor(answer.token_ids)) for answer in engine.answer_all(requests)]
    together = since(start)
    return {
        "requests": len(cases),
        "equal_answers": sum(one == other for one, other in zip(theirs, ours, strict=True)),
        "transformers_processor_seconds": alone[0],
        "vllm_processor_seconds": together[0],
        "transformers_seconds": alone[1],
        "vllm_seconds": together[1],
        "processor_speedup": alone[0] / together[0],
    }


def words(change: Mapping[str, Any] | None) -> str:
    """Return a change with its interval."""
    if change is None:
        return "no pair"
    ends = change["ci"]
    return f"{change['mean']:+.1%}" + (f" ({ends[0]:+.1%} to {ends[1]:+.1%})" if ends else "")


def show(document: Mapping[str, Any]) -> None:
    """Print the figures."""
    for name, kinds in document["steps"].items():
        print(
            f"{name:14} "
            + "   ".join(
                f"{kind} {each['processor_ms']:7.1f} ms {words(each['change'])}" for kind, each in kinds.items()
            )
        )
    for name, each in document["bursts"].items():
        print(
            f"{name:14} {each['requests_a_processor_second']:.2f} requests a processor's second {words(each['change'])}"
        )
    print(f"worker on native decodes {words(document['worker']['change'])}")
    print(json.dumps(document["transformers"], indent=2))


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bursts", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--questions", type=int, default=8)
    given = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as place:
        folder = write_wide_vlm(Path(place) / "wide")
        model = load_model(str(folder), device="cpu", dtype="float32")
        ranking = model.block_ranking or ()
        profile = VllmProfile(arguments=ENGINE)
        with profile.open(
            str(folder), revision=None, dtype="float32", ranking=ranking, seed=SEED, max_new_tokens=6
        ) as opened:
            measuring: Any = opened
            engine = measuring._engine
            figures: dict[str, Any] = {
                "transformers": measure_transformers(measuring, model, given.questions),
                "steps": measure_steps(engine, given.rounds),
                "bursts": measure_bursts(engine, bursts=given.bursts, requests=given.requests),
                "worker": measure_worker(engine, given.pairs),
            }
    document = {
        **provenance("vllm_knobs.py"),
        "model": "synthetic: wide_vlm, random weights, 16 blocks of 512, 32 experts of 192, 8 a token",
        "load": "synthetic",
        "threads": 1,
        "load_average": {"start": load[0], "end": os.getloadavg()[0]},
        "engine": ENGINE,
        **figures,
    }
    show(document)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
