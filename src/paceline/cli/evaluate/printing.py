"""How an evaluation is printed: what every controller kept and scored, and what learned ones win back."""

from collections.abc import Callable, Sequence

from paceline.analyze import ChosenBudgets
from paceline.cli.printing import print_table, say
from paceline.evaluate import Evaluation
from paceline.evaluate.bootstrap import PairedDifference
from paceline.evaluate.figures import BudgetFigures, mean_adherence
from paceline.evaluate.knob_shares import KnobShares, KnobValue, knob_shares, knob_values
from paceline.evaluate.names import BOUND, ORACLE, ORACLE_WITHIN_BOUND, SCALED_TABLE, TABLE, is_learned
from paceline.evaluate.recovered import LearnedFigures, Recovered

SHOWN = {  # name: how a column is headed; learned controllers come after the bound, by their names
    TABLE: "table",
    "dataset_tables": "own table",
    "point": "point",
    BOUND: "bound",
    SCALED_TABLE: "table, scaled",
    ORACLE_WITHIN_BOUND: "oracle within bound",
    ORACLE: "oracle",
}
KNOBS = {"tier": "tier", "top_k": "experts", "num_active_blocks": "blocks"}
BOUND_COLUMNS = ("budget", "accuracy", "kept", "95 % CI", "none fits", "mean", "p95", "mean over")
RECOVERED_COLUMNS = ("from", "to", "budgets", "gain, points (95 % CI)", "share (95 % CI)")
DECISION_COLUMNS = ("controller", "decisions", "refused", "kept − bound's, points (95 % CI)", "median µs", "p95 µs")


def print_evaluation(evaluation: Evaluation, chosen: ChosenBudgets) -> None:
    """Print the head, the grids, the bound's own figures, the promises kept and their price, and the learned controllers."""
    print_head(evaluation, chosen)
    print_grids(evaluation)
    print_table(
        "The estimator with bound (times in ms)",
        BOUND_COLUMNS,
        [_bound_row(figures) for figures in evaluation.controllers[BOUND]],
    )
    print_table(
        "Over all budgets: decisions said to fit, and how many of them did",
        ("controller", "decisions", "kept", "95 % CI by requests", "requests"),
        [_pooled_row(name, evaluation) for name in shown_names(evaluation)],
    )
    _print_price(evaluation)
    print_learned(evaluation)


def print_head(evaluation: Evaluation, chosen: ChosenBudgets) -> None:
    """Print what was judged: requests, latency kind, and where the budgets come from."""
    left = f"; {evaluation.incomplete:,} lack a configuration and were not judged" if evaluation.incomplete else ""
    say(
        f"{evaluation.num_requests:,} held-out requests{left}; {evaluation.latency_kind} latency; budgets {chosen.origin}",
    )


def print_grids(evaluation: Evaluation) -> None:
    """Print the share of requests that kept each budget and their mean accuracy, a column a controller."""
    print_table(
        "Share of requests that kept the budget", *_grid(evaluation, lambda row: row.adherence.share, _best_kept)
    )
    print_table("Mean accuracy of the answers", *_grid(evaluation, lambda row: row.accuracy.mean, _most_accurate))


def print_learned(evaluation: Evaluation) -> None:
    """Print what each learned controller recovers, refuses, takes by question set, and how long it decides."""
    if not evaluation.learned:
        return
    for name, figures in evaluation.learned.items():
        print_table(
            f"Accuracy won back by {heading_of(name)}, on average over budgets",
            RECOVERED_COLUMNS,
            [_recovered_row(each) for each in figures.recovered],
        )
    _print_distances(evaluation)
    print_table(
        "Decisions over all budgets",
        DECISION_COLUMNS,
        [_decision_row(name, figures, evaluation) for name, figures in evaluation.learned.items()],
    )
    _print_knob_shares(evaluation)


def shown_names(evaluation: Evaluation) -> list[str]:
    """Return the controllers that stand in tables, in their order."""
    names = list(SHOWN)
    after = names.index(BOUND) + 1
    ordered = [*names[:after], *evaluation.learned, *names[after:]]
    return [name for name in ordered if name in evaluation.controllers]


def heading_of(name: str) -> str:
    """Return how the column of a controller is headed."""
    if name.startswith(f"{SCALED_TABLE}_"):
        return "table, scaled to it"
    return SHOWN.get(name, name.replace("_", " "))


def _grid(
    evaluation: Evaluation,
    figure: Callable[[BudgetFigures], float],
    best_fixed: Callable[[Sequence[BudgetFigures]], float],
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return columns and rows of one figure: a row a budget, a column a controller, the best fixed one first if judged."""
    shown = shown_names(evaluation)
    fixed = [rows for name, rows in evaluation.controllers.items() if name.startswith("fixed_")]
    rows = [
        [
            f"{budget_ms:g}",
            *([f"{best_fixed([each[place] for each in fixed]):.3f}"] if fixed else []),
            *(f"{figure(evaluation.controllers[name][place]):.3f}" for name in shown),
        ]
        for place, budget_ms in enumerate(evaluation.budgets_ms)
    ]
    return ("budget", *(["best fixed"] if fixed else []), *(heading_of(name) for name in shown)), rows


def _best_kept(fixed: Sequence[BudgetFigures]) -> float:
    return max(each.adherence.share for each in fixed)


def _most_accurate(fixed: Sequence[BudgetFigures]) -> float:
    return max(each.accuracy.mean for each in fixed)


def _bound_row(figures: BudgetFigures) -> list[str]:
    return [
        f"{figures.budget_ms:g}",
        f"{figures.accuracy.mean:.3f}",
        f"{figures.adherence.share:.3f}",
        str(figures.adherence.interval()),
        f"{figures.none_fit:,}",
        f"{figures.mean_latency_ms:.1f}",
        f"{figures.p95_latency_ms:.1f}",
        f"{figures.mean_overshoot_ms:.2f}",
    ]


def _pooled_row(name: str, evaluation: Evaluation) -> list[str | None]:
    pooled = evaluation.pooled[name]
    if pooled is None:
        return [heading_of(name), "0", None, None, "0"]
    return [
        heading_of(name),
        f"{pooled.decisions:,}",
        f"{pooled.share:.3f}",
        str(pooled.interval),
        f"{pooled.requests:,}",
    ]


def _print_price(evaluation: Evaluation) -> None:
    scaled = evaluation.scaled_table
    if scaled is None or scaled.overall is None:
        say("No fixed configuration keeps any of these budgets often enough to compare against.")
        return
    price = scaled.overall
    say(
        f"The bound gives up {100 * price.difference:.2f} points of accuracy ({100 * price.interval.low:.2f} to "
        f"{100 * price.interval.high:.2f}, paired, {sum(scaled.counted)} possible budgets) against the table whose "
        "latencies were scaled, in hindsight on these requests, until it kept budgets as often.",
    )


def _recovered_row(recovered: Recovered) -> list[str | None]:
    ends, counted = [heading_of(recovered.base), heading_of(recovered.best)], sum(recovered.counted)
    budgets, overall = f"{counted} of {counted + recovered.without_distance}", recovered.overall
    if overall is None:
        return [*ends, budgets, None, None]
    between = "" if overall.interval is None else f" ({overall.interval.low:.3f} to {overall.interval.high:.3f})"
    return [*ends, budgets, _points(overall.gain), None if overall.share is None else f"{overall.share:.3f}{between}"]


def _points(difference: PairedDifference) -> str:
    interval = difference.interval
    return f"{100 * difference.difference:.2f} ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def _print_distances(evaluation: Evaluation) -> None:
    kept = ", ".join(
        f"{heading_of(name)} {mean_adherence(evaluation.controllers[name]):.3f}"
        for name in (TABLE, *evaluation.learned)
        if name in evaluation.controllers
    )
    say(
        "The share is gain over distance, that of the best in hindsight over where the row starts from. Budgets: those "
        "with a distance, of those that some configuration can keep. `table, scaled to it` keeps budgets as often as the "
        f"learned controller does, the table as it is need not; kept over all budgets: {kept}.",
    )


def _decision_row(name: str, figures: LearnedFigures, evaluation: Evaluation) -> list[str | None]:
    times = evaluation.decision_times[name]
    more_kept = figures.adherence_minus_bound
    return [
        heading_of(name),
        f"{times.count:,}",
        f"{sum(row.refused for row in evaluation.controllers[name]):,}",
        None if more_kept is None else _points(more_kept),
        f"{times.median_us:.0f}",
        f"{times.p95_us:.0f}",
    ]


def _print_knob_shares(evaluation: Evaluation) -> None:
    named = {
        name: knob_shares(rows) for name, rows in evaluation.controllers.items() if name == BOUND or is_learned(name)
    }
    by_knob: dict[str, list[KnobValue]] = {}
    for value in knob_values([row for rows in named.values() for row in rows]):
        by_knob.setdefault(value.knob, []).append(value)
    headings = [f"{KNOBS[knob]} {'/'.join(str(value.value) for value in values)}" for knob, values in by_knob.items()]
    for name, rows in named.items():
        print_table(
            f"Over all budgets, {heading_of(name)}: accuracy, and decisions by knob value in %",
            ("question set", "accuracy", *headings),
            [
                [row.dataset, f"{row.accuracy:.3f}", *(_percents(row, each) for each in by_knob.values())]
                for row in rows
            ],
        )


def _percents(row: KnobShares, values: Sequence[KnobValue]) -> str:
    return "/".join(f"{100 * row.shares.get(value, 0.0):.0f}" for value in values)
