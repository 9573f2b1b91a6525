"""Whether the embedded model answers right, for every question under every configuration: what the choices under load are
judged by.

    python benchmarks/digit_answers.py [--questions 150] [--seed 3407]

Writes benchmarks/results/digit_answers.json: for each question set, a line of 0 and 1 a configuration, one character a
question. Accuracy alone: questions are answered in batches, and nothing is timed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from provenance import provenance

from paceline.datasets import DIGIT_SETS, digit_questions
from paceline.measure.batched import answer_batched
from paceline.models.grid import default_grid
from paceline.models.loading import load_model

RESULTS = Path(__file__).parent / "results" / "digit_answers.json"
MAX_NEW_TOKENS = 8
BATCH = 50


def main() -> None:
    """Answer, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=150, help="of each set, from the test split")
    parser.add_argument("--seed", type=int, default=3407)
    arguments = parser.parse_args()
    model = load_model("digits")
    assert model.block_ranking is not None
    configs = default_grid(model).configurations()
    found: dict[str, dict[str, str]] = {}
    for name in DIGIT_SETS:
        questions = list(digit_questions(name, count=arguments.questions, split="test", seed=arguments.seed))
        right: dict[str, list[str]] = {config.key: [] for config in configs}
        answers = answer_batched(
            model, questions, configs, ranking=model.block_ranking, max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH
        )
        for answer in answers:
            assert answer.accuracy in (0.0, 1.0), "a digit question is right or wrong"
            right[answer.config.key].append(str(int(answer.accuracy)))
        found[name] = {key: "".join(each) for key, each in right.items()}
        print(name, {key: round(each.count("1") / len(each), 3) for key, each in found[name].items()}, flush=True)
    document: dict[str, Any] = {
        **provenance("digit_answers.py"),
        "split": "test",
        "seed": arguments.seed,
        "questions": arguments.questions,
        "answers": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
