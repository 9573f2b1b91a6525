"""What bound, learned controllers and tables take as the slider moves, judged on requests that they were not made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.evaluate import Evaluation, evaluate
from paceline.evaluate.figures import BudgetFigures
from paceline.evaluate.learned_candidates import load_learned_candidates
from paceline.evaluate.names import BOUND, DATASET_TABLES, TABLE, is_learned
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.estimator.rows import ESTIMATOR_COLUMNS
from paceline.fit.held_out import judged_with
from paceline.fit.learned.artifact import CHOOSER_COLUMNS
from paceline.profiles import read_profile
from paceline.profiles.request_features import request_vectors
from paceline.records import LatencyKind
from paceline.report.lines import words_of

TABLES = (TABLE, DATASET_TABLES)
MOST_BUDGETS = 40  # of the slider's: each is a decision for every held-out request


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedWith:
    """What is judged, and tables with it: an estimator, and learned controllers that share it; with these alone, theirs."""

    estimator: Path | None = None
    learned: tuple[Path, ...] = ()
    alpha: float = 0.05


def judged_on_slider(
    profile_path: Path, budgets_ms: Sequence[float], asked: DecidedWith, *, latency_kind: LatencyKind
) -> dict[str, Any] | None:
    """Return what each controller promised, kept and took at up to forty of the slider's budgets; None where none is asked.

    Beside them are tables, built from what the estimator was trained and calibrated on, so that the same held-out requests
    judge all of them.
    Raises EstimatorError or ControllerError for files that cannot be trusted, and ProfileDataError where a learned controller
    is asked about samples without request vectors.
    """
    if asked.estimator is None and not asked.learned:
        return None
    learned = (
        load_learned_candidates(asked.learned, alpha=asked.alpha, latency_kind=latency_kind, estimator=asked.estimator)
        if asked.learned
        else None
    )
    estimator = asked.estimator if learned is None else learned.estimator
    assert estimator is not None
    profile = read_profile(profile_path, columns=ESTIMATOR_COLUMNS if learned is None else CHOOSER_COLUMNS)
    judged = judged_with(profile, estimator)
    found = estimator_candidates(judged.model, judged.bounds, alpha=asked.alpha, latency_kind=latency_kind)
    tables = table_candidates(profile, judged.parts, latency_kind=latency_kind)
    controllers = {
        BOUND: found[BOUND],
        **({} if learned is None else learned.controllers),
        **{name: tables[name] for name in TABLES},
    }
    return decided_document(
        evaluate(
            judged.parts.test,
            controllers,
            budgets_ms=budgets_ms[:: -(-len(budgets_ms) // MOST_BUDGETS)],
            latency_kind=latency_kind,
            alpha=asked.alpha,
            vectors=None if learned is None else request_vectors(judged.parts.test, profile.source),
        )
    )


def decided_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return the rows of the bound, of every learned controller and of the tables, as the page's script reads them.

    A table says of a budget that a mean fits, which is no promise: `promises` is False.
    """
    named = [name for name in evaluation.controllers if name in (BOUND, *TABLES) or is_learned(name)]
    named.sort(key=lambda name: name in TABLES)
    return {
        "budgets": list(evaluation.budgets_ms),
        "requests": evaluation.num_requests,
        "asked": 1 - evaluation.alpha,
        "controllers": [
            {
                "words": words_of(name),
                "promises": name not in TABLES,
                "rows": [_row(each) for each in evaluation.controllers[name]],
            }
            for name in named
        ],
    }


def _row(figures: BudgetFigures) -> dict[str, Any]:
    taken, count = next(iter(figures.configs.items()))
    promised, accuracy = figures.promised, figures.accuracy.score_interval()
    kept = None
    if promised is not None:
        interval = promised.interval()
        kept = [round(each, 3) for each in (promised.share, interval.low, interval.high)]
    return {
        "promised": 0 if promised is None else promised.count,
        "kept": kept,
        "accuracy": round(figures.accuracy.mean, 3),
        "accuracy_ends": None if accuracy is None else [round(accuracy.low, 3), round(accuracy.high, 3)],
        "taken": taken,
        "taken_share": round(count / figures.adherence.count, 3),
    }
