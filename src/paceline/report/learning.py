"""The part of an evaluation's page that is about learned controllers: what they win back, what they take, how they learned."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from paceline.evaluate import Evaluation
from paceline.evaluate.bootstrap import PairedDifference
from paceline.evaluate.figures import mean_adherence
from paceline.evaluate.knob_shares import knob_shares, knob_values
from paceline.evaluate.names import BOUND, TABLE, is_learned, scaled_table_for
from paceline.evaluate.recovered import LearnedFigures, Recovered, Recovery
from paceline.report.charts import learning_chart
from paceline.report.lines import lines_of, words_of
from paceline.report.parts import numbers_table, table

Curves = Mapping[str, Sequence[Mapping[str, float]]]

OWN_TABLE = "table at its adherence"
IN_HINDSIGHT = ", in hindsight"  # said once above the table
RECOVERED_COLUMNS = (
    "controller",
    "from",
    "to",
    "share",
    "95 % interval",
    "gain, points",
    "95 % interval",
    "budgets",
)
BUDGET_COLUMNS = (
    "controller",
    "from",
    "to",
    "budget",
    "counted",
    "gain, points",
    "95 % interval",
    "distance, points",
    "share",
    "95 % interval",
)
DECISION_COLUMNS = (
    "controller",
    "decisions",
    "refused",
    "kept, minus the bound's, points",
    "95 % interval",
    "median µs",
    "p95 µs",
)


def learning_section(evaluation: Evaluation, curves: Curves) -> str:
    """Return the sections about learned controllers; nothing where none was judged."""
    if not evaluation.learned:
        return ""
    sections = [_recovered_section(evaluation), _knobs_section(evaluation)]
    return "\n".join([*sections, _curves_section(curves)] if curves else sections)


def learning_charts(curves: Curves) -> dict[str, dict[str, Any]]:
    """Return the specification of each figure's learning curve, named `learning_` and the figure."""
    colours = {words_of(name): colour for name, (colour, _) in lines_of(curves).items()}
    return {f"learning_{figure}": learning_chart(colours, _rows(figure, curves)) for figure in _figures(curves)}


def _recovered_section(evaluation: Evaluation) -> str:
    each = [(name, found) for name, figures in evaluation.learned.items() for found in figures.recovered]
    summary = table(RECOVERED_COLUMNS, [_recovered_row(name, found) for name, found in each])
    by_budget = [row for name, found in each for row in _budget_rows(name, found, evaluation.budgets_ms)]
    decisions = [_decision_row(name, figures, evaluation) for name, figures in evaluation.learned.items()]
    return _section(
        "recovered",
        "What learning wins back",
        _recovered_note(evaluation),
        summary + numbers_table(BUDGET_COLUMNS, by_budget) + table(DECISION_COLUMNS, decisions),
    )


def _recovered_note(evaluation: Evaluation) -> str:
    kept = ", ".join(
        f"{words_of(name)} {mean_adherence(rows):.3f}"
        for name, rows in evaluation.controllers.items()
        if name == TABLE or is_learned(name)
    )
    return (
        "The share is gain over distance, in accuracy: what the learned controller gains over the first controller, over "
        "what the best choice in hindsight gains over it; intervals resample requests, pairs kept. It counts the budgets "
        "with a distance, where the best in hindsight is above the first, of those that some fixed configuration can keep. "
        "The table at its adherence was scaled, in hindsight too, until it kept budgets as often as the learned controller; "
        "the table as it is need not, so the "
        f"distance from it says less. Kept over all budgets: {kept}. A decision is refused where the request lies "
        "beyond training, or the learned choice no longer fits since the machine became slower: then the choice of the "
        "estimator with bound is taken."
    )


def _recovered_row(name: str, recovered: Recovered) -> tuple[str, ...]:
    ends = _ends(name, recovered)
    counted = sum(recovered.counted)
    budgets = f"{counted} of {counted + recovered.without_distance}"
    if recovered.overall is None:
        return *ends, "", "", "", "", budgets
    return *ends, *_share(recovered.overall), *_points(recovered.overall.gain), budgets


def _budget_rows(name: str, recovered: Recovered, budgets_ms: Sequence[float]) -> list[tuple[str, ...]]:
    return [
        (
            *_ends(name, recovered),
            f"{budget_ms:g}",
            "yes" if counted else "no",
            *_points(each.gain),
            f"{100 * each.distance:.2f}",
            *_share(each),
        )
        for budget_ms, counted, each in zip(budgets_ms, recovered.counted, recovered.budgets, strict=True)
    ]


def _ends(name: str, recovered: Recovered) -> tuple[str, ...]:
    scaled = recovered.base == scaled_table_for(name)
    names = words_of(name), OWN_TABLE if scaled else words_of(recovered.base), words_of(recovered.best)
    return tuple(each.removesuffix(IN_HINDSIGHT) for each in names)


def _points(difference: PairedDifference) -> tuple[str, str]:
    interval = difference.interval
    return f"{100 * difference.difference:.2f}", f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"


def _share(recovery: Recovery) -> tuple[str, str]:
    share, interval = recovery.share, recovery.interval
    return (
        "" if share is None else f"{share:.3f}",
        "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}",
    )


def _decision_row(name: str, figures: LearnedFigures, evaluation: Evaluation) -> tuple[str, ...]:
    times, more_kept = evaluation.decision_times[name], figures.adherence_minus_bound
    return (
        words_of(name),
        f"{times.count:,}",
        f"{sum(row.refused for row in evaluation.controllers[name]):,}",
        *(("", "") if more_kept is None else _points(more_kept)),
        f"{times.median_us:.0f}",
        f"{times.p95_us:.0f}",
    )


def _knobs_section(evaluation: Evaluation) -> str:
    named = {
        name: knob_shares(rows) for name, rows in evaluation.controllers.items() if name == BOUND or is_learned(name)
    }
    values = knob_values([row for rows in named.values() for row in rows])
    cells = [
        (words_of(name), row.dataset, f"{row.accuracy:.3f}", *(f"{row.shares.get(value, 0):.0%}" for value in values))
        for name, rows in named.items()
        for row in rows
    ]
    return _section(
        "knobs",
        "What is taken for which question set",
        "Mean accuracy over all budgets, and the share of decisions that took each value of a knob.",
        table(("controller", "question set", "accuracy", *(value.words for value in values)), cells),
    )


def _curves_section(curves: Curves) -> str:
    panels = "".join(
        f'<figure class="panel"><h3>{escape(figure.replace("_", " "))}</h3>'
        f'<div class="chart" data-chart="learning_{escape(figure)}"></div></figure>'
        for figure in _figures(curves)
    )
    legend = "".join(
        f'<li><span class="mark line" style="border-color:{colour}"></span>{escape(words_of(name))}</li>'
        for name, (colour, _) in lines_of(curves).items()
    )
    note = "Figures of training by step; those called validation are of requests that training did not learn from."
    return _section(
        "curves", "How they learned", note, f'<ul class="legend">{legend}</ul><div class="panels">{panels}</div>'
    )


def _section(name: str, title: str, note: str, content: str) -> str:
    return f'<section aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2><p>{escape(note)}</p>{content}</section>'


def _figures(curves: Curves) -> list[str]:
    """Return the figures that some row of a curve has, in the order that they come in."""
    named = (figure for rows in curves.values() for row in rows for figure in row if figure != "step")
    return list(dict.fromkeys(named))


def _rows(figure: str, curves: Curves) -> list[dict[str, Any]]:
    return [
        {"controller": words_of(name), "step": row["step"], "value": row[figure]}
        for name, rows in curves.items()
        for row in rows
        if figure in row
    ]
