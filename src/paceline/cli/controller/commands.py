"""`paceline controller`: train a learned controller on a profile, and judge it on the held-out part."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.controller.printing import print_training, training_document
from paceline.cli.evaluate.judging import chosen_budgets, judge, write_page
from paceline.cli.evaluate.printing import print_grids, print_head, print_learned
from paceline.cli.flags.lists import ListFlagCommand, split_numbers
from paceline.cli.flags.profiles import DatasetsOption, ProfileArgument, SkipBadFlag, read_listing_left_out
from paceline.cli.printing import JsonFlag, note_written, print_json, progress_bar, say, write_document
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.control.learned.description import DESCRIPTION_FILE, read_chooser_description
from paceline.control.learned.reward import Reward
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.evaluate import evaluation_document
from paceline.evaluate.learned_candidates import load_learned_candidates
from paceline.evaluate.names import BOUND, TABLE
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.held_out import judged_with
from paceline.fit.learned.artifact import CHOOSER_COLUMNS, ControllerSettings, train_controller
from paceline.fit.learned.settings import DEFAULT_SEED
from paceline.profiles.atomic import require_file_path
from paceline.records import LATENCY_KINDS

USUAL = Reward()

ControllerArgument = Annotated[
    Path, typer.Argument(metavar="CONTROLLER", help="A directory that `paceline controller train` wrote.")
]
EstimatorOption = Annotated[
    Path | None,
    typer.Option(
        "--estimator", help="The estimator whose bounds it keeps to; it is copied in.", show_default="required"
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Directory to write; a controller there is kept beside.")]
LearnerOption = Annotated[
    str, typer.Option("--learner", help="supervised (predicts accuracies) or grpo (learns by trying).")
]
LatencyOption = Annotated[
    str | None,
    typer.Option("--latency", help="Latency kind: ttft, prefill or total.", show_default="ttft, if the profile has it"),
]
AlphaOption = Annotated[float, typer.Option("--alpha", help="Share of requests that may exceed their bound.")]
LatencyWeightOption = Annotated[
    float, typer.Option("--latency-weight", help="What nearing and passing the budget costs; accuracy counts 1.")
]
OvershootWeightOption = Annotated[
    float, typer.Option("--overshoot-weight", help="What the square of the share beyond the budget costs.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", help="Seed of training; samples are parted as the estimator's were.")
]
BudgetsOption = Annotated[
    list[str] | None, typer.Option("--budgets", help="Budgets in ms.", show_default="ten from the profile")
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON document to this file.")]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Also write the charts as one HTML page.")]


def register(app: typer.Typer) -> None:
    """Add `paceline controller train` and `eval` to the command line."""
    group = typer.Typer(name="controller", help="Train and judge learned controllers.", no_args_is_help=True)
    for name, command in {"train": train, "eval": evaluate}.items():
        group.command(name, cls=ListFlagCommand)(command)
    app.add_typer(group)


def train(
    profile: ProfileArgument,
    estimator: EstimatorOption = None,
    out: OutOption = Path("controller"),
    learner: LearnerOption = "supervised",
    latency: LatencyOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    latency_weight: LatencyWeightOption = USUAL.latency_weight,
    overshoot_weight: OvershootWeightOption = USUAL.overshoot_weight,
    datasets: DatasetsOption = None,
    seed: SeedOption = DEFAULT_SEED,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Learn from a profile which configuration suits which request, within the bounds of an estimator; no model runs."""
    if latency not in (None, *LATENCY_KINDS):
        raise UnknownChoiceError("latency kind", latency, LATENCY_KINDS)
    settings = ControllerSettings(
        learner=learner,
        reward=Reward(latency_weight=latency_weight, overshoot_weight=overshoot_weight),
        latency_kind=latency,
        alpha=alpha,
        seed=seed,
    )
    source = _required(estimator, profile)
    read = read_listing_left_out(profile, datasets=datasets, columns=CHOOSER_COLUMNS, skip_bad=skip_bad)
    with progress_bar("training the controller") as move:
        written = train_controller(read, source, out, settings=settings, on_progress=move)
    note_written(out, kept=written.kept)
    if as_json:
        print_json(training_document(written, out))
    else:
        print_training(written)
        say(f"\nnext: paceline controller eval {out} {profile}")


def evaluate(
    controller: ControllerArgument,
    profile: ProfileArgument,
    budgets: BudgetsOption = None,
    datasets: DatasetsOption = None,
    output: OutputOption = None,
    report: ReportOption = None,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Judge a learned controller on the samples held out from it, between table, bound and the best in hindsight."""
    asked_ms = split_numbers("budgets", budgets)
    for path in (output, report):
        if path is not None:
            require_file_path(path)
    description, _ = read_chooser_description(controller / DESCRIPTION_FILE)
    kind, alpha = description.latency_kind, description.alpha
    learned = load_learned_candidates([controller], alpha=alpha, latency_kind=kind)
    read = read_listing_left_out(profile, datasets=datasets, columns=CHOOSER_COLUMNS, skip_bad=skip_bad)
    judged = judged_with(read, learned.estimator)
    chosen = chosen_budgets(asked_ms, judged.parts, kind)
    candidates = {
        TABLE: table_candidates(read, judged.parts, latency_kind=kind)[TABLE],
        BOUND: estimator_candidates(judged.model, judged.bounds, alpha=alpha, latency_kind=kind)[BOUND],
    }
    with progress_bar("judging controllers") as move:
        evaluation = judge(
            read, judged.parts, candidates, learned, chosen, alpha=alpha, latency_kind=kind, on_progress=move
        )
    document = {**evaluation_document(evaluation), "budgets_from": chosen.origin, "controller": str(controller)}
    if output is not None:
        write_document(output, document)
    if report is not None:
        write_page(evaluation, read, learned, report)
    if as_json:
        print_json(document)
    else:
        print_head(evaluation, chosen)
        print_grids(evaluation)
        print_learned(evaluation)


def _required(estimator: Path | None, profile: Path) -> Path:
    if estimator is None:
        expected = f"an estimator's directory; train one first: paceline estimator train {profile} --out estimator"
        raise InvalidValueError("--estimator", None, expected)
    return estimator
