"""Does `within_budget` of a time to first token agree with a clock at the caller?

    python benchmarks/caller_clock.py [--questions 60] [--samples 8]

The embedded model is profiled on a few questions, a lookup table of `ttft` is built, and other questions are answered under
budgets over the table's range. The caller's clock starts before `AdaptiveModel.generate` is called with the path of a picture,
and stops when a streamer is handed the first token. Also measured: what lies between the call and preprocessing (opening the
picture, looking at the request, deciding), for a profile's `T_ttft`, on which bounds are calibrated, begins with
preprocessing. Writes benchmarks/results/caller_clock.json.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from transformers.generation.streamers import BaseStreamer

from paceline.datasets import DIGIT_SETS, digit_questions
from paceline.errors import PacelineWarning
from paceline.fit import build_lookup_table
from paceline.measure.profiling import ProfilePlan, run_profile
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.profiles import read_profile
from paceline.runtime import AdaptiveAnswer, AdaptiveModel
from paceline.slo import Proportion

RESULTS = Path(__file__).parent / "results" / "caller_clock.json"
BUDGETS = 5
SEED = 9  # other questions than those profiled
PERCENTS = (5, 50, 95)


class FirstToken(BaseStreamer):
    """Notes the moment at which generate() hands out the first token; the prompt is handed out before it."""

    def __init__(self) -> None:
        self.handed_out = 0
        self.at = 0.0

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then a token at a time."""
        del value
        self.handed_out += 1
        if self.handed_out == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Do nothing: the last token is not asked about."""


class Caller:
    """Asks a model and looks at a clock of its own."""

    def __init__(self, model: AdaptiveModel, folder: Path) -> None:
        self.model, self.folder = model, folder
        transformers_model: Any = model.model.parts.model
        self._generate, self._kind = type(transformers_model).generate, type(transformers_model)

    def ask(self, number: int, prompt: str, budget_ms: float) -> tuple[AdaptiveAnswer, float]:
        """Return an answer and the milliseconds from the call to its first token by the caller's clock."""
        first, generate = FirstToken(), self._generate

        def streamed(model: Any, **inputs: Any) -> Any:
            return generate(model, **inputs, streamer=first)

        self._kind.generate = streamed
        try:
            called = time.perf_counter()
            answer = self.model.generate(self.folder / f"{number}.png", prompt, latency_budget_ms=budget_ms)
            return answer, (first.at - called) * 1e3
        finally:
            self._kind.generate = self._generate


def main() -> None:
    """Profile, answer, compare, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=60, help="answered under each budget")
    arguments.add_argument("--samples", type=int, default=8, help="profiled of each set")
    asked = arguments.parse_args()
    warnings.simplefilter("ignore", PacelineWarning)  # a budget that nothing keeps is one of those asked about
    model = load_model("digits", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        rows = _answered(model, Path(folder), asked.samples, asked.questions)
    budgets = {f"{budget_ms:.1f}": _figures(budget_ms, each) for budget_ms, each in rows.items()}
    document = {
        **provenance("caller_clock.py"),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "budgets": budgets,
        "all": _spread([row for each in rows.values() for row in each]),
    }
    for budget_ms, found in budgets.items():
        print(budget_ms, json.dumps(found))
    print(json.dumps(document["all"], indent=1))
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


Row = tuple[AdaptiveAnswer, float]


def _answered(model: VisionLanguageModel, folder: Path, samples: int, count: int) -> dict[float, list[Row]]:
    plan = ProfilePlan(datasets=DIGIT_SETS, samples=samples, strategy="balanced", max_new_tokens=4)
    run_profile(model, plan, folder / "profile")
    table = build_lookup_table(read_profile(folder / "profile"), latency_kind="ttft")
    low, high = table.latency_range_ms
    budgets_ms = [round(float(each), 1) for each in np.linspace(low, 1.2 * high, BUDGETS)]
    adaptive = AdaptiveModel(model=model, controller=table, max_new_tokens=4)
    questions = [
        question
        for name in DIGIT_SETS
        for question in digit_questions(name, split="test", count=-(-count // len(DIGIT_SETS)), seed=SEED)
    ][:count]
    for number, question in enumerate(questions):
        question.picture.save(folder / f"{number}.png")
    adaptive.warm_up(questions[0].picture, questions[0].prompt, budgets_ms)
    caller, rows = Caller(adaptive, folder), {budget_ms: list[Row]() for budget_ms in budgets_ms}
    for number, question in enumerate(questions):  # budgets take turns, so that drift falls on all alike
        for budget_ms in budgets_ms:
            rows[budget_ms].append(caller.ask(number, question.prompt, budget_ms))
    return rows


def _figures(budget_ms: float, rows: Sequence[Row]) -> dict[str, Any]:
    served = [answer.within_budget for answer, _ in rows]
    by_caller = [caller_ms <= budget_ms for _, caller_ms in rows]
    return {
        "n": len(rows),
        "served_says": str(Proportion(successes=sum(served), count=len(rows))),
        "caller_says": str(Proportion(successes=sum(by_caller), count=len(rows))),
        "said_kept_and_was_not": sum(a and not b for a, b in zip(served, by_caller, strict=True)),
        "said_missed_and_was_not": sum(b and not a for a, b in zip(served, by_caller, strict=True)),
        **_spread(rows),
    }


def _spread(rows: Sequence[Row]) -> dict[str, list[float]]:
    ratios = [caller_ms / answer.measured_ms for answer, caller_ms in rows]
    before_ms = [(answer.times.ahead_ms or 0.0) - answer.times.preprocess_ms for answer, _ in rows]
    shares = [before / answer.measured_ms for before, (answer, _) in zip(before_ms, rows, strict=True)]
    figures = {
        "caller_over_served": ratios,
        "call_to_preprocessing_ms": before_ms,
        "call_to_preprocessing_share_of_ttft": shares,
    }
    return {name: [*np.percentile(values, PERCENTS).tolist(), max(values)] for name, values in figures.items()}


if __name__ == "__main__":
    main()
