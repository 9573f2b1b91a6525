"""`paceline evaluate`: controllers judged on the held-out samples of a profile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from paceline.analyze import ChosenBudgets, default_budgets
from paceline.cli.list_flags import ListFlagCommand, split_numbers
from paceline.cli.printing import (
    LOG,
    OUT,
    JsonFlag,
    print_json,
    print_table,
    progress_bars,
    write_document,
)
from paceline.cli.profile_arguments import DatasetsOption, ProfileArgument, SkipBadFlag, read_listing_left_out
from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.latency_model import LatencyModel
from paceline.estimate.network import NetworkEstimator
from paceline.evaluate import Evaluation, evaluate, evaluation_document
from paceline.evaluate.evaluation import BOUND
from paceline.evaluate.figures import BudgetFigures
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds, split_for
from paceline.fit.estimator_rows import ESTIMATOR_COLUMNS
from paceline.fit.estimator_training import train_estimator
from paceline.profiles import Profile, SampleParts, Split, split_samples
from paceline.profiles.splits import DEFAULT_SEED
from paceline.records import LATENCY_KINDS, LatencyKind

SHOWN = {  # name: how a column is headed
    "table": "table",
    "dataset_tables": "own table",
    "point": "point",
    BOUND: "bound",
    "table_equal_adherence": "table, scaled",
    "oracle": "oracle",
}
BOUND_COLUMNS = ("budget", "accuracy", "kept", "95 % CI", "none fits", "mean", "p95", "mean over")

EstimatorOption = Annotated[
    Path | None,
    typer.Option("--estimator", help="An estimator's directory; its own split is used.", show_default="train one here"),
]
BudgetsOption = Annotated[
    list[str] | None, typer.Option("--budgets", help="Budgets in ms.", show_default="ten from the profile")
]
AlphaOption = Annotated[float, typer.Option("--alpha", help="Share of requests that may exceed their bound.")]
LatencyOption = Annotated[str, typer.Option("--latency", help="Latency kind: prefill or total.")]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of the split and of training.", show_default=str(DEFAULT_SEED))
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON document to this file.")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Also write the charts as one HTML page.")]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What the controllers are built from, and the samples that judge them."""

    model: LatencyModel
    bounds: LatencyBounds
    parts: SampleParts


def register(app: typer.Typer) -> None:
    """Add `paceline evaluate` to the command line."""
    app.command("evaluate", cls=ListFlagCommand)(evaluate_profile)


def evaluate_profile(
    profile: ProfileArgument,
    estimator: EstimatorOption = None,
    budgets: BudgetsOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    latency: LatencyOption = "prefill",
    seed: SeedOption = None,
    datasets: DatasetsOption = None,
    output: OutputOption = None,
    report: ReportOption = None,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Judge tables, estimator, bound and oracle on held-out samples: accuracy, adherence and latency at every budget."""
    asked_ms = split_numbers("budgets", budgets)
    if latency not in LATENCY_KINDS:
        raise UnknownChoiceError("latency kind", latency, LATENCY_KINDS)
    kind: LatencyKind = latency
    read = read_listing_left_out(profile, datasets=datasets, columns=ESTIMATOR_COLUMNS, skip_bad=skip_bad)
    with progress_bars("training the estimator", "judging controllers") as (on_training, on_judging):
        judged = _trained(read, alpha, seed, on_training) if estimator is None else _loaded(read, estimator, seed)
        chosen = _budgets(asked_ms, judged.parts, kind)
        evaluation = evaluate(
            judged.parts.test,
            _controllers(read, judged, alpha, kind),
            budgets_ms=chosen.budgets_ms,
            latency_kind=kind,
            alpha=alpha,
            on_progress=on_judging,
        )
    document = {**evaluation_document(evaluation), "budgets_from": chosen.origin}
    if output is not None:
        write_document(output, document)
    if report is not None:
        _write_report(evaluation, read, report)
    if as_json:
        print_json(document)
    else:
        _print_evaluation(evaluation, chosen)


def _trained(profile: Profile, alpha: float, seed: int | None, on_progress: Progress) -> _Judged:
    names = profile.samples.select("dataset", "sample_id").n_unique()
    split = split_for(names, alpha=alpha, seed=DEFAULT_SEED if seed is None else seed)
    parts = split_samples(profile.samples, split)
    model = train_estimator(parts.fit, split=split, provenance=profile.provenance, on_progress=on_progress).network
    bounds = calibrate_bounds(model, parts, provenance=profile.provenance)
    return _Judged(model=model, bounds=bounds, parts=parts)


def _loaded(profile: Profile, directory: Path, seed: int | None) -> _Judged:
    if seed is not None:
        raise InvalidValueError(
            "--seed", seed, "nothing beside --estimator: samples are parted as they were when it was trained"
        )
    model, bounds = NetworkEstimator.load(directory), load_bounds(directory)
    model.require_model(frozenset(run.model for run in profile.provenance), artifact=directory)
    told = model.description.split
    split = Split(seed=int(told["seed"]), calibration_share=told["calibration_share"], test_share=told["test_share"])
    # a sample's part follows from its name and the split alone: nothing that trained or calibrated it can judge it
    return _Judged(model=model, bounds=bounds, parts=split_samples(profile.samples, split))


def _controllers(profile: Profile, judged: _Judged, alpha: float, kind: LatencyKind) -> dict[str, Controller]:
    return {
        **table_candidates(profile, judged.parts, latency_kind=kind),
        **estimator_candidates(judged.model, judged.bounds, alpha=alpha, latency_kind=kind),
    }


def _budgets(asked_ms: list[float] | None, parts: SampleParts, kind: LatencyKind) -> ChosenBudgets:
    if asked_ms is not None:
        return ChosenBudgets(budgets_ms=tuple(sorted(asked_ms)), origin="as asked for")
    return default_budgets(parts.fit, kind)


def _write_report(evaluation: Evaluation, profile: Profile, path: Path) -> None:
    # charts need an extra that the command does without
    size_bytes = import_module("paceline.report.evaluation").write_evaluation(evaluation, profile, path)
    LOG.print(escape(f"wrote {path} ({size_bytes / 1e6:.2f} MB)"), highlight=False, soft_wrap=True)


def _print_evaluation(evaluation: Evaluation, chosen: ChosenBudgets) -> None:
    left = f"; {evaluation.incomplete:,} lack a configuration and were not judged" if evaluation.incomplete else ""
    OUT.print(
        f"{evaluation.num_requests:,} held-out requests{left}; {evaluation.latency_kind} latency; budgets {chosen.origin}",
        highlight=False,
        soft_wrap=True,
    )
    print_table(
        "Share of requests that kept the budget", *_grid(evaluation, lambda row: row.adherence.share, _best_kept)
    )
    print_table("Mean accuracy of the answers", *_grid(evaluation, lambda row: row.accuracy.mean, _most_accurate))
    print_table(
        "The estimator with bound (times in ms)",
        BOUND_COLUMNS,
        [_bound_row(figures) for figures in evaluation.controllers[BOUND]],
    )
    print_table(
        "Over all budgets: decisions said to fit, and how many of them did",
        ("controller", "decisions", "kept", "95 % CI by requests", "requests"),
        [_pooled_row(name, evaluation) for name in SHOWN if name in evaluation.controllers],
    )
    _print_price(evaluation)


def _grid(
    evaluation: Evaluation,
    figure: Callable[[BudgetFigures], float],
    best_fixed: Callable[[Sequence[BudgetFigures]], float],
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return columns and rows of one figure: a row a budget, a column a controller, the best fixed one first."""
    shown = [name for name in SHOWN if name in evaluation.controllers]
    fixed = [rows for name, rows in evaluation.controllers.items() if name.startswith("fixed_")]
    rows = [
        [
            f"{budget_ms:g}",
            f"{best_fixed([each[place] for each in fixed]):.3f}",
            *(f"{figure(evaluation.controllers[name][place]):.3f}" for name in shown),
        ]
        for place, budget_ms in enumerate(evaluation.budgets_ms)
    ]
    return ("budget", "best fixed", *(SHOWN[name] for name in shown)), rows


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
        return [SHOWN[name], "0", None, None, "0"]
    return [
        SHOWN[name],
        f"{pooled.decisions:,}",
        f"{pooled.share:.3f}",
        str(pooled.interval),
        f"{pooled.requests:,}",
    ]


def _print_price(evaluation: Evaluation) -> None:
    scaled = evaluation.scaled_table
    if scaled is None or scaled.overall is None:
        OUT.print("No fixed configuration keeps any of these budgets often enough to compare against.", highlight=False)
        return
    price = scaled.overall
    OUT.print(
        f"The bound gives up {100 * price.difference:.2f} points of accuracy ({100 * price.interval.low:.2f} to "
        f"{100 * price.interval.high:.2f}, paired, {sum(scaled.counted)} possible budgets) against the table whose "
        "latencies were scaled, in hindsight on these requests, until it kept budgets as often.",
        highlight=False,
        soft_wrap=True,
    )
