"""What Paceline's policies do to throughput and latency in steady state, against vLLM's own scheduler, in virtual time.

    .venv-vllm/bin/python benchmarks/steady_state.py [--requests 1000] [--seeds 5]

Needs vLLM; no model runs. vLLM's scheduler classes serve synthetic loads (`timed_loads`): the same figures on any machine,
plan times aside. Three parts:

- `steady`: a long arrival process at 0.8, 0.95 and 1.1 of capacity: texts, texts of which one in five is long, images.
  A window of its middle half is looked at: tokens that steps computed in it, requests that ended in it; TTFT and TPOT are
  of the requests that arrived in it.
- `burst`: the same requests all at once, and bursts of 256 of them. What a burst loses beside the stock scheduler is put
  beside the fixed cost of the steps that it takes more, and beside what the same steps lose where tokens cost less.
- `plans`: CPU time of Paceline's part of schedule(), of plan_step within it and of the whole, with 64 requests running, by
  how many wait.

Capacity is what the stock scheduler serves of the burst, requests a second between the 10th and the 90th percentile of
completions. Changes are geometric means of ratios to the stock run of the same seed, with Student's 95 % interval of their
logarithms. Writes benchmarks/results/steady_state.json.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from paired import mean_with_interval, paired
from provenance import provenance
from timed_loads import (
    STEP_TIME,
    Shape,
    TimedRequest,
    TimedRun,
    image_load,
    seconds_per_prefill_token,
    serve_timed,
    short_and_long_load,
    text_load,
    tiny_config,
)

import paceline.vllm_plugin.planned
from paceline.schedule import EncoderBudget, StepRecord
from paceline.slo import percentile
from paceline.vllm_plugin import scheduler, stock

RESULTS = Path(__file__).parent / "results" / "steady_state.json"
STOCK = "stock"
UTILIZATIONS = (0.8, 0.95, 1.1)
STEP_TOKENS, RUNNING = 512, 64
# as vLLM sets both from the tokens of a step
ENCODER = EncoderBudget(compute_embeds=STEP_TOKENS, cache_embeds=STEP_TOKENS)
SHAPES = {
    "text": Shape(step_tokens=STEP_TOKENS, running=RUNNING),
    "short and long": Shape(step_tokens=STEP_TOKENS, running=RUNNING),
    "image": Shape(step_tokens=STEP_TOKENS, running=RUNNING, encoder=ENCODER),
}
LOADS: Mapping[str, Callable[..., list[TimedRequest]]] = {
    "text": text_load,
    "short and long": short_and_long_load,
    "image": image_load,
}
SMALL_BURST = 256
MOST_WAITING = 4096
PLANNED_STEPS = 400
WAITING_FROM = (0, 64, 1024, MOST_WAITING)
WINDOW = (0.25, 0.75)
TOKEN_COSTS_BY = (1, 4, 10)
Serve = Callable[..., TimedRun]


@dataclass(slots=True)
class PlanTimes:
    """CPU microseconds of each schedule() with all places taken: (waiting, plan_step, Paceline's part, the whole)."""

    rows: list[tuple[int, float, float, float]] = field(default_factory=list[tuple[int, float, float, float]])
    _last: dict[str, float] = field(default_factory=dict[str, float])

    def watch(self, built: Any) -> None:
        """Time a scheduler's steps from now on."""
        planned: Any = paceline.vllm_plugin.planned
        if hasattr(built, "_plan"):
            planned.plan_step = self._timed("plan_step", ORIGINAL_PLAN_STEP)
            built._plan = self._timed("plan", built._plan)
        schedule = self._timed("schedule", built.schedule)

        def scheduled() -> Any:
            self._last.clear()
            waiting, running = len(built.waiting), len(built.running)
            output = schedule()
            if running == RUNNING:
                plan_step, plan, whole = (self._last.get(name, 0.0) for name in ("plan_step", "plan", "schedule"))
                self.rows.append((waiting, plan_step, plan, whole))
            return output

        built.schedule = scheduled

    def figures(self, least: int, below: float) -> dict[str, float] | None:
        """Return medians and 95th percentiles of the steps with so many waiting; None where there are few."""
        rows = [row for row in self.rows if least <= row[0] < below]
        if len(rows) < 50:
            return None
        found: dict[str, float] = {"steps": len(rows)}
        for index, name in enumerate(("plan_step", "plan", "schedule"), start=1):
            found[f"{name}_us_median"] = median(row[index] for row in rows)
            found[f"{name}_us_p95"] = percentile([row[index] for row in rows], 95)
        return found

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time_ns()
            try:
                return function(*arguments, **named)
            finally:
                self._last[name] = (time.thread_time_ns() - started) / 1e3

        return timed


ORIGINAL_PLAN_STEP = paceline.vllm_plugin.planned.plan_step


def serving(config: Any, prompt_weight: float, times: Mapping[str, PlanTimes]) -> dict[str, Serve]:
    """Return how a load is served under each scheduler; aging with the weight that `paceline tune aging` would print."""
    planned: dict[str, dict[str, object]] = {
        "fcfs": {"policy": "fcfs"},
        "spf": {"policy": "spf"},
        "srtf": {"policy": "srtf"},
        "aging": {"policy": "aging", "time_weight": 1.0, "prompt_weight": prompt_weight},
    }

    def serve(name: str, load: Sequence[TimedRequest], shape: Shape, **further: Any) -> TimedRun:
        build = stock if name == STOCK else scheduler
        watch = times.get(name, PlanTimes()).watch
        return serve_timed(config, load, shape, build, paceline=planned.get(name), on_built=watch, **further)

    return {name: partial(serve, name) for name in (STOCK, *planned)}


def at_once(load: Sequence[TimedRequest]) -> list[TimedRequest]:
    """Return the load with every request there from the start."""
    return [replace(request, arrival_seconds=0.0) for request in load]


def tokens(steps: Sequence[StepRecord]) -> int:
    """Return what steps computed, prompts and answers alike."""
    return sum(step.decode_tokens + step.load.prefill_tokens for step in steps)


def central_rate(run: TimedRun) -> float:
    """Return requests a second between the 10th and the 90th percentile of completions."""
    ends = sorted(request.completion_seconds for request in run.requests)
    first, last = len(ends) // 10, len(ends) - 1 - len(ends) // 10
    return (last - first) / (ends[last] - ends[first])


def window_figures(run: TimedRun, load: Sequence[TimedRequest]) -> dict[str, float]:
    """Return throughput and latencies of the middle half of the arrivals' time."""
    start, end = (share * load[-1].arrival_seconds for share in WINDOW)
    within = [step for step in run.steps if start <= step.started_seconds < end]
    arrived = [each for each in run.requests if start <= each.arrival_seconds < end]
    ended = [each for each in run.requests if start <= each.completion_seconds < end]
    ttft = [each.ttft_ms for each in arrived]
    tpot = [each.tpot_ms for each in arrived if each.tpot_ms is not None]
    return {
        "tokens_per_second": tokens(within) / (end - start),
        "requests_per_second": len(ended) / (end - start),
        "ttft_p50_ms": percentile(ttft, 50),
        "ttft_p99_ms": percentile(ttft, 99),
        "tpot_p50_ms": percentile(tpot, 50),
        "tpot_p99_ms": percentile(tpot, 99),
        "waiting": fmean(step.waiting for step in within),
    }


def burst_figures(run: TimedRun) -> dict[str, float]:
    """Return a burst's throughput, its steps, and its tail: from where no request waits any more."""
    last = max((number for number, step in enumerate(run.steps) if step.waiting), default=-1)
    tail = run.steps[last + 1 :]
    return {
        "tokens_per_second": tokens(run.steps) / run.seconds,
        "seconds": run.seconds,
        "steps": float(len(run.steps)),
        "steps_full": fmean(tokens([step]) >= STEP_TOKENS for step in run.steps),
        "steps_all_places_taken": fmean(step.running >= RUNNING for step in run.steps),
        "tail_seconds": sum(step.execute_ms for step in tail) / 1e3,
        "tail_tokens_per_second": 1e3 * tokens(tail) / sum(step.execute_ms for step in tail),
        "fixed_seconds": len(run.steps) * STEP_TIME.base_ms / 1e3,
    }


def compared(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Return each scheduler's figures: means over seeds, and the change against stock."""
    return {
        name: {
            key: {
                **mean_with_interval([run[key] for run in own]),
                "change": None if name == STOCK else paired([r[key] for r in own], [r[key] for r in runs[STOCK]]),
            }
            for key in own[0]
        }
        for name, own in runs.items()
    }


def explained(figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return what a burst loses beside stock, and where: means over seeds, in seconds.

    A step's time is a fixed cost and a sum over tokens that no order changes, so what a burst takes longer is the fixed cost
    of the steps that it takes more. `tail_seconds_more` is the part from where no request waits any more. The throughput of
    stock's with token costs at a part of theirs is of the same steps: who is there from the start is planned without a clock.
    """

    def mean(name: str, key: str) -> float:
        return figures[name][key]["mean"]

    def seconds(name: str, part: float) -> float:
        return mean(name, "fixed_seconds") + (mean(name, "seconds") - mean(name, "fixed_seconds")) / part

    return {
        name: {
            "longer_seconds": mean(name, "seconds") - mean(STOCK, "seconds"),
            "fixed_seconds_more": mean(name, "fixed_seconds") - mean(STOCK, "fixed_seconds"),
            "tail_seconds_more": mean(name, "tail_seconds") - mean(STOCK, "tail_seconds"),
            **{f"token_costs_by_{part}": seconds(STOCK, part) / seconds(name, part) for part in TOKEN_COSTS_BY},
        }
        for name in figures
    }


def measure(config: Any, kind: str, *, requests: int, seeds: int) -> dict[str, Any]:
    """Return steady state, bursts and plan times of one kind of load."""
    make, shape = LOADS[kind], SHAPES[kind]
    plain = serving(config, 0.0, {})[STOCK]
    capacity = fmean(central_rate(plain(at_once(make(requests, rate=1.0, seed=seed)), shape)) for seed in range(seeds))
    tuned = plain(make(requests, rate=UTILIZATIONS[0] * capacity, seed=seeds), shape)
    times = {name: PlanTimes() for name in (STOCK, "fcfs", "spf", "srtf", "aging")}
    servers = serving(config, -seconds_per_prefill_token(tuned), times)
    found: dict[str, Any] = {"capacity_per_second": capacity, "prompt_weight": -seconds_per_prefill_token(tuned)}
    found["steady"] = {}
    for utilization in UTILIZATIONS:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for seed in range(seeds):
            load = make(requests, rate=utilization * capacity, seed=seed)
            for name, serve in servers.items():
                runs[name].append(window_figures(serve(load, shape), load))
        found["steady"][str(utilization)] = compared(runs)
    found["burst"] = {}
    for count in (SMALL_BURST, requests):
        runs = {name: [] for name in servers}
        for seed in range(seeds):
            load = at_once(make(count, rate=1.0, seed=seed))
            for name, serve in servers.items():
                runs[name].append(burst_figures(serve(load, shape)))
        figures = compared(runs)
        found["burst"][str(count)] = {"figures": figures, "explained": explained(figures)}
    crowd = at_once(make(MOST_WAITING + RUNNING + 4 * PLANNED_STEPS, rate=1.0, seed=seeds))
    for serve in servers.values():
        serve(crowd, shape, most_steps=PLANNED_STEPS)
    ends = (*WAITING_FROM[1:], float("inf"))
    found["plans"] = {
        name: {str(least): each.figures(least, below) for least, below in zip(WAITING_FROM, ends, strict=True)}
        for name, each in times.items()
    }
    return found


def print_markdown(kind: str, found: Mapping[str, Any]) -> None:
    """Print the tables of one kind of load."""
    keys = (
        "tokens_per_second",
        "requests_per_second",
        "ttft_p50_ms",
        "ttft_p99_ms",
        "tpot_p50_ms",
        "tpot_p99_ms",
        "waiting",
    )
    for utilization, by_name in found["steady"].items():
        print(f"\n{kind}, {utilization} of {found['capacity_per_second']:.1f} requests a second (synthetic)\n")
        _print_table(by_name, keys)
    for count, burst in found["burst"].items():
        print(f"\n{kind}, a burst of {count} requests\n")
        keys = ("tokens_per_second", "steps", "tail_seconds", "steps_all_places_taken", "steps_full")
        _print_table(burst["figures"], keys)
        for name, parts in burst["explained"].items():
            print(f"{name}: " + ", ".join(f"{part} {value:+.3f}" for part, value in parts.items()))
    print(f"\n{kind}, plans (CPU µs)\n")
    for name, by_waiting in found["plans"].items():
        for least, cells in by_waiting.items():
            if cells is not None:
                print(f"{name}, from {least} waiting: " + ", ".join(f"{k} {v:.0f}" for k, v in cells.items()))


def _print_table(by_name: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> None:
    print("| scheduler | " + " | ".join(keys) + " |\n" + "|---" * (len(keys) + 1) + "|")
    for name, figures in by_name.items():
        print(f"| {name} | " + " | ".join(_cell(figures[key]) for key in keys) + " |")


def _cell(figure: Mapping[str, Any]) -> str:
    change = figure["change"]
    if change is None:
        return f"{figure['mean']:.4g}"
    ends = "" if change["ci"] is None else f"; {change['ci'][0]:+.1%} to {change['ci'][1]:+.1%}"
    return f"{figure['mean']:.4g} ({change['mean']:+.1%}{ends})"


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    document: dict[str, Any] = {
        **provenance("steady_state.py"),
        "load": "synthetic",
        "step_tokens": STEP_TOKENS,
        "running": RUNNING,
        "step_time": STEP_TIME.document(),
    }
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_config(folder)
        for kind in LOADS:
            document[kind] = measure(config, kind, requests=arguments.requests, seeds=arguments.seeds)
            print_markdown(kind, document[kind])
            sys.stdout.flush()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
