"""`paceline accuracy`: accuracies of a profile by type of question, and how far configurations differ."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.accuracy import ACCURACY_COLUMNS, AccuracyAnalysis, GroupAccuracy, accuracy_document, analyze_accuracy
from paceline.cli.flags.lists import ListFlagCommand
from paceline.cli.flags.profiles import DatasetsOption, ProfileArgument, SkipBadFlag, read_listing_left_out
from paceline.cli.printing import JsonFlag, print_json, print_table, say, write_document
from paceline.profiles import Profile
from paceline.profiles.questions import AskedQuestion, Key, read_questions
from paceline.records import KnobConfig

AgainstOption = Annotated[
    str | None,
    typer.Option(help="Configuration that the others are compared with, as low_4_16.", show_default="the largest"),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON document to this file.")]


def register(app: typer.Typer) -> None:
    """Add `paceline accuracy` to the command line."""
    app.command("accuracy", cls=ListFlagCommand)(accuracy)


def accuracy(
    profile: ProfileArgument,
    datasets: DatasetsOption = None,
    against: AgainstOption = None,
    output: OutputOption = None,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Show a profile's accuracies by type of question, and configurations compared on the same questions."""
    named = None if against is None else KnobConfig.from_key(against)
    read = read_listing_left_out(profile, datasets=datasets, columns=ACCURACY_COLUMNS, skip_bad=skip_bad)
    analysis = analyze_accuracy(read.samples, against=named, questions=_questions(read))
    document = {**accuracy_document(analysis), "scorers": _scorers(read)}
    if output is not None:
        write_document(output, document)
    if as_json:
        print_json(document)
    else:
        _print_analysis(analysis, _scorers(read))


def _questions(profile: Profile) -> dict[Key, AskedQuestion]:
    return read_questions(profile.source) if profile.source.is_dir() else {}


def _scorers(profile: Profile) -> dict[str, str]:
    return {name: scorer for run in profile.provenance for name, scorer in run.datasets.items()}


def _print_analysis(analysis: AccuracyAnalysis, scorers: dict[str, str]) -> None:
    for dataset in dict.fromkeys(each.dataset for each in analysis.overall):
        overall = [each for each in analysis.overall if each.dataset == dataset]
        columns = ("configuration", "accuracy", "95 % interval", "questions", "pictures", "count RMSE")
        title = f"{dataset}, scorer {scorers.get(dataset, 'not recorded')}"
        print_table(title, columns, [(each.config.key, *_figures(each)) for each in overall])
        best = max(overall, key=lambda each: each.accuracy.mean).config
        types = [each for each in analysis.by_type if each.dataset == dataset and each.config == best]
        if types:
            title = f"{dataset} by type, under its most accurate configuration {best.key}"
            print_table(title, ("type", *columns[1:]), [(each.label, *_figures(each)) for each in types])
        _print_differences(analysis, dataset)
    say("Intervals count pictures: questions about one picture are not independent.")


def _figures(group: GroupAccuracy) -> tuple[object, ...]:
    rmse = None if group.count_rmse is None else f"{group.count_rmse:.3f}"
    return f"{group.accuracy.mean:.3f}", group.interval, f"{group.accuracy.count:,}", f"{group.pictures:,}", rmse


def _print_differences(analysis: AccuracyAnalysis, dataset: str) -> None:
    pairs = [each for each in analysis.differences if each.dataset == dataset]
    if not pairs:
        return
    rows = [
        (
            each.config.key,
            f"{each.difference:+.3f}",
            None if each.interval is None else f"{each.interval.low:+.3f} to {each.interval.high:+.3f}",
            f"{each.questions:,}",
            each.better,
            each.worse,
        )
        for each in pairs
    ]
    columns = ("configuration", "difference", "95 % interval", "same questions", "better", "worse")
    print_table(f"{dataset}: against {pairs[0].against.key} on the same questions", columns, rows)
