"""What Paceline's scheduler costs vLLM: throughput of a burst against vLLM's own, and microseconds a plan.

    .venv-vllm/bin/python benchmarks/vllm_overhead.py [--repetitions 20] [--requests 256] [--waiting 4096]

Writes benchmarks/results/vllm_overhead.json. It needs vLLM (`make setup-vllm` installs the build for a CPU) and an idle
machine. One engine serves the same synthetic burst again and again, in each repetition once under every scheduler, in an
order of its own: vLLM's as it is, the same with Paceline's stamps and records, and Paceline's policies. A ratio is a
throughput over that of vLLM's scheduler in the same repetition; its interval is over repetitions. The model is tiny, so
that scheduling weighs more than it does on a real one. Plans are timed by the engine's own step records, with `--waiting`
requests in the queue and 64 running.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)  # read when torch and vLLM are imported

from provenance import provenance  # noqa: E402
from scheduler_swap import with_scheduler  # noqa: E402
from tiny_llm import write_tiny_llm  # noqa: E402

from paceline.schedule import StepRecord  # noqa: E402
from paceline.slo import MeanEstimate  # noqa: E402
from paceline.vllm_plugin import scheduler, stock  # noqa: E402
from paceline.vllm_plugin.recording import EngineRecorder  # noqa: E402
from paceline.vllm_plugin.relied_on import SamplingParams, Scheduler  # noqa: E402
from paceline.vllm_plugin.replay import OfflineVllm  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "vllm_overhead.json"
VOCABULARY = 512
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "max_num_batched_tokens": 512,
    "max_num_seqs": 64,
    "block_size": 32,
}
POLICIES = ("fcfs", "spf", "srtf", "aging")
REFERENCE = "vllm"
STEPS_TIMED = 300
MOST_STARTED_A_STEP = 5
Request = tuple[list[int], int]  # prompt and answer length
Contender = tuple[Callable[..., Any], dict[str, object]]


def burst(count: int, *, seed: int) -> list[Request]:
    """Return random prompts, one in five of them long, and answer lengths."""
    random = Random(seed)
    lengths = [random.randint(200, 600) if random.random() < 0.2 else random.randint(10, 60) for _ in range(count)]
    return [(random.choices(range(VOCABULARY), k=length), random.randint(8, 32)) for length in lengths]


def add_all(engine: Any, load: Sequence[Request]) -> None:
    """Hand the whole load over."""
    for number, (prompt, length) in enumerate(load):
        parameters = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False)
        engine.add_request(str(number), {"prompt_token_ids": prompt}, parameters)


def recorded_stock(**arguments: Any) -> Any:
    """Return vLLM's scheduler with stamps and records that go nowhere."""
    built = stock(**arguments)
    built.recorder = EngineRecorder(on_step=lambda _: None, on_request=lambda _: None)
    return built


def contenders() -> dict[str, Contender]:
    """Return what is compared: how each scheduler is built, and its settings."""
    found: dict[str, Contender] = {REFERENCE: (Scheduler, {}), "vllm, recorded": (recorded_stock, {})}
    for policy in POLICIES:
        found[f"paceline {policy}"] = (scheduler, {"paceline": {"policy": policy}})
    return found


def tokens_a_second(engine: Any, load: Sequence[Request]) -> float:
    """Serve a burst to its end; prompt and output tokens a second."""
    add_all(engine, load)
    started = time.perf_counter()
    while engine.has_unfinished_requests():
        engine.step()
    return sum(len(prompt) + length for prompt, length in load) / (time.perf_counter() - started)


def measure_throughput(engine: Any, *, repetitions: int, requests: int) -> dict[str, Any]:
    """Return, by scheduler, tokens a second in every repetition and the ratio to vLLM's with its interval."""
    found: dict[str, list[float]] = {name: [] for name in contenders()}
    order = Random(1)
    for repetition in range(-1, repetitions):  # the first one warms up
        for name in order.sample(list(found), k=len(found)):
            build, settings = contenders()[name]
            with_scheduler(engine, build, settings)
            speed = tokens_a_second(engine, burst(requests, seed=repetition))
            if repetition >= 0:
                found[name].append(speed)
    return {name: _compared(speeds, found[REFERENCE]) for name, speeds in found.items()}


def _compared(speeds: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    ratios = [ours / theirs for ours, theirs in zip(speeds, reference, strict=True)]
    estimate = MeanEstimate(mean=statistics.fmean(ratios), std=statistics.pstdev(ratios), count=len(ratios))
    interval = estimate.interval()
    return {
        "tokens_a_second": list(speeds),
        "ratio": estimate.mean,
        "ratio_median": statistics.median(ratios),
        "ratio_ci": interval and [interval.low, interval.high],
    }


def measure_plans(engine: Any, policy: str, *, waiting: int) -> dict[str, float]:
    """Return microseconds of a plan and of vLLM's schedule() with many requests waiting."""
    built = with_scheduler(engine, scheduler, {"paceline": {"policy": policy}})
    steps: list[StepRecord] = []
    built.recorder = EngineRecorder(on_step=steps.append)
    load = burst(waiting + MOST_STARTED_A_STEP * STEPS_TIMED, seed=9)  # so that enough still wait at the end
    add_all(engine, load)
    while len(steps) < STEPS_TIMED:
        engine.step()
    engine.abort_request([str(number) for number in range(len(load))])
    engine.step()  # the model lets go of the aborted ones
    plans = sorted(step.plan_us for step in steps)
    return {
        "steps": len(steps),
        "least_waiting": min(step.waiting for step in steps),
        "plan_us_median": statistics.median(plans),
        "plan_us_p95": plans[int(0.95 * len(plans))],
        "schedule_us_median": statistics.median(step.schedule_us for step in steps),
        "execute_ms_median": statistics.median(step.execute_ms for step in steps),
    }


def show(throughput: dict[str, Any], plans: dict[str, dict[str, float]]) -> None:
    """Print the figures."""
    for name, each in throughput.items():
        low, high = each["ratio_ci"] or (float("nan"), float("nan"))
        print(
            f"{name:16} {statistics.median(each['tokens_a_second']):8.0f} tokens/s, "
            f"{each['ratio']:.3f} of vLLM's (95 % CI {low:.3f} to {high:.3f}, median {each['ratio_median']:.3f})"
        )
    for policy, each in plans.items():
        print(
            f"{policy:6} plan {each['plan_us_median']:.0f} µs (p95 {each['plan_us_p95']:.0f}), schedule() "
            f"{each['schedule_us_median']:.0f} µs, at least {each['least_waiting']:,} waiting, {each['steps']} steps"
        )


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--waiting", type=int, default=4096)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_llm(Path(folder), vocabulary=VOCABULARY)
        with OfflineVllm.open(str(model), None, engine_args=ENGINE, seed=1) as host:
            engine = host.engine
            throughput = measure_throughput(engine, repetitions=arguments.repetitions, requests=arguments.requests)
            plans = {policy: measure_plans(engine, policy, waiting=arguments.waiting) for policy in POLICIES}
    show(throughput, plans)
    document = {
        **provenance("vllm_overhead.py"),
        "load": "synthetic",
        "engine": ENGINE,
        "environment": {name: os.environ[name] for name in ENVIRONMENT},
        "throughput": throughput,
        "plans": plans,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
