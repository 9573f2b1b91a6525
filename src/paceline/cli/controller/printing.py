"""What `paceline controller train` prints: what was learned from, how fast, and how well on requests held back."""

from pathlib import Path
from typing import Any

from paceline.cli.printing import print_facts, say
from paceline.fit.learned.artifact import WrittenController


def training_document(written: WrittenController, out: Path) -> dict[str, Any]:
    """Return what training found as one JSON document."""
    description = written.description
    return {
        "controller": str(out),
        "learner": description.learner,
        "requests": description.num_requests,
        "datasets": list(description.datasets),
        "configs": len(description.configs),
        "seconds": written.seconds,
        "resumed_steps": written.resumed_steps,
        "steps_per_second": written.steps_per_second,
        "rewards_per_second": written.rewards_per_second,
        "model_requests_per_second": written.model_requests_per_second,
        "kept_round": _kept_round(written),
        "training": description.training,
    }


def print_training(written: WrittenController) -> None:
    """Print what was trained on, the speed against running the model, and the round whose weights were kept."""
    description = written.description
    faster = written.rewards_per_second / written.model_requests_per_second
    resumed = f", {written.resumed_steps:,} steps of it before it was stopped" if written.resumed_steps else ""
    say(
        f"Trained {description.learner} on {description.num_requests:,} requests of {', '.join(description.datasets)} "
        f"under {len(description.configs)} configurations in {written.seconds:.1f} s{resumed}.",
    )
    rows = [
        ("steps a second", f"{written.steps_per_second:,.1f}"),
        (
            "rewards a second",
            f"{written.rewards_per_second:,.0f}, each of a request under a configuration; running the model gives "
            f"{written.model_requests_per_second:,.1f}, so this is {faster:,.0f} times as many",
        ),
    ]
    print_facts("", rows)
    say("\nThe round whose weights were kept:")
    print_facts("", [(name.replace("_", " "), f"{value:.6g}") for name, value in _kept_round(written).items()])


def _kept_round(written: WrittenController) -> dict[str, float]:
    return min(written.description.learning, key=lambda row: row["validation_loss"])
