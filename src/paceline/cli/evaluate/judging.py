"""What the commands that judge controllers build alike: budgets, evaluation and page."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from paceline.analyze import ChosenBudgets, default_budgets
from paceline.cli.printing import note_written
from paceline.control.controller import Controller
from paceline.evaluate import Evaluation, evaluate
from paceline.evaluate.learned_candidates import LearnedCandidates
from paceline.profiles import Profile, SampleParts
from paceline.profiles.request_features import request_vectors
from paceline.records import LatencyKind

Progress = Callable[[int, int], None]


def chosen_budgets(asked_ms: list[float] | None, parts: SampleParts, kind: LatencyKind) -> ChosenBudgets:
    """Return the budgets asked for, ascending, or ten that the fitted part of the profile suggests."""
    if asked_ms is not None:
        return ChosenBudgets(budgets_ms=tuple(sorted(asked_ms)), origin="as asked for")
    return default_budgets(parts.fit, kind)


def judge(
    profile: Profile,
    parts: SampleParts,
    controllers: Mapping[str, Controller],
    learned: LearnedCandidates | None,
    chosen: ChosenBudgets,
    *,
    alpha: float,
    latency_kind: LatencyKind,
    on_progress: Progress,
) -> Evaluation:
    """Judge controllers, and learned ones beside them, on the held-out part.

    Raises ProfileDataError where a learned controller is judged on samples without request vectors.
    """
    return evaluate(
        parts.test,
        controllers if learned is None else {**controllers, **learned.controllers},
        budgets_ms=chosen.budgets_ms,
        latency_kind=latency_kind,
        alpha=alpha,
        vectors=None if learned is None else request_vectors(parts.test, profile.source),
        on_progress=on_progress,
    )


def write_page(evaluation: Evaluation, profile: Profile, learned: LearnedCandidates | None, path: Path) -> None:
    """Write the page of an evaluation, with the learning curves of learned controllers, and say where."""
    curves = {} if learned is None else {name: each.learning for name, each in learned.descriptions.items()}
    # charts need an extra that the commands do without
    size_bytes = import_module("paceline.report.evaluation").write_evaluation(evaluation, profile, path, curves=curves)
    note_written(path, size_bytes=size_bytes)
