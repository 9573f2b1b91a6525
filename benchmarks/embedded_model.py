"""What each knob of the embedded model costs in accuracy and saves in prefill time, turned down alone.

    python benchmarks/embedded_model.py [--questions 500] [--pairs 150]

Writes benchmarks/results/embedded_model.json. Accuracy: the first questions of the held-out test split, the same ones
under every configuration, so that differences are paired (exact sign test over the questions that changed). Prefill time:
ratios within interleaved pairs, median with its distribution-free interval.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provenance import provenance
from scipy.stats import binomtest

from paceline.datasets import DIGIT_SETS, VisualQuestion, digit_questions, score
from paceline.measure.clock import clock_for
from paceline.measure.one_pass import answer_measured
from paceline.models.grid import default_grid
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.records import KnobConfig
from paceline.slo import Proportion, percentile, percentile_interval

RESULTS = Path(__file__).parent / "results" / "embedded_model.json"
MAX_NEW_TOKENS = 8


def turned_down_alone(model: VisionLanguageModel) -> tuple[KnobConfig, list[KnobConfig]]:
    """Return the full configuration and every configuration of the grid that differs from it in one knob."""
    every = default_grid(model).configurations()
    full = max(every, key=lambda config: config.size)
    names = ("tier", "top_k", "num_active_blocks")
    return full, [c for c in every if sum(getattr(c, name) != getattr(full, name) for name in names) == 1]


def prefill_and_accuracy(
    model: VisionLanguageModel, question: VisualQuestion, config: KnobConfig
) -> tuple[float, float]:
    """Answer one question; returns (prefill milliseconds, accuracy)."""
    assert model.block_ranking is not None
    answer = answer_measured(
        model,
        question.picture,
        question.prompt,
        config,
        ranking=model.block_ranking,
        max_new_tokens=MAX_NEW_TOKENS,
        clock=clock_for(model.device),
    )
    accuracy = score(question, answer.text)
    assert accuracy is not None, "a digit question is judged by itself"
    return answer.times.prefill_ms, accuracy


def accuracies(
    model: VisionLanguageModel, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]
) -> dict[KnobConfig, list[float]]:
    """Return the accuracy of every question under every configuration."""
    found: dict[KnobConfig, list[float]] = {config: [] for config in configs}
    for index, question in enumerate(questions):
        for config in configs:
            found[config].append(prefill_and_accuracy(model, question, config)[1])
        if (index + 1) % 100 == 0:
            print(f"{questions[0].dataset}: {index + 1} of {len(questions)} questions", file=sys.stderr, flush=True)
    return found


def prefill_ratios(
    model: VisionLanguageModel, questions: Sequence[VisualQuestion], config: KnobConfig, full: KnobConfig, pairs: int
) -> list[float]:
    """Return prefill time under `config` over that under `full`, pair by pair, in alternating order."""
    ratios: list[float] = []
    for index in range(-3, pairs):
        question = questions[index % len(questions)]
        order = (config, full) if index % 2 else (full, config)
        measured = {each: prefill_and_accuracy(model, question, each)[0] for each in order}
        if index >= 0:
            ratios.append(measured[config] / measured[full])
    return ratios


def paired_change(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Return the change in accuracy, how many questions changed, and whether chance could do it (exact sign test)."""
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    won = sum(a > b for b, a in zip(before, after, strict=True))
    test = binomtest(lost, lost + won) if lost + won else None
    return {
        "change": (won - lost) / len(before),
        "lost": lost,
        "won": won,
        "p_value": test.pvalue if test else 1.0,
        "outside_95": bool(test and test.pvalue < 0.05),
    }


def shown(right: Sequence[float]) -> dict[str, Any]:
    """Return an accuracy with its interval."""
    proportion = Proportion(successes=int(sum(right)), count=len(right))
    interval = proportion.interval()
    return {"accuracy": proportion.share, "ci": [interval.low, interval.high], "n": proportion.count}


def measure(model: VisionLanguageModel, count: int, pairs: int) -> dict[str, Any]:
    """Return accuracy by question set and prefill saved, for the full configuration and each knob turned down."""
    full, lower = turned_down_alone(model)
    sets = {name: digit_questions(name, split="test", count=count) for name in DIGIT_SETS}
    right = {name: accuracies(model, questions, [full, *lower]) for name, questions in sets.items()}
    rows: list[dict[str, Any]] = []
    for config in lower:
        ratios = prefill_ratios(model, sets["digits_read"], config, full, pairs)
        interval = percentile_interval(ratios, 50)
        assert interval is not None
        row: dict[str, Any] = {
            "config": asdict(config),
            "prefill_saved": 1 - percentile(ratios, 50),
            "prefill_saved_ci": [1 - interval.high, 1 - interval.low],
            "sets": {n: shown(r[config]) | paired_change(r[full], r[config]) for n, r in right.items()},
        }
        rows.append(row)
        print(_line(row))
    return {
        "full": {"config": asdict(full), "sets": {n: shown(r[full]) for n, r in right.items()}},
        "turned_down": rows,
    }


def _line(row: dict[str, Any]) -> str:
    low, high = row["prefill_saved_ci"]
    changes = [
        f"{name.removeprefix('digits_')} {each['accuracy']:.3f} ({each['change']:+.3f}{'*' if each['outside_95'] else ''})"
        for name, each in row["sets"].items()
    ]
    config = "/".join(str(value) for value in row["config"].values())
    return f"{config:>12}  prefill {row['prefill_saved']:6.1%} less ({low:.1%} to {high:.1%})  {'  '.join(changes)}"


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=150)
    arguments = parser.parse_args()
    model = load_model("digits")
    document = measure(model, arguments.questions, arguments.pairs)
    for name, each in document["full"]["sets"].items():
        print(
            f"full configuration, {name}: {each['accuracy']:.3f} (95 % CI {each['ci'][0]:.3f} to {each['ci'][1]:.3f})"
        )
    print("* outside the 95 % interval of no change (exact sign test over the questions that changed)")
    document |= {
        **provenance("embedded_model.py"),
        "questions_per_set": arguments.questions,
        "pairs": arguments.pairs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
