"""How much of a step-time model's error is the machine's: the very same steps several times, by two clocks.

    .venv-vllm/bin/python benchmarks/step_time_noise.py [--requests 100] [--repeats 4]

Needs vLLM. A burst of requests is served several times by vLLM's own scheduler on a tiny random model: the steps are the
same in every repeat, so that what a step takes more or less than the same step of the other repeats no model of its
load can know. Times are the machine's and the processor's, of the engine's thread. Beside that floor stand the held-out
errors of the product's model and of richer ones: by kind of step, with the number of requests, with the number of
chunks. Writes benchmarks/results/step_time_noise.json.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_in_process import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})  # read when torch and vLLM are imported

import numpy as np
from provenance import provenance
from scipy.optimize import nnls
from simulated_run import ARGUMENTS, SEED
from tiny_llm import write_tiny_llm

from paceline.fit.step_probes import load_row
from paceline.fit.step_time import KINDS, fit_step_time
from paceline.schedule import StepRecord
from paceline.simulate.load import Floats
from paceline.tune.workload import SyntheticLoad, Workload, at_once
from paceline.vllm_plugin.clocks import ProcessorClock
from paceline.vllm_plugin.replay import OfflineVllm

RESULTS = Path(__file__).parent / "results" / "step_time_noise.json"
WARM_UP, BLOCK, EVERY = 10, 10, 5
Features = Callable[[StepRecord], tuple[float, ...]]
FEATURES: Mapping[str, Features] = {
    "the product's five": lambda step: load_row(step.load),
    "and the number of chunks": lambda step: (*load_row(step.load), len(step.chunks)),
    "and a fixed cost by kind of step": lambda step: (
        *load_row(step.load),
        *(float(of(step)) for of in KINDS.values()),
    ),
    "each kind of step by itself": lambda step: tuple(
        float(of(step)) * each for of in KINDS.values() for each in load_row(step.load)
    ),
    "all of these, and the square of the prompt tokens": lambda step: (
        *load_row(step.load),
        len(step.chunks),
        *(float(of(step)) for of in KINDS.values()),
        step.load.prefill_tokens**2,
    ),
}


class MachineTimes:
    """The machine's seconds of every step, from where its schedule is returned to where its output is there."""

    def __init__(self, scheduler: Any) -> None:
        self.seconds: list[float] = []
        self._since = 0.0
        schedule, update = scheduler.schedule, scheduler.update_from_output

        def scheduled(*arguments: Any, **named: Any) -> Any:
            output = schedule(*arguments, **named)
            self._since = time.monotonic()
            return output

        def updated(output: Any, *rest: Any) -> Any:
            if output.total_num_scheduled_tokens:
                self.seconds.append(time.monotonic() - self._since)
            return update(output, *rest)

        scheduler.schedule, scheduler.update_from_output = scheduled, updated


def measured(workload: Workload, repeats: int) -> tuple[list[StepRecord], Floats, Floats]:
    """Return the steps of a burst, and their ms by the machine's clock and by the processor's, [repeat, step]."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_tiny_llm(Path(folder)))
        with OfflineVllm.open(model, None, engine_args=ARGUMENTS, seed=SEED, clock=ProcessorClock()) as host:
            watch = MachineTimes(host.engine.engine_core.engine_core.scheduler)
            runs: list[tuple[StepRecord, ...]] = []
            taken: list[list[float]] = []
            for _ in range(repeats + 1):
                watch.seconds.clear()
                runs.append(host.replay(workload.requests, on_progress=lambda _done, _total: None).steps)
                taken.append(list(watch.seconds))
    runs, taken = runs[1:], taken[1:]  # the first warms up
    loads = [[(step.load, step.decode_tokens) for step in run] for run in runs]
    if any(each != loads[0] for each in loads) or any(len(each) != len(runs[0]) for each in taken):
        raise RuntimeError("the repeats took different steps: nothing is repeated")
    by_processor = np.array([[step.execute_ms for step in run] for run in runs])
    return list(runs[0]), 1e3 * np.array(taken)[:, WARM_UP:], by_processor[:, WARM_UP:]


def noise(times: Floats) -> dict[str, float]:
    """Return how far a step is from the median of the same step in the other repeats, in shares of the mean step."""
    others = np.stack([np.median(np.delete(times, repeat, axis=0), axis=0) for repeat in range(len(times))])
    off = np.abs(times - others)
    return {
        "mean_step_ms": float(times.mean()),
        "relative_mae": float(off.mean() / times.mean()),
        "relative_p50": float(np.median(off) / np.median(times)),
        "repeats_apart": float(times.sum(axis=1).max() / times.sum(axis=1).min() - 1),
    }


def error_of(steps: Sequence[StepRecord], times: Floats, features: Features) -> float:
    """Return the held-out relative error of non-negative least squares: every fifth block of ten steps is held out."""
    rows = np.array([features(step) for step in steps])
    rows = rows / np.maximum(rows.max(axis=0), 1.0)
    held = (np.arange(len(steps)) // BLOCK) % EVERY == EVERY - 1
    found = nnls(rows[~held], times[~held])[0]
    return float(np.abs(rows[held] @ found - times[held]).mean() / times[held].mean())


def product_errors(steps: Sequence[StepRecord], times: Floats) -> dict[str, float]:
    """Return the held-out relative errors that `paceline tune step-time` would state, over all and by kind."""
    timed = [replace(step, execute_ms=float(each)) for step, each in zip(steps, times, strict=True)]
    fit = fit_step_time(timed, warmup_steps=0)
    by_kind = {kind: error.relative_error for kind, error in fit.held_out_by_kind.items()}
    return {"all": fit.held_out.relative_error, **by_kind}


def main() -> None:
    """Print the floor and the errors, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    load = SyntheticLoad(count=arguments.requests, prompt_median=160, output_median=24).workload(SEED)
    steps, by_machine, by_processor = measured(at_once(load), arguments.repeats)
    steps = steps[WARM_UP:]
    clocks = {
        "machine's clock, one run": by_machine[0],
        "machine's clock, median of the repeats": np.median(by_machine, axis=0),
        "processor time, one run": by_processor[0],
        "processor time, median of the repeats": np.median(by_processor, axis=0),
    }
    document: dict[str, Any] = {
        **provenance("step_time_noise.py"),
        "load": load.document(),
        "steps": len(steps),
        "steps_by_kind": {kind: sum(map(of, steps)) for kind, of in KINDS.items()},
        "repeats": arguments.repeats,
        "noise": {"machine's clock": noise(by_machine), "processor time": noise(by_processor)},
        "held_out_relative_error": {
            clock: {
                "as the product fits": product_errors(steps, times),
                **{name: error_of(steps, times, features) for name, features in FEATURES.items()},
            }
            for clock, times in clocks.items()
        },
        "load_average": os.getloadavg(),
    }
    print({name: document[name] for name in ("steps", "steps_by_kind", "load_average")})
    for clock, figures in document["noise"].items():
        print(clock, {name: f"{value:.3f}" for name, value in figures.items()})
    for clock, errors in document["held_out_relative_error"].items():
        shown = {name: value["all"] if isinstance(value, dict) else value for name, value in errors.items()}
        print(clock, {name: f"{value:.1%}" for name, value in shown.items()})
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
