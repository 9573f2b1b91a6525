"""Does scheduling help? Stock vLLM against every policy and planner setting, on a tiny model, at 80 and 110 % of capacity.

    python benchmarks/scheduling.py --trace AzureLLMInferenceTrace_conv.csv [--requests 200] [--repetitions 5]

Needs vLLM. Without --trace the load is synthetic, and labelled so. Lengths are scaled down to the tiny model
(--length-scale), arrivals to the offered load. Capacity is measured first: a burst of the same lengths under the stock
scheduler, requests a second between the 10th and the 90th percentile of completions. Repetition r serves the trace's
r-th stretch of requests under every setting, in an order drawn for the repetition; an engine serves both loads, in an
order drawn too. Every finished run is kept under
--work and not run again: a killed benchmark goes on where it stopped. Compared are ratios to the stock run of the same
repetition: geometric means, with t intervals of their logarithms over repetitions. Writes benchmarks/results/scheduling.json.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from paired import mean_with_interval, paired
from provenance import provenance
from tiny_llm import write_tiny_llm

from paceline.fit.step_time import StepTimeFit, fit_step_time
from paceline.schedule import LinearStepTime, PlannerSettings, RequestTimes, StepLoad, StepRecord, read_step_log
from paceline.schedule.policies import PolicyWeights
from paceline.schedule.step_time import with_chunk
from paceline.slo import percentile
from paceline.tune.aging import aging_weights
from paceline.tune.environment import package_versions
from paceline.tune.host import ReplayHost
from paceline.tune.run_files import STEPS, read_requests, write_run
from paceline.tune.summary import RunSummary, summarize
from paceline.tune.trace import read_trace
from paceline.tune.workload import LoadScaling, SyntheticLoad, Workload, at_once, scaled
from paceline.vllm_plugin.replay import OfflineVllm

RESULTS = Path(__file__).parent / "results" / "scheduling.json"
STOCK = "stock"
UTILIZATIONS = {"80 %": 0.8, "110 %": 1.1}
WARMUP_REQUESTS = 8
SEED = 3407

Open = Callable[[PlannerSettings | None, LinearStepTime | None], AbstractContextManager[ReplayHost]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the settings are tuned with, all of it measured on the stock scheduler."""

    capacity_per_second: float
    weights: PolicyWeights
    alternative: PolicyWeights
    step_time: StepTimeFit

    def target_time_ms(self, chunk_size: int, running: int) -> float:
        """Return the predicted time of a step with half a chunk of prefill beside half of the running requests.

        Never less than a useful chunk alone takes: a smaller target is refused.
        """
        model = self.step_time.model
        half = StepLoad(decode_tokens=running // 2, decode_context_tokens=0, prefill_tokens=chunk_size // 2)
        useful = PlannerSettings(chunk_size=chunk_size).useful_chunk(model)
        alone = with_chunk(StepLoad(), chunk_tokens=useful, context_tokens=0)
        return max(model.predict_ms(half), model.predict_ms(alone))


def settings_to_compare(chunk_size: int, running: int, calibration: Calibration) -> dict[str, PlannerSettings | None]:
    """Return every setting by name; None is vLLM's own scheduler."""
    tenth = chunk_size // 10
    fcfs = PlannerSettings(chunk_size=chunk_size)
    target_ms = calibration.target_time_ms(chunk_size, running)
    return {
        STOCK: None,
        "fcfs": fcfs,
        "spf": replace(fcfs, policy="spf"),
        "srtf": replace(fcfs, policy="srtf"),
        "aging": replace(fcfs, policy="aging", weights=calibration.weights),
        "aging, alternative": replace(fcfs, policy="aging", weights=calibration.alternative),
        f"min_chunk_threshold {tenth}": replace(fcfs, min_chunk_threshold=tenth),
        f"min_chunk_tokens {tenth}": replace(fcfs, min_chunk_tokens=tenth),
        "max_partial_prefills 1": replace(fcfs, max_partial_prefills=1),
        f"target_time_ms {target_ms:.3g}": replace(fcfs, target_time_ms=target_ms),
        f"srtf, min_chunk_tokens {tenth}": replace(fcfs, policy="srtf", min_chunk_tokens=tenth),
    }


FIGURES: Mapping[str, Callable[[RunSummary], float | None]] = {
    "ttft_p50_ms": lambda run: run.ttft_ms[50].value,
    "ttft_p95_ms": lambda run: run.ttft_ms[95].value,
    "ttft_p99_ms": lambda run: run.ttft_ms[99].value,
    "tpot_p50_ms": lambda run: run.tpot_ms[50].value,
    "tpot_p95_ms": lambda run: run.tpot_ms[95].value,
    "tpot_p99_ms": lambda run: run.tpot_ms[99].value,
    "requests_per_second": lambda run: run.requests_per_second,
    "goodput_per_second": lambda run: run.goodput_per_second,
    "adherence": lambda run: None if run.adherence is None else run.adherence.share,
}


def chunk_figures(steps: Sequence[StepRecord], requests: Sequence[RequestTimes], least: int) -> dict[str, object]:
    """Return what a threshold or a least chunk of `least` tokens could touch in a run, from its step log.

    A chunk is `partial` when it does not finish its prompt; a `tail` finishes a prompt that earlier chunks began. A
    step is `held back` when prompts wait while it leaves fewer than `least` tokens of its budget, but some, unused.
    """
    prompts = {request.request_id: request.prompt_tokens for request in requests}
    ends = [
        (chunk.tokens, chunk.context_tokens, chunk.tokens + chunk.context_tokens >= prompts[name])
        for step in steps
        for name, chunk in step.chunks.items()
        if name in prompts
    ]
    partial = [tokens for tokens, _, finishes in ends if not finishes]
    tails = [tokens for tokens, context, finishes in ends if finishes and context]
    left = [(step.token_budget - step.decode_tokens - step.load.prefill_tokens, step.waiting) for step in steps]
    return {
        "steps": len(steps),
        "steps_with_prefill": sum(bool(step.chunks) for step in steps),
        "steps_held_back": sum(0 < unused < least and waiting > 0 for unused, waiting in left),
        "chunks": len(ends),
        "partial_chunks": len(partial),
        "partial_below_least": sum(tokens < least for tokens in partial),
        "smallest_partial": min(partial, default=None),
        "p5_partial": percentile(partial, 5) if partial else None,
        "tails": len(tails),
        "tails_below_least": sum(tokens < least for tokens in tails),
        "smallest_tail": min(tails, default=None),
        "step_ms_p50": percentile([step.execute_ms for step in steps], 50),
        "step_ms_p99": percentile([step.execute_ms for step in steps], 99),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One benchmark: where finished runs are kept, what is served, and how an engine is opened."""

    work: Path
    load: Workload
    requests: int
    repetitions: int
    ttft_budget_ms: float
    chunk_size: int
    running: int
    open_host: Open

    def stretch(self, repetition: int, rate: float | None = None) -> Workload:
        """Return a repetition's requests, at an offered rate where one is given."""
        first = repetition * self.requests
        part = replace(self.load, requests=self.load.requests[first : first + self.requests])
        return scaled(part, LoadScaling(rate=rate, ttft_budget_ms=self.ttft_budget_ms))

    def run(
        self,
        settings: PlannerSettings | None,
        step_time: LinearStepTime | None,
        workloads: Mapping[Path, Workload],
    ) -> None:
        """Make the runs that are not there already, by directory, on one engine after a short warm-up."""
        missing = {path: workload for path, workload in workloads.items() if not path.exists()}
        if not missing:
            return
        with self.open_host(settings, step_time) as host:
            warm = next(iter(missing.values()))
            host.replay(at_once(warm).requests[:WARMUP_REQUESTS], on_progress=_ignored)
            for path, workload in missing.items():
                print(f"  {path.relative_to(self.work)}", file=sys.stderr, flush=True)
                result = host.replay(workload.requests, on_progress=_ignored)
                document: dict[str, object] = {
                    "scheduler": None if settings is None else asdict(settings),
                    "load": workload.document(),
                    "versions": package_versions(),
                }
                write_run(path, result, document)

    def calibrate(self) -> Calibration:
        """Measure capacity, seconds per prefill token and the step time, all under the stock scheduler."""
        burst, run = (self.work / "calibration" / name for name in ("burst", "loaded"))
        last = self.repetitions  # a stretch that no repetition serves
        self.run(None, None, {burst: at_once(self.stretch(last))})
        capacity = central_rate(read_requests(burst))
        self.run(None, None, {run: self.stretch(last, UTILIZATIONS["80 %"] * capacity)})
        found = aging_weights(run)
        steps = (*read_step_log(burst / STEPS), *read_step_log(run / STEPS))
        return Calibration(
            capacity_per_second=capacity,
            weights=found.weights,
            alternative=found.alternative,
            step_time=fit_step_time(steps),
        )


def _ignored(done: int, total: int) -> None:
    del done, total


def central_rate(requests: Sequence[RequestTimes]) -> float:
    """Return requests a second between the 10th and the 90th percentile of completions: without filling and draining."""
    ends = sorted(request.completion_seconds for request in requests)
    first, last = len(ends) // 10, len(ends) - 1 - len(ends) // 10
    return (last - first) / (ends[last] - ends[first])


def compare(bench: Bench, names: Sequence[str] | None) -> dict[str, Any]:
    """Make every run that is missing, in fresh order each repetition, and return all figures."""
    calibration = bench.calibrate()
    known = settings_to_compare(bench.chunk_size, bench.running, calibration)
    settings = {name: known[name] for name in known if names is None or name in names or name == STOCK}
    runs: dict[tuple[str, str], list[Path]] = {}
    for repetition in range(bench.repetitions):
        random = Random(f"{SEED} {repetition}")
        for name in random.sample(list(settings), len(settings)):
            workloads: dict[Path, Workload] = {}
            for load in random.sample(list(UTILIZATIONS), len(UTILIZATIONS)):
                folder = bench.work / load.replace(" %", "") / str(repetition)
                path = folder / name.replace(", ", "-").replace(" ", "_")
                workloads[path] = bench.stretch(repetition, UTILIZATIONS[load] * calibration.capacity_per_second)
                runs.setdefault((load, name), []).append(path)
            step_time = None if settings[name] is None else calibration.step_time.model
            bench.run(settings[name], step_time, workloads)
    return {
        "capacity_per_second": calibration.capacity_per_second,
        "step_time": calibration.step_time.document(),
        "settings": {name: None if given is None else asdict(given) for name, given in settings.items()},
        "loads": {load: _load_figures(runs, load, list(settings), bench.chunk_size // 10) for load in UTILIZATIONS},
    }


def _load_figures(
    runs: Mapping[tuple[str, str], Sequence[Path]], load: str, names: Sequence[str], least: int
) -> dict[str, Any]:
    summaries = {name: [summarize(read_requests(run)) for run in runs[load, name]] for name in names}
    figures: dict[str, Any] = {}
    for name in names:
        figures[name] = {
            "chunks": [chunk_figures(read_step_log(r / STEPS), read_requests(r), least) for r in runs[load, name]]
        }
        for figure, of in FIGURES.items():
            own, stock = [of(run) for run in summaries[name]], [of(run) for run in summaries[STOCK]]
            figures[name][figure] = {
                "values": own,
                **mean_with_interval([value for value in own if value is not None]),
                "change": None if name == STOCK else paired(own, stock),
            }
    return figures


def print_markdown(document: Mapping[str, Any]) -> None:
    """Print a table a load: means, and the paired change against stock with its 95 % interval."""
    for load, by_name in document["loads"].items():
        print(f"\n### {load} of capacity ({document['load']})\n")
        print("| setting | " + " | ".join(FIGURES) + " |")
        print("|---" * (len(FIGURES) + 1) + "|")
        for name, figures in by_name.items():
            print(f"| {name} | " + " | ".join(_cell(figures[figure]) for figure in FIGURES) + " |")
        print(f"\nChunks at {load}, summed over repetitions, `least` = {document['chunk_size'] // 10} tokens:\n")
        kinds = (
            "steps",
            "steps_held_back",
            "chunks",
            "partial_chunks",
            "partial_below_least",
            "tails",
            "tails_below_least",
        )
        print("| setting | " + " | ".join(kinds) + " | smallest partial | smallest tail |")
        print("|---" * (len(kinds) + 3) + "|")
        for name, figures in by_name.items():
            sums = [sum(run[kind] for run in figures["chunks"]) for kind in kinds]
            least = [
                min((run[kind] for run in figures["chunks"] if run[kind] is not None), default="–")
                for kind in ("smallest_partial", "smallest_tail")
            ]
            print(f"| {name} | " + " | ".join(str(each) for each in (*sums, *least)) + " |")


def _cell(figure: Mapping[str, Any]) -> str:
    change = figure["change"]
    if change is None:
        return f"{figure['mean']:.3g}"
    spread = "" if change["ci"] is None else f" ({change['ci'][0]:+.0%} to {change['ci'][1]:+.0%})"
    return f"{figure['mean']:.3g}, {change['mean']:+.1%}{spread}"


def load_of(trace: Path | None, count: int, length_scale: float) -> Workload:
    """Return enough requests for every repetition and the calibration, of a trace or synthetic, scaled down."""
    whole = read_trace(trace) if trace is not None else SyntheticLoad(count=count).workload(SEED)
    if len(whole.requests) < count:
        raise SystemExit(f"{trace} holds {len(whole.requests)} requests, {count} are needed: fewer --requests would do")
    return scaled(whole, LoadScaling(limit=count, length_scale=length_scale))


def opener(model: Path, arguments: argparse.Namespace) -> Open:
    """Return what starts an engine on the tiny model; stock and planned engines get the same arguments."""
    engine_args = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": arguments.context,
        "max_num_batched_tokens": arguments.chunk_size,
        "max_num_seqs": arguments.running,
    }
    return lambda settings, step_time: OfflineVllm.open(
        str(model), settings, engine_args=engine_args, seed=SEED, step_time=step_time
    )


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="without one, the load is synthetic")
    parser.add_argument("--requests", type=int, default=200, help="of one run")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--length-scale", type=float, default=0.25)
    parser.add_argument("--ttft-budget-ms", type=float, default=100.0)
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--running", type=int, default=32, help="most running requests")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--settings", nargs="*", help="names of settings; stock always runs")
    parser.add_argument("--work", type=Path, default=Path("build/scheduling"), help="where finished runs are kept")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print the tables and write the figures."""
    arguments = parsed()
    model = arguments.work / "model"
    if not model.exists():
        write_tiny_llm(model)
    load = load_of(arguments.trace, arguments.requests * (arguments.repetitions + 1), arguments.length_scale)
    require_same_load(arguments.work / "load.json", load, arguments)
    bench = Bench(
        work=arguments.work,
        load=load,
        requests=arguments.requests,
        repetitions=arguments.repetitions,
        ttft_budget_ms=arguments.ttft_budget_ms,
        chunk_size=arguments.chunk_size,
        running=arguments.running,
        open_host=opener(model, arguments),
    )
    document = {
        **provenance("scheduling.py"),
        "load": load.label,
        "ttft_budget_ms": arguments.ttft_budget_ms,
        "chunk_size": arguments.chunk_size,
        "running": arguments.running,
        "requests": arguments.requests,
        "repetitions": arguments.repetitions,
        "length_scale": arguments.length_scale,
        **compare(bench, arguments.settings),
    }
    print_markdown(document)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def require_same_load(path: Path, load: Workload, arguments: argparse.Namespace) -> None:
    """Stop when the runs kept under --work are of another load or engine: they could not be compared."""
    names = ("requests", "ttft_budget_ms", "chunk_size", "running", "context")
    document = {"load": load.document(), **{name: getattr(arguments, name) for name in names}}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    elif json.loads(path.read_text()) != json.loads(json.dumps(document)):
        raise SystemExit(f"{path.parent} holds runs of another load or engine: choose another --work, or remove it")


if __name__ == "__main__":
    main()
