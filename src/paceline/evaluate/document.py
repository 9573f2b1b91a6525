"""An evaluation as the JSON document of `paceline evaluate`."""

from typing import Any

from paceline.evaluate.evaluation import Evaluation
from paceline.evaluate.figures import BudgetFigures, PooledFigures
from paceline.evaluate.price import Price, ScaledTable
from paceline.slo import Interval, Proportion


def evaluation_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return every figure of an evaluation with its interval; times are milliseconds, accuracies and shares 0 to 1."""
    possible = evaluation.within_possible
    oracle = evaluation.controllers["oracle"]
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
        "given_up": None if evaluation.scaled_table is None else _given_up(evaluation.scaled_table, evaluation),
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
        "outside": row.outside,
        "mean_latency_ms": row.mean_latency_ms,
        "p95_latency_ms": row.p95_latency_ms,
        "mean_overshoot_ms": row.mean_overshoot_ms,
        "p95_overshoot_ms": row.p95_overshoot_ms,
        "within_possible": within_possible,
        "configs": row.configs,
    }


def _pooled(pooled: PooledFigures) -> dict[str, Any]:
    return {
        "adherence": pooled.share,
        "adherence_ci": _ends(pooled.interval),
        "decisions": pooled.decisions,
        "requests": pooled.requests,
    }


def _given_up(scaled: ScaledTable, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "against": "the table with latencies scaled, in hindsight on the judged samples, to the bound's adherence",
        "overall": None if scaled.overall is None else _price(scaled.overall),
        "budgets": [
            {"budget_ms": budget_ms, "scale": scale, "reached": reached, "counted": counted, **_price(price)}
            for budget_ms, scale, reached, counted, price in zip(
                evaluation.budgets_ms, scaled.scales, scaled.reached, scaled.counted, scaled.prices, strict=True
            )
        ],
    }


def _price(price: Price) -> dict[str, Any]:
    return {"accuracy": price.difference, "accuracy_ci": _ends(price.interval)}


def _proportion(proportion: Proportion | None) -> dict[str, Any] | None:
    if proportion is None:
        return None
    return {"adherence": proportion.share, "adherence_ci": _ends(proportion.interval()), "n": proportion.count}


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
