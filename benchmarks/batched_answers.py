"""What the accuracy pass of a certified profile saves: answers in batches with pictures encoded once a tier, beside the same
answers one at a time, and whether they are the same.

    python benchmarks/batched_answers.py [--questions 16] [--batch-size 32] [--seed 3407]

Writes benchmarks/results/batched_answers.json: on the embedded model, under its whole grid, the processor seconds of an answer
one at a time, in a batch of one configuration (every picture encoded for each), and in a batch whose pictures are encoded once
for a tier's configurations; and how many answers differ from those one at a time. Three rounds, the ways in another order in
each; their seconds stand apart.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from paceline.datasets import DIGIT_SETS, VisualQuestion, digit_questions
from paceline.measure.batched import answer_batched
from paceline.measure.clock import HostClock
from paceline.measure.one_pass import answer_measured
from paceline.models.grid import default_grid
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.records import KnobConfig
from paceline.slo import wilson_interval

RESULTS = Path(__file__).parent / "results" / "batched_answers.json"
MAX_NEW_TOKENS, ROUNDS = 8, 3
Answers = dict[tuple[str, str], str]


def one_at_a_time(
    model: VisionLanguageModel, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]
) -> Answers:
    """Answer each question under each configuration as a profile's requests are: one pass, its stages marked."""
    assert model.block_ranking is not None
    return {
        (each.sample_id, config.key): answer_measured(
            model,
            each.picture,
            each.prompt,
            config,
            ranking=model.block_ranking,
            max_new_tokens=MAX_NEW_TOKENS,
            clock=HostClock(),
        ).text
        for each in questions
        for config in configs
    }


def in_batches(
    model: VisionLanguageModel, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig], batch_size: int
) -> Answers:
    """Answer in batches; configurations that are given together share what the image encoder gave."""
    assert model.block_ranking is not None
    found = answer_batched(
        model,
        questions,
        configs,
        ranking=model.block_ranking,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=batch_size,
    )
    return {(each.question.sample_id, each.config.key): each.text for each in found}


def seconds_of(way: Callable[[], Answers]) -> tuple[float, Answers]:
    """Return the processor seconds of this process, whose only thread computes, and the answers."""
    started = time.process_time()
    answers = way()
    return time.process_time() - started, answers


def main() -> None:
    """Measure the three ways, compare their answers, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--questions", type=int, default=16, help="of each of the three sets, from the validation split"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=3407)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model("digits", device="cpu")
    configs = default_grid(model).configurations()
    questions = [
        each
        for name in DIGIT_SETS
        for each in digit_questions(name, split="validation", count=asked.questions, seed=asked.seed)
    ]
    ways: dict[str, Callable[[], Answers]] = {
        "one at a time": lambda: one_at_a_time(model, questions, configs),
        "in batches": lambda: {
            key: text
            for config in configs
            for key, text in in_batches(model, questions, [config], asked.batch_size).items()
        },
        "in batches, pictures encoded once a tier": lambda: in_batches(model, questions, configs, asked.batch_size),
    }
    one_at_a_time(model, questions[:1], configs)  # what is used for the first time takes longer
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Answers] = {}
    for turn in range(ROUNDS):
        names = list(ways)
        for name in names[turn:] + names[:turn]:
            took, answers[name] = seconds_of(ways[name])
            seconds[name].append(took)
            print(f"{name}: {took:.1f} s", flush=True)
    count = len(questions) * len(configs)
    document: dict[str, Any] = {
        **provenance("batched_answers.py"),
        "threads": 1,
        "answers": count,
        "ways": {
            name: _way(seconds[name], seconds["one at a time"], answers[name], answers["one at a time"])
            for name in ways
        },
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


def _way(seconds: list[float], alone: list[float], answers: Answers, right: Answers) -> dict[str, Any]:
    differing = sum(answers[key] != text for key, text in right.items())
    interval = wilson_interval(differing / len(right), len(right))
    return {
        "processor_seconds": seconds,
        "speedup": [one / other for one, other in zip(alone, seconds, strict=True)],
        "differing": differing,
        "differing_ci": [interval.low, interval.high],
    }


if __name__ == "__main__":
    main()
