"""The page of an evaluation: adherence and accuracy against the budget, a line a controller."""

from html import escape
from pathlib import Path
from typing import Any

from paceline.evaluate import Evaluation
from paceline.evaluate.figures import BudgetFigures
from paceline.evaluate.names import BOUND, ORACLE, TABLE
from paceline.profiles import Profile
from paceline.report.charts import budget_chart
from paceline.report.learning import Curves, learning_charts, learning_section
from paceline.report.lines import lines_of, words_of
from paceline.report.parts import (
    Head,
    chart_scripts,
    facts_list,
    filled,
    framed,
    numbers_table,
    provenance_list,
    title_of,
    write_page,
)

COLUMNS = (
    "controller",
    "budget",
    "accuracy",
    "adherence",
    "95 % interval",
    "none fits",
    "refused",
    "mean",
    "p95",
    "mean overshoot",
    "p95 overshoot",
    "most taken",
)

FIRST_SHOWN = (BOUND, TABLE, ORACLE)  # the others' bands would lie on these; a click in the legend draws them
NO_CURVES: Curves = {}

Row = dict[str, Any]


def write_evaluation(evaluation: Evaluation, profile: Profile, out: Path | str, *, curves: Curves = NO_CURVES) -> int:
    """Write the page of an evaluation and return its size in bytes; raises OutputPathError."""
    return write_page(Path(out), evaluation_page(evaluation, profile, curves=curves))


def evaluation_page(evaluation: Evaluation, profile: Profile, *, curves: Curves = NO_CURVES) -> str:
    """Return the page's HTML; nothing in it is loaded from elsewhere.

    `curves` holds the rows of each learned controller's learning curve by its name.
    """
    lines = {words_of(name): line for name, line in lines_of(evaluation.controllers).items()}
    first = [words_of(name) for name in FIRST_SHOWN if name in evaluation.controllers]
    charts = {
        "adherence": budget_chart("adherence", lines, first=first, promised=1 - evaluation.alpha),
        "accuracy": budget_chart("accuracy", lines, first=first),
        **learning_charts(curves),
    }
    cells = {
        "adherence_note": escape(_adherence_note(evaluation)),
        "accuracy_note": escape(_accuracy_note(evaluation)),
        "learning": learning_section(evaluation, curves),
        "numbers_note": escape(_numbers_note(evaluation)),
        "numbers": _numbers(evaluation),
        "provenance": provenance_list(profile),
    }
    summary = facts_list(profile, _facts(evaluation))
    head = Head(kind="Paceline evaluation", heading=title_of(profile), about="controllers", summary=summary)
    scripts = chart_scripts({"rows": evaluation_rows(evaluation), "charts": charts})
    return framed(head, filled("evaluation.html", cells), scripts)


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """Return a row for each charted controller and budget, with 95 % intervals."""
    return [
        _row(name, figures) for name in lines_of(evaluation.controllers) for figures in evaluation.controllers[name]
    ]


def _row(name: str, figures: BudgetFigures) -> Row:
    kept, scored = figures.adherence.interval(), figures.accuracy.score_interval()
    low, high = (None, None) if scored is None else (scored.low, scored.high)
    return {
        "controller": words_of(name),
        "budget_ms": figures.budget_ms,
        "adherence": figures.adherence.share,
        "adherence_low": kept.low,
        "adherence_high": kept.high,
        "accuracy": figures.accuracy.mean,
        "accuracy_low": low,
        "accuracy_high": high,
    }


def _facts(evaluation: Evaluation) -> dict[str, str]:
    facts = {
        "held-out requests": f"{evaluation.num_requests:,}",
        "latency kind": evaluation.latency_kind,
        "promised share": f"{1 - evaluation.alpha:g}",
        "budgets": f"{evaluation.budgets_ms[0]:g} to {evaluation.budgets_ms[-1]:g} ms",
    }
    bound = evaluation.pooled.get(BOUND)
    if bound is not None:
        facts["kept with the bound"] = f"{bound.share:.3f} ({bound.interval})"
    return facts


def _adherence_note(evaluation: Evaluation) -> str:
    impossible = [
        f"{budget_ms:g}"
        for budget_ms, possible in zip(evaluation.budgets_ms, evaluation.within_possible, strict=True)
        if not possible
    ]
    cannot = f" No fixed configuration keeps {', '.join(impossible)} ms that often." if impossible else ""
    return (
        f"Share of requests within their budget, with 95 % intervals (Clopper and Pearson); the dashed line is the share "
        f"{1 - evaluation.alpha:g} that the bound promises.{cannot} A click in the legend draws another "
        "controller, or takes it away."
    )


def _accuracy_note(evaluation: Evaluation) -> str:
    scaled = evaluation.scaled_table
    if scaled is None or scaled.overall is None:
        return "Mean accuracy of the answers, with 95 % intervals."
    price = scaled.overall
    return (
        f"Mean accuracy of the answers, with 95 % intervals. Against a table whose latencies were scaled on these very "
        f"requests until it kept budgets as often, the bound gives up {100 * price.difference:.2f} points "
        f"({100 * price.interval.low:.2f} to {100 * price.interval.high:.2f}, paired, over the "
        f"{sum(scaled.counted)} budgets that some fixed configuration can keep)."
    )


def _numbers_note(evaluation: Evaluation) -> str:
    left = (
        f" {evaluation.incomplete:,} requests lack a configuration and were not judged."
        if evaluation.incomplete
        else ""
    )
    return f"Requests that no part of a controller was learned from; times in milliseconds.{left}"


def _numbers(evaluation: Evaluation) -> str:
    rows = [_number_row(name, figures) for name, each in evaluation.controllers.items() for figures in each]
    return numbers_table(COLUMNS, rows)


def _number_row(name: str, figures: BudgetFigures) -> tuple[str, ...]:
    taken, count = next(iter(figures.configs.items()))
    return (
        words_of(name),
        f"{figures.budget_ms:g}",
        f"{figures.accuracy.mean:.3f}",
        f"{figures.adherence.share:.3f}",
        str(figures.adherence.interval()),
        f"{figures.none_fit:,}",
        f"{figures.refused:,}",
        f"{figures.mean_latency_ms:.2f}",
        f"{figures.p95_latency_ms:.2f}",
        f"{figures.mean_overshoot_ms:.2f}",
        f"{figures.p95_overshoot_ms:.2f}",
        f"{taken} ({count / figures.adherence.count:.0%})",
    )
