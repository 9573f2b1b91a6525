"""What a decision costs where it is made: between the answers of a model that has just used the processor's caches.

    python benchmarks/decision_in_use.py TABLE|ESTIMATOR|CONTROLLER ... [--questions 60] [--budget 35]

Every question is answered by the embedded model under each controller in turn. The controller's own time and that of looking
at the request are as `AdaptiveModel` reports them; `again` is the same decision asked for once more at once, as a benchmark of
decisions alone would find it. Writes benchmarks/results/decision_in_use.json.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from provenance import provenance

from paceline.datasets.digits import DIGIT_SETS, digit_questions
from paceline.errors import PacelineWarning
from paceline.runtime import AdaptiveModel

RESULTS = Path(__file__).parent / "results" / "decision_in_use.json"
FIRST_LEFT_OUT = 5  # the model's first answers under a configuration are slow
SEED = 1


def main() -> None:
    """Answer, time, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("controllers", type=Path, nargs="+")
    arguments.add_argument("--questions", type=int, default=60)
    arguments.add_argument("--budget", type=float, default=35.0)
    asked = arguments.parse_args()
    warnings.simplefilter("ignore", PacelineWarning)  # budgets that nothing keeps cost as much to decide
    models = {
        str(path): AdaptiveModel.from_pretrained("digits", controller=path, max_new_tokens=8)
        for path in asked.controllers
    }
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for name in DIGIT_SETS:
        for question in digit_questions(name, split="test", count=asked.questions, seed=SEED):
            for path, model in models.items():
                answer = model.generate(question.picture, question.prompt, latency_budget_ms=asked.budget)
                features = model.model.features(question.picture, question.prompt)
                model.controller.predict(asked.budget, features=features)
                begun = time.perf_counter()
                model.controller.predict(asked.budget, features=features)
                again_us = (time.perf_counter() - begun) * 1e6
                taken[path].append(
                    {
                        "decision_us": answer.decision_us,
                        "again_us": again_us,
                        "features_us": answer.features_us,
                        "decision_share": answer.decision_us / answer.times.total_ms / 1e3,
                    }
                )
    found = {path: _figures(rows[FIRST_LEFT_OUT:]) for path, rows in taken.items()}
    for path, figures in found.items():
        print(
            path,
            "; ".join(f"{name} {low:.4g} | {median:.4g} | {high:.4g}" for name, (low, median, high) in figures.items()),
        )
    document = {**provenance("decision_in_use.py"), "columns": ["p5", "median", "p95"], "controllers": found}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


def _figures(rows: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(np.percentile([row[name] for row in rows], [5, 50, 95]).tolist()) for name in rows[0]}


if __name__ == "__main__":
    main()
