"""What a step-time target buys: time to first token against time per output token, by target and by useful chunk.

    .venv-vllm/bin/python benchmarks/target_curve.py [--requests 1000] [--seeds 3]

Needs vLLM; no model runs. Its own scheduler class serves synthetic texts in virtual time (`timed_loads`): deterministic.
24, 30 and 36 requests a second are offered. Rows are every `target_time_ms` with every `target_base_share`; beside them no
target, and the rule of before, which cut every step to the target and gave no prefill where decodes alone exceed it. The
first and the last tenth of the requests are left out. Writes benchmarks/results/target_curve.json.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paired import mean_with_interval
from provenance import provenance
from timed_loads import STEP_TIME, Shape, TimedRun, serve_timed, text_load, tiny_config

import paceline.schedule.planner
from paceline.errors import InvalidValueError
from paceline.schedule import StepLoad
from paceline.schedule.step_time import largest_chunk, with_chunk
from paceline.slo import percentile
from paceline.vllm_plugin import scheduler

RESULTS = Path(__file__).parent / "results" / "target_curve.json"
RATES = (30.0, 24.0, 36.0)
SHAPE = Shape(step_tokens=256, running=32)
TARGETS_MS = (7.0, 9.0, 12.0, 14.0)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)
NO_TARGET, OLD_RULE = "no target", "rule of before"
Settings = Mapping[str, object]


def settings_to_compare() -> dict[str, Settings]:
    """Return every setting by name."""
    found: dict[str, Settings] = {NO_TARGET: {}}
    for target in TARGETS_MS:
        given = {"target_time_ms": target, "step_time": STEP_TIME.document()}
        found[f"{OLD_RULE}, {target:g} ms"] = {**given, "target_base_share": 1.0}
        for share in SHARES:
            found[f"{target:g} ms, share {share}"] = {**given, "target_base_share": share}
    return found


def use_the_rule_of_before() -> Any:
    """Let plans cut every step to the target, whatever decodes; returns what undoes it."""
    step: Any = vars(paceline.schedule.planner)["_StepUnderway"]
    present = step._fitting

    def fitting(self: Any, request: Any, most: int) -> int:
        target_ms = self.settings.target_time_ms
        return largest_chunk(
            self._model, self._load, context_tokens=request.context_tokens, most_tokens=most, target_ms=target_ms
        )

    step._fitting = fitting
    return lambda: setattr(step, "_fitting", present)


def figures(run: TimedRun, requests: int) -> dict[str, float]:
    """Return TTFT and TPOT of the middle requests, and the steps of the run."""
    middle = [each for each in run.requests if requests // 10 <= int(each.request_id) < requests - requests // 10]
    ttft = [each.ttft_ms for each in middle]
    tpot = [each.tpot_ms for each in middle if each.tpot_ms is not None]
    return {
        "ttft_p50_ms": percentile(ttft, 50),
        "ttft_p99_ms": percentile(ttft, 99),
        "tpot_p50_ms": percentile(tpot, 50),
        "tpot_p99_ms": percentile(tpot, 99),
        "step_p99_ms": percentile([step.execute_ms for step in run.steps], 99),
        "steps": float(len(run.steps)),
    }


def measured(config: Any, name: str, own: Settings, *, rate: float, requests: int, seeds: int) -> dict[str, Any]:
    """Serve the loads of all seeds under a setting; a setting that is refused says why."""
    found: list[dict[str, float]] = []
    undo = use_the_rule_of_before() if name.startswith(OLD_RULE) else lambda: None
    try:
        for seed in range(seeds):
            load = text_load(requests, rate=rate, seed=seed)
            run = serve_timed(config, load, SHAPE, scheduler, paceline=own)
            found.append(figures(run, requests))
    except InvalidValueError as error:
        return {"refused": str(error)}
    finally:
        undo()
    return {key: mean_with_interval([each[key] for each in found]) for key in found[0]}


def print_markdown(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table: means over seeds, with the reach of the 95 % interval."""
    keys = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "step_p99_ms", "steps")
    print("| setting | " + " | ".join(keys) + " |\n" + "|---" * (len(keys) + 1) + "|")
    for name, row in rows.items():
        cells: Sequence[str] = ["refused"] if "refused" in row else [_cell(row[key]) for key in keys]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _cell(figure: Mapping[str, Any]) -> str:
    reach = "" if figure["ci"] is None else f" ± {figure['ci'][1] - figure['mean']:.2g}"
    return f"{figure['mean']:.4g}{reach}"


def main() -> None:
    """Serve every setting, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_config(folder)
        for rate in RATES:
            tables[f"{rate:g}"] = {
                name: measured(config, name, own, rate=rate, requests=arguments.requests, seeds=arguments.seeds)
                for name, own in settings_to_compare().items()
            }
            print(f"\n{rate:g} requests a second\n", flush=True)
            print_markdown(tables[f"{rate:g}"])
    document = {
        **provenance("target_curve.py"),
        "load": "synthetic: Poisson arrivals, by requests a second",
        "step_tokens": SHAPE.step_tokens,
        "running": SHAPE.running,
        "step_time": STEP_TIME.document(),
        "alone_ms": {
            str(tokens): STEP_TIME.predict_ms(with_chunk(StepLoad(), chunk_tokens=tokens, context_tokens=0))
            for tokens in (32, 64, 128, 256)
        },
        "rows": tables,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
