"""An evaluation as the JSON document of `paceline evaluate`."""

from dataclasses import asdict
from typing import Any

from paceline.evaluate.bootstrap import PairedDifference
from paceline.evaluate.evaluation import Evaluation
from paceline.evaluate.figures import BudgetFigures, PooledFigures
from paceline.evaluate.names import BOUND, ORACLE
from paceline.evaluate.price import ScaledTable
from paceline.evaluate.recovered import LearnedFigures, Recovered, Recovery
from paceline.slo import Interval, Proportion


def evaluation_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return every figure of an evaluation with its interval; times are milliseconds, accuracies and shares 0 to 1."""
    possible = evaluation.within_possible
    oracle = evaluation.controllers[ORACLE]
    return {
        "latency_kind": evaluation.latency_kind,
        "alpha": evaluation.alpha,
        "n": evaluation.num_requests,
        "incomplete": evaluation.incomplete,
        "budgets": [
            {
                "budget_ms": budget_ms,
                "within_possible": possible[place],
                "best_fixed_adherence": evaluation.best_fixed_adherence[place],
                "oracle_adherence": oracle[place].adherence.share,
            }
            for place, budget_ms in enumerate(evaluation.budgets_ms)
        ],
        "controllers": {
            name: [_row(row, within) for row, within in zip(rows, possible, strict=True)]
            for name, rows in evaluation.controllers.items()
        },
        "pooled": {name: None if each is None else _pooled(each) for name, each in evaluation.pooled.items()},
        "given_up": None if evaluation.scaled_table is None else _given_up(BOUND, evaluation.scaled_table, evaluation),
        "learned": {name: _learned(name, each, evaluation) for name, each in evaluation.learned.items()},
        "decision_us": {name: asdict(times) for name, times in evaluation.decision_times.items()},
    }


def _row(row: BudgetFigures, within_possible: bool) -> dict[str, Any]:
    return {
        "budget_ms": row.budget_ms,
        "accuracy": row.accuracy.mean,
        "accuracy_ci": _ends(row.accuracy.score_interval()),
        "adherence": row.adherence.share,
        "adherence_ci": _ends(row.adherence.interval()),
        "promised": _proportion(row.promised),
        "none_fit": row.none_fit,
        "refused": row.refused,
        "outside": row.outside,
        "mean_latency_ms": row.mean_latency_ms,
        "p95_latency_ms": row.p95_latency_ms,
        "mean_overshoot_ms": row.mean_overshoot_ms,
        "p95_overshoot_ms": row.p95_overshoot_ms,
        "within_possible": within_possible,
        "configs": row.configs,
        "configs_by_dataset": row.configs_by_dataset,
        "accuracy_by_dataset": row.accuracy_by_dataset,
    }


def _pooled(pooled: PooledFigures) -> dict[str, Any]:
    return {
        "adherence": pooled.share,
        "adherence_ci": _ends(pooled.interval),
        "decisions": pooled.decisions,
        "requests": pooled.requests,
    }


def _given_up(name: str, scaled: ScaledTable, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "against": f"the table with latencies scaled, in hindsight on the judged samples, to the adherence of {name}",
        "overall": None if scaled.overall is None else _accuracy(scaled.overall),
        "budgets": [
            {"budget_ms": budget_ms, "scale": scale, "reached": reached, "counted": counted, **_accuracy(price)}
            for budget_ms, scale, reached, counted, price in zip(
                evaluation.budgets_ms, scaled.scales, scaled.reached, scaled.counted, scaled.prices, strict=True
            )
        ],
    }


def _learned(name: str, figures: LearnedFigures, evaluation: Evaluation) -> dict[str, Any]:
    more_kept, scaled = figures.adherence_minus_bound, figures.scaled_table
    return {
        "recovered": [_recovered(each, evaluation) for each in figures.recovered],
        "adherence_minus_bound": None
        if more_kept is None
        else {"adherence": more_kept.difference, "adherence_ci": _ends(more_kept.interval)},
        "refused": sum(row.refused for row in evaluation.controllers[name]),
        "decisions": len(evaluation.budgets_ms) * evaluation.num_requests,
        "given_up": None if scaled is None else _given_up(name, scaled, evaluation),
    }


def _recovered(recovered: Recovered, evaluation: Evaluation) -> dict[str, Any]:
    rows = zip(evaluation.budgets_ms, recovered.counted, recovered.budgets, strict=True)
    return {
        "from": recovered.base,
        "to": recovered.best,
        "budgets_counted": sum(recovered.counted),
        "budgets_without_distance": recovered.without_distance,
        "overall": None if recovered.overall is None else _recovery(recovered.overall),
        "budgets": [{"budget_ms": budget, "counted": counted, **_recovery(each)} for budget, counted, each in rows],
    }


def _recovery(recovery: Recovery) -> dict[str, Any]:
    return {
        "share": recovery.share,
        "share_ci": _ends(recovery.interval),
        "gain": _accuracy(recovery.gain),
        "distance": recovery.distance,
    }


def _accuracy(difference: PairedDifference) -> dict[str, Any]:
    return {"accuracy": difference.difference, "accuracy_ci": _ends(difference.interval)}


def _proportion(proportion: Proportion | None) -> dict[str, Any] | None:
    if proportion is None:
        return None
    return {"adherence": proportion.share, "adherence_ci": _ends(proportion.interval()), "n": proportion.count}


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
