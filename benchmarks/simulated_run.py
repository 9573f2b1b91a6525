"""One trace through real vLLM, vLLM in virtual time and the simulator: how far simulated times are from real ones.

    .venv-vllm/bin/python benchmarks/simulated_run.py [--trace AzureLLMInferenceTrace_conv.csv] [--requests 120]
        [--length-scale 0.2] [--load 0.6] [--runs 3] [--models dense experts pictures] [--clock processor] [--keep FOLDER]

Needs vLLM. A model is served by vLLM's own scheduler in this process: a tiny random one, dense or of experts, or the
embedded one with pictures. `--runs` runs of the trace take turns with runs of other requests on which the step-time model
is fitted; what the former differ by among each other is the noise floor. Then the same trace in virtual time and in the
simulator, with the fitted model (these two must agree exactly); in the simulator with each run's own step log, which leaves
the scheduling alone to differ; and with a model fitted on each run itself, which leaves the form of the model. The clock is
the processor time of the engine's thread, on which other programs weigh little; `--clock machine` takes the machine's. Writes
benchmarks/results/simulated_run.json, one model beside those of earlier calls. `--keep FOLDER` leaves each real run there as it
ends, and takes those that are there instead of serving them again: a killed call goes on, and a model can be fitted anew.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from vllm_in_process import ENVIRONMENT, STAND_IN

os.environ.update({**ENVIRONMENT, **os.environ})  # read when torch and vLLM are imported
sys.path.insert(0, str(STAND_IN))

from picture_requests import ARGUMENTS as PICTURE_ARGUMENTS
from picture_requests import Pictures, PictureVllm, VirtualPictureVllm, write_digits
from provenance import provenance
from tiny_llm import write_tiny_llm
from tiny_moe import write_tiny_moe

from paceline.fit.step_time import StepTimeFit, fit_step_time
from paceline.schedule import EngineTime, PlannerSettings, RequestTimes, StepRecord
from paceline.schedule.step_log import read_step_log
from paceline.simulate import LinearCost, ReplayedCost, RequestColumns, SimulatedEngine, StepCost, simulate
from paceline.simulate.simulation import REFERENCE
from paceline.slo import percentile
from paceline.tune.run_files import STEPS, read_document, read_requests, write_run
from paceline.tune.trace import read_trace
from paceline.tune.workload import LoadScaling, SyntheticLoad, Workload, at_once, scaled
from paceline.vllm_plugin.clocks import CLOCKS
from paceline.vllm_plugin.replay import OfflineVllm, ReplayResult
from paceline.vllm_plugin.virtual_replay import VirtualVllm

RESULTS = Path(__file__).parent / "results" / "simulated_run.json"
CHUNK, CAP, BLOCKS, BLOCK_TOKENS, SEED = 256, 16, 1_000, 32, 3407
ARGUMENTS = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_num_seqs": CAP,
    "max_num_batched_tokens": CHUNK,
    "block_size": BLOCK_TOKENS,
    "num_gpu_blocks_override": BLOCKS,
    "enable_prefix_caching": False,
}
ENGINE = SimulatedEngine(
    rules="vllm",
    planner=PlannerSettings(chunk_size=CHUNK),
    max_num_seqs=CAP,
    num_blocks=BLOCKS,
    block_size=BLOCK_TOKENS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A kind of model: how it is written, who serves it for real and in virtual time, and what its prompts come to."""

    write: Callable[[Path], Path]
    arguments: Mapping[str, Any]
    real: type[OfflineVllm]
    virtual: type[VirtualVllm]
    load: Callable[[Workload], Workload]


def as_it_is(workload: Workload) -> Workload:
    """Return the load with its own prompts."""
    return workload


def served_pictures() -> Served:
    """Return the embedded model with its pictures, which both engines are given."""
    pictures = Pictures()
    real = type("PictureVllm", (PictureVllm,), {"pictures": pictures})
    virtual = type("VirtualPictureVllm", (VirtualPictureVllm,), {"pictures": pictures})
    arguments = {**ARGUMENTS, **PICTURE_ARGUMENTS}
    return Served(write=write_digits, arguments=arguments, real=real, virtual=virtual, load=pictures.load)


def served_text(write: Callable[[Path], Path]) -> Served:
    """Return a model of token ids."""
    return Served(write=write, arguments=ARGUMENTS, real=OfflineVllm, virtual=VirtualVllm, load=as_it_is)


MODELS: Mapping[str, Callable[[], Served]] = {
    "dense": lambda: served_text(write_tiny_llm),
    "experts": lambda: served_text(write_tiny_moe),
    "pictures": served_pictures,
}


def ttfts_ms(requests: Sequence[RequestTimes]) -> dict[str, float]:
    """Return the times to first token by request."""
    return {request.request_id: request.ttft_ms for request in requests}


def figures(requests: Sequence[RequestTimes]) -> dict[str, float]:
    """Return what is compared, in ms."""
    ttft = list(ttfts_ms(requests).values())
    tpot = [request.tpot_ms for request in requests if request.tpot_ms is not None]
    return {
        "TTFT mean": sum(ttft) / len(ttft),
        **{f"TTFT P{percent}": percentile(ttft, percent) for percent in (50, 90, 99)},
        "TPOT mean": sum(tpot) / len(tpot),
    }


def simulated(workload: Workload, cost: StepCost) -> tuple[RequestTimes, ...]:
    """Return the requests' times in the simulator."""
    run = simulate(RequestColumns.of(workload.requests), ENGINE, cost, computed_by=REFERENCE)
    return run.request_times(workload.requests)


def largest_difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return the median, the P99 and the largest absolute difference in ms, request by request."""
    off = [abs(one[name] - other[name]) for name in one]
    return {"p50_ms": percentile(off, 50), "p99_ms": percentile(off, 99), "largest_ms": max(off)}


def parted(source: Workload, count: int, parts: int, length_scale: float) -> list[Workload]:
    """Return consecutive parts of the source, of so many requests each, from time 0 on."""
    shorter = scaled(source, LoadScaling(length_scale=length_scale, limit=count * parts))
    return [
        scaled(replace(shorter, requests=shorter.requests[count * part : count * (part + 1)]), LoadScaling())
        for part in range(parts)
    ]


@dataclass(slots=True)
class Runs:
    """Real runs of one model: those that a folder keeps, the others served when they are asked for."""

    kind: Served
    model: str
    clock: str
    folder: Path | None
    closing: ExitStack
    host: OfflineVllm | None = None

    def served(self, load: Workload, name: str) -> tuple[ReplayResult, Mapping[str, Any]]:
        """Return a run of a load, and what was written down beside it."""
        path = None if self.folder is None else self.folder / name
        if path is not None and path.exists():
            document = read_document(path)
            if document["load"] != load.document():
                sys.exit(
                    f"{path} holds a run of another load; name another folder, or give the arguments it was made with"
                )
            steps = read_step_log(path / STEPS)
            return ReplayResult(
                requests=read_requests(path), steps=steps, wall_seconds=cast("float", document["wall_seconds"])
            ), document
        if self.host is None:
            opened = self.kind.real.open(
                self.model, None, engine_args=self.kind.arguments, seed=SEED, clock=CLOCKS[self.clock]()
            )
            self.host = self.closing.enter_context(opened)
        run = self.host.replay(load.requests, on_progress=lambda _done, _total: None)
        document = {"wall_seconds": run.wall_seconds, "load_averages": os.getloadavg(), "load": load.document()}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_run(path, run, document)
        return run, document


def measured(runs: Runs, source: Workload, arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve the trace's first part `--runs` times for real, in turn with other parts, on which the model is fitted."""
    count = arguments.requests
    parts = (runs.kind.load(each) for each in parted(source, count, arguments.runs + 1, arguments.length_scale))
    judged, *others = parts
    burst, _ = runs.served(at_once(judged), "burst")
    rate = arguments.load * count / burst.wall_seconds
    judged, *others = (scaled(each, LoadScaling(rate=rate)) for each in (judged, *others))
    real: list[ReplayResult] = []
    fitting: list[StepRecord] = []
    loads: list[Any] = []
    for number, other in enumerate(others):
        run, _ = runs.served(other, f"fitted-{number}")
        fitting += [replace(step, run=str(number)) for step in run.steps]
        again, document = runs.served(judged, f"judged-{number}")
        real.append(again)
        loads.append(document["load_averages"])
    return {"workload": judged, "real": real, "fit": fit_step_time(fitting), "load_averages": loads}


def compared(name: str, source: Workload, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return one model's columns, the differences between its real runs, and the simulator's error against them."""
    kind = MODELS[name]()
    kept = None if arguments.keep is None else arguments.keep / name
    with tempfile.TemporaryDirectory() as folder:
        model = str(kind.write(Path(folder)))
        with ExitStack() as closing:
            runs = Runs(kind=kind, model=model, clock=arguments.clock, folder=kept, closing=closing)
            found = measured(runs, source, arguments)
        workload, real, fit = found["workload"], found["real"], found["fit"]
        time = moving(fit)
        with kind.virtual.open(
            model, None, engine_args=kind.arguments, seed=SEED, step_time=fit.model, engine_time=time
        ) as virtual:
            in_virtual_time = virtual.replay(workload.requests, on_progress=lambda _done, _total: None).requests
    fitted = simulated(workload, LinearCost.of(time))
    columns = {f"real {number}": figures(run.requests) for number, run in enumerate(real)}
    columns["virtual vLLM, fitted"] = figures(in_virtual_time)
    columns["simulator, fitted"] = figures(fitted)
    replayed: list[dict[str, float]] = []
    for number, run in enumerate(real):
        again = simulated(workload, ReplayedCost.of(run.steps, requests=run.requests))
        columns[f"simulator, log of {number}"] = figures(again)
        replayed.append(largest_difference(ttfts_ms(again), ttfts_ms(run.requests)))
    return {
        "load": workload.document(),
        "step_time": fit.document(),
        "columns": columns,
        **differences_of(columns, len(real)),
        "virtual_equals_simulated": ttfts_ms(in_virtual_time) == ttfts_ms(fitted),
        "replayed_log": replayed,
        "error_of_fits_on_the_runs_own_logs": own_errors(workload, real),
        "load_averages": found["load_averages"],
    }


def own_errors(workload: Workload, real: Sequence[ReplayResult]) -> list[dict[str, float]]:
    """Return for each run how far the simulator is off with a model that is fitted on this very run.

    What is left then is the model's form: the machine's speed is that of the run.
    """
    found: list[dict[str, float]] = []
    for run in real:
        measured = figures(run.requests)
        again = figures(simulated(workload, LinearCost.of(moving(fit_step_time(run.steps)))))
        found.append({name: again[name] / measured[name] - 1 for name in measured})
    return found


def moving(fit: StepTimeFit) -> EngineTime:
    """Return what moves the simulated clock."""
    return EngineTime(step=fit.model) if fit.whole is None else fit.whole


def differences_of(columns: Mapping[str, Mapping[str, float]], runs: int) -> dict[str, dict[str, float]]:
    """Return, for each figure, the largest difference between two real runs, and of the simulator to the farthest one."""
    real = [columns[f"real {number}"] for number in range(runs)]
    pairs = list(combinations(real, 2))
    noise = {name: max(max(a[name], b[name]) / min(a[name], b[name]) - 1 for a, b in pairs) for name in real[0]}
    error = {name: max(abs(columns["simulator, fitted"][name] / each[name] - 1) for each in real) for name in real[0]}
    return {"noise_between_real_runs": noise, "error_of_the_simulator": error}


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print one model's table."""
    print(name, "held out:", f"{found['step_time']['held_out']['relative_error']:.1%}")
    for column, values in found["columns"].items():
        print(f"{column:24}", "  ".join(f"{figure} {value:.1f}" for figure, value in values.items()))
    for words, key in (
        ("between real runs:", "noise_between_real_runs"),
        ("simulator to real:", "error_of_the_simulator"),
    ):
        print(words, {figure: f"{value:.1%}" for figure, value in found[key].items()})
    for name in found["noise_between_real_runs"]:
        off = [each[name] for each in found["error_of_fits_on_the_runs_own_logs"]]
        print(f"fitted on the run itself, {name}:", ", ".join(f"{each:+.1%}" for each in off))
    print("virtual equals simulated:", found["virtual_equals_simulated"], "replayed logs:", found["replayed_log"])
    print("load averages:", [f"{each[0]:.1f}" for each in found["load_averages"]])


def main() -> None:
    """Print the columns of each model and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--length-scale", type=float, default=0.2, help="of the trace's prompts and answers")
    parser.add_argument("--load", type=float, default=0.6, help="share of the capacity that a burst shows")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--clock", choices=[*CLOCKS], default="processor")
    parser.add_argument("--keep", type=Path, help="folder that keeps the real runs")
    arguments = parser.parse_args()
    count = arguments.requests * (arguments.runs + 1)
    source = SyntheticLoad(count=count).workload(SEED) if arguments.trace is None else read_trace(arguments.trace)
    for name in arguments.models:
        found = compared(name, source, arguments)
        show(name, found)
        document: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
        document["models"][name] = {
            **provenance("simulated_run.py"),
            "clock": arguments.clock,
            **found,
        }
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
