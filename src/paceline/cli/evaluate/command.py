"""`paceline evaluate`: controllers judged on the held-out samples of a profile."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from paceline.analyze import ChosenBudgets
from paceline.cli.evaluate.judging import Progress, chosen_budgets, judge, write_page
from paceline.cli.evaluate.printing import print_evaluation
from paceline.cli.flags.lists import ListFlagCommand, split_list, split_numbers
from paceline.cli.flags.profiles import DatasetsOption, ProfileArgument, SkipBadFlag, read_with_pictures
from paceline.cli.printing import JsonFlag, print_json, progress_bars, write_document
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.evaluate import Evaluation, evaluation_document
from paceline.evaluate.learned_candidates import LearnedCandidates, load_learned_candidates
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds, parts_of_profile, usual_split
from paceline.fit.estimator.rows import ESTIMATOR_COLUMNS
from paceline.fit.estimator.training import train_estimator
from paceline.fit.held_out import Judged, judged_with
from paceline.fit.learned.artifact import CHOOSER_COLUMNS
from paceline.profiles import Profile
from paceline.profiles.atomic import require_file_path
from paceline.profiles.splits import DEFAULT_SEED
from paceline.records import LATENCY_KINDS, LatencyKind

EstimatorOption = Annotated[
    Path | None,
    typer.Option(
        "--estimator",
        help="An estimator's directory; its own split is used.",
        show_default="that of the controllers, or train one here",
    ),
]
ControllerOption = Annotated[
    list[str] | None,
    typer.Option("--controller", help="Directories of learned controllers to judge too.", show_default="none"),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of the split and of training.", show_default=str(DEFAULT_SEED))
]
BudgetsOption = Annotated[
    list[str] | None, typer.Option("--budgets", help="Budgets in ms.", show_default="ten from the profile")
]
AlphaOption = Annotated[float, typer.Option("--alpha", help="Share of requests that may exceed their bound.")]
LatencyOption = Annotated[
    str | None,
    typer.Option(
        "--latency", help="Latency kind: ttft, prefill or total.", show_default="the learned controllers', else prefill"
    ),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON document to this file.")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Also write the charts as one HTML page.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _JudgedToo:
    """What is judged besides the tables: an estimator and learned controllers, or an estimator trained here."""

    estimator: Path | None
    controller: list[str] | None
    seed: int | None


def register(app: typer.Typer) -> None:
    """Add `paceline evaluate` to the command line."""
    app.command("evaluate", cls=ListFlagCommand)(evaluate_profile)


def evaluate_profile(
    profile: ProfileArgument,
    budgets: BudgetsOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    latency: LatencyOption = None,
    datasets: DatasetsOption = None,
    output: OutputOption = None,
    report: ReportOption = None,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
    estimator: EstimatorOption = None,
    controller: ControllerOption = None,
    seed: SeedOption = None,
) -> None:
    """Judge tables, estimator, bound, learned controllers and oracle on held-out samples at every budget."""
    asked_ms = split_numbers("budgets", budgets)
    for path in (output, report):
        if path is not None:
            require_file_path(path)
    if latency not in (None, *LATENCY_KINDS):
        raise UnknownChoiceError("latency kind", latency, LATENCY_KINDS)
    judged_too = _JudgedToo(estimator=estimator, controller=controller, seed=seed)
    learned = _learned(judged_too, alpha, latency)
    kind = latency or ("prefill" if learned is None else learned.latency_kind)
    columns = ESTIMATOR_COLUMNS if learned is None else CHOOSER_COLUMNS
    read = read_with_pictures(profile, datasets=datasets, columns=columns, skip_bad=skip_bad)
    with progress_bars("training the estimator", "judging controllers") as (on_training, on_judging):
        judged = _judged(read, judged_too, learned, alpha, on_training)
        chosen = chosen_budgets(asked_ms, judged.parts, kind)
        candidates = {
            **table_candidates(read, judged.parts, latency_kind=kind),
            **estimator_candidates(judged.model, judged.bounds, alpha=alpha, latency_kind=kind),
        }
        evaluation = judge(
            read, judged.parts, candidates, learned, chosen, alpha=alpha, latency_kind=kind, on_progress=on_judging
        )
    if report is not None:
        write_page(evaluation, read, learned, report)
    _tell(evaluation, chosen, output, as_json=as_json)


def _tell(evaluation: Evaluation, chosen: ChosenBudgets, output: Path | None, *, as_json: bool) -> None:
    document = {**evaluation_document(evaluation), "budgets_from": chosen.origin}
    if output is not None:
        write_document(output, document)
    if as_json:
        print_json(document)
    else:
        print_evaluation(evaluation, chosen)


def _learned(flags: _JudgedToo, alpha: float, kind: LatencyKind | None) -> LearnedCandidates | None:
    directories = [Path(each) for each in split_list(flags.controller) or ()]
    if not directories:
        return None
    return load_learned_candidates(directories, alpha=alpha, latency_kind=kind, estimator=flags.estimator)


def _judged(
    profile: Profile, flags: _JudgedToo, learned: LearnedCandidates | None, alpha: float, on_progress: Progress
) -> Judged:
    estimator = flags.estimator if learned is None else learned.estimator
    if estimator is None:
        return _trained(profile, alpha, DEFAULT_SEED if flags.seed is None else flags.seed, on_progress)
    if flags.seed is not None:
        raise InvalidValueError(
            "--seed",
            flags.seed,
            "nothing beside --estimator or --controller: samples are parted as they were when it was trained",
        )
    return judged_with(profile, estimator)


def _trained(profile: Profile, alpha: float, seed: int, on_progress: Progress) -> Judged:
    split = usual_split(profile, alpha=alpha, seed=seed)
    parts = parts_of_profile(profile, split)
    model = train_estimator(parts.fit, split=split, provenance=profile.provenance, on_progress=on_progress).network
    bounds = calibrate_bounds(model, parts, provenance=profile.provenance)
    return Judged(model=model, bounds=bounds, parts=parts)
