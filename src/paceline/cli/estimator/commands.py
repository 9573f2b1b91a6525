"""`paceline estimator`: train a latency estimator on a profile, judge it, and ask it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from paceline.cli.estimator.printing import (
    coverage_document,
    feasible_document,
    prediction_document,
    print_coverage,
    print_evaluation,
    print_feasible,
    print_predictions,
    request_document,
)
from paceline.cli.flags.lists import ListFlagCommand, split_numbers
from paceline.cli.flags.model import DeviceFlag
from paceline.cli.flags.profiles import ProfileArgument, SkipBadFlag, one_source, read_listing_left_out
from paceline.cli.printing import JsonFlag, note, note_written, print_json, progress_bar, say
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.errors import InvalidValueError
from paceline.estimate.bounds import LatencyBounds, require_alpha
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.feasibility import feasible_config
from paceline.estimate.network import NetworkEstimator
from paceline.estimate.request import Knobs, typical_request
from paceline.fit.estimator.artifact import WrittenEstimator, train_artifact
from paceline.fit.estimator.coverage import BoundCoverage, bound_coverage, check_bounds
from paceline.fit.estimator.evaluation import evaluate_estimator, evaluation_document, parts_of
from paceline.fit.estimator.rows import ESTIMATOR_COLUMNS, JOINED_MEANS
from paceline.fit.estimator.settings import DEFAULT_SEED, EstimatorSettings, settings_named
from paceline.profiles import SampleParts
from paceline.records import KnobConfig, RequestFeatures

EstimatorArgument = Annotated[
    Path, typer.Argument(metavar="ESTIMATOR", help="A directory that `paceline estimator train` wrote.")
]
OptionalProfile = Annotated[
    Path | None,
    typer.Argument(metavar="PROFILE", help="A native store, a core-exp directory or a Parquet file of samples."),
]
ResultsOption = Annotated[
    Path | None, typer.Option("--results-dir", "--results_dir", help="The same as PROFILE, by its other name.")
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", "--output-dir", "--output_dir", "-o", help="Directory to write; an estimator there is kept beside it."
    ),
]
DatasetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--datasets",
        "--dataset-names",
        "--dataset_names",
        help="Only these datasets (`-` and `_` alike).",
        show_default="all",
    ),
]
AllDatasetsFlag = Annotated[
    bool, typer.Option("--use-all-datasets", "--use_all_datasets", help="All datasets: what no list means too.")
]
SettingsOption = Annotated[
    str,
    typer.Option(help="fast (large batches, one cycle), or reference (Adam at 0.001, batch 64, 50 epochs)."),
]
LossOption = Annotated[str | None, typer.Option(help="mse, scaled, huber or log.", show_default="that of the settings")]
BatchOption = Annotated[
    int | None, typer.Option("--batch-size", "--batch_size", help="Rows a step.", show_default="of the settings")
]
EpochsOption = Annotated[
    int | None, typer.Option("--num-epochs", "--num_epochs", help="Passes.", show_default="of the settings")
]
RateOption = Annotated[float | None, typer.Option("--lr", help="Learning rate.", show_default="of the settings")]
PatienceOption = Annotated[
    int | None,
    typer.Option(help="Stop after so many rounds without a better loss on a tenth of the fitted samples."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of the split and of training.")]
VisionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--vision-tokens",
        "--vision_tokens",
        help="Image tokens: one number, or one for each tier in order.",
        show_default="the median in training",
    ),
]
TextOption = Annotated[
    int | None,
    typer.Option("--text-tokens", "--text_tokens", help="Text tokens.", show_default="the median in training"),
]
TierOption = Annotated[str | None, typer.Option("--tier", help="Only this tier.")]
TopKOption = Annotated[int | None, typer.Option("--top-k", "--top_k", help="Only this number of experts.")]
BlocksOption = Annotated[
    int | None, typer.Option("--blocks", "--num-active-blocks", "--num_active_blocks", help="Only these active blocks.")
]
BudgetOption = Annotated[float, typer.Option("--budget", help="Milliseconds for the whole answer.")]
ExpectedOption = Annotated[
    float,
    typer.Option("--expected-output-tokens", "--expected_output_tokens", help="Expected length of the answer."),
]
AlphaOption = Annotated[float, typer.Option(help="Share of requests that may exceed their bound.")]


def register(app: typer.Typer) -> None:
    """Add `paceline estimator train`, `eval`, `predict` and `feasible` to the command line."""
    group = typer.Typer(name="estimator", help="Train, judge and ask latency estimators.", no_args_is_help=True)
    for name, command in {"train": train, "eval": evaluate, "predict": predict, "feasible": feasible}.items():
        group.command(name, cls=ListFlagCommand)(command)
    app.add_typer(group)


def train(
    profile: OptionalProfile = None,
    results_dir: ResultsOption = None,
    out: OutOption = Path("estimator"),
    datasets: DatasetsOption = None,
    use_all_datasets: AllDatasetsFlag = False,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
    settings: SettingsOption = "fast",
    loss: LossOption = None,
    batch_size: BatchOption = None,
    num_epochs: EpochsOption = None,
    lr: RateOption = None,
    patience: PatienceOption = None,
    device: DeviceFlag = "cpu",
    seed: SeedOption = DEFAULT_SEED,
) -> None:
    """Train a latency estimator on part of a profile, calibrate its bounds on another, and judge it on the rest."""
    given = {
        "loss": loss,
        "batch_size": batch_size,
        "num_epochs": num_epochs,
        "learning_rate": lr,
        "patience": patience,
    }
    chosen = _settings(settings, seed, {name: value for name, value in given.items() if value is not None})
    source = one_source(profile, results_dir)
    if datasets and use_all_datasets:
        raise InvalidValueError("--use-all-datasets", True, "either it or a list of datasets")
    read = read_listing_left_out(source, datasets=datasets, columns=ESTIMATOR_COLUMNS, skip_bad=skip_bad)
    with progress_bar("training the estimator") as move:
        written = train_artifact(read, out, settings=chosen, device=device, on_progress=move)
    note_written(out, kept=written.kept)
    evaluation = evaluate_estimator(written.trained.network, written.parts, baselines=("config_mean",))
    if as_json:
        print_json({**_training_document(written, out), **evaluation_document(evaluation)})
    else:
        _print_training(written)
        print_evaluation(evaluation, groups=False)
        say(f"\nnext: paceline estimator eval {out} {source}")


def evaluate(
    estimator: EstimatorArgument,
    profile: ProfileArgument,
    datasets: DatasetsOption = None,
    alpha: AlphaOption = DEFAULT_ALPHA,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Judge an estimator on the samples that its training held out, next to baselines, and check its bounds."""
    network, bounds = NetworkEstimator.load(estimator), load_bounds(estimator)
    read = read_listing_left_out(profile, datasets=datasets, columns=ESTIMATOR_COLUMNS, skip_bad=skip_bad)
    parts = parts_of(network, read)
    evaluation = evaluate_estimator(network, parts)
    coverage = _coverage(network, bounds, parts, alpha)
    if as_json:
        print_json({**evaluation_document(evaluation), "coverage": coverage_document(coverage)})
    else:
        print_evaluation(evaluation, groups=True)
        print_coverage(coverage)


def predict(
    estimator: EstimatorArgument,
    as_json: JsonFlag = False,
    vision_tokens: VisionOption = None,
    text_tokens: TextOption = None,
    tier: TierOption = None,
    top_k: TopKOption = None,
    blocks: BlocksOption = None,
) -> None:
    """Show the latencies of one request under a configuration, or under every one that was measured."""
    knobs = Knobs(tier=tier, top_k=top_k, num_active_blocks=blocks)
    network, request, configs = _asked(estimator, vision_tokens, text_tokens, knobs)
    rows = [(config, *network.estimate_one(request, config)) for config in configs]
    outside = _outside(network, request, configs)
    if as_json:
        print_json(
            {**request_document(request, outside), "configurations": [prediction_document(*row) for row in rows]}
        )
    else:
        print_predictions(request, outside, rows)


def feasible(
    estimator: EstimatorArgument,
    budget: BudgetOption,
    expected_output_tokens: ExpectedOption = 1.0,
    as_json: JsonFlag = False,
    vision_tokens: VisionOption = None,
    text_tokens: TextOption = None,
    tier: TierOption = None,
    top_k: TopKOption = None,
    blocks: BlocksOption = None,
) -> None:
    """Show which configurations answer within a budget at an expected length, and how long each may answer."""
    knobs = Knobs(tier=tier, top_k=top_k, num_active_blocks=blocks)
    network, request, configs = _asked(estimator, vision_tokens, text_tokens, knobs)
    found = [
        feasible_config(config, *network.estimate_one(request, config), budget, expected_output_tokens)
        for config in configs
    ]
    outside = _outside(network, request, configs)
    if as_json:
        asked = {"budget_ms": budget, "expected_output_tokens": expected_output_tokens}
        configurations = [feasible_document(each) for each in found]
        print_json({**asked, **request_document(request, outside), "configurations": configurations})
    else:
        print_feasible(request, outside, found, budget, expected_output_tokens)


def _coverage(network: NetworkEstimator, bounds: LatencyBounds, parts: SampleParts, alpha: float) -> BoundCoverage:
    require_alpha(alpha)
    try:
        checks = check_bounds(network, bounds, parts, alpha)
    except InvalidValueError as error:  # too few samples calibrated the bounds for this α
        note(str(error), mark="caution")
        checks = ()
    return bound_coverage(checks, alpha)


def _settings(named: str, seed: int, given: dict[str, Any]) -> EstimatorSettings:
    changes = dict(given)
    if "num_epochs" in given:
        changes["step_choices"] = ()  # as many epochs as asked for, however small the data
    if given.get("loss") not in (None, *JOINED_MEANS):
        changes["join_equal_rows"] = False
    return replace(settings_named(named), seed=seed, **changes)


def _asked(
    estimator: Path, vision_tokens: list[str] | None, text_tokens: int | None, knobs: Knobs
) -> tuple[NetworkEstimator, RequestFeatures, tuple[KnobConfig, ...]]:
    network = NetworkEstimator.load(estimator)
    request = typical_request(
        network.description, vision_tokens=split_numbers("vision_tokens", vision_tokens), text_tokens=text_tokens
    )
    return network, request, knobs.select(network.configs)


def _outside(network: NetworkEstimator, request: RequestFeatures, configs: tuple[KnobConfig, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for config in configs for name in network.outside(request, config)))


def _training_document(written: WrittenEstimator, out: Path) -> dict[str, Any]:
    description = written.trained.description
    return {
        "estimator": str(out),
        "fit_rows": description.num_rows,
        "fit_rows_with_decode": description.num_decode_rows,
        "epochs": written.trained.epochs,
        "resumed_epochs": written.trained.resumed_epochs,
        "training": description.training,
    }


def _print_training(written: WrittenEstimator) -> None:
    trained, description = written.trained, written.trained.description
    resumed = f", {trained.resumed_epochs:,} of them before it was stopped" if trained.resumed_epochs else ""
    how = f"{trained.epochs:,} epochs of {description.training['steps_an_epoch']} steps{resumed}"
    if not trained.epochs:
        how = "by what work costs alone, which no network improved for samples held back"
    say(
        f"Trained on {description.num_rows:,} measurements ({description.num_decode_rows:,} with decode) of "
        f"{', '.join(description.datasets)} under {len(description.configs)} configurations: {how}, "
        f"loss {description.training['loss']}. "
        f"{written.parts.calibration.height:,} more calibrate the bounds; judged on the other "
        f"{written.parts.test.height:,}:",
    )
    if written.parts.left_out:
        say(
            f"Questions share pictures: all of a picture are in one part, and one of them calibrates or judges; "
            f"{written.parts.left_out:,} others of these pictures do neither."
        )
