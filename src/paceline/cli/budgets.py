"""`paceline budgets`: what latency budgets a profile supports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from paceline.accuracy import design_effects
from paceline.analyze import BudgetAnalysis, ConfigPoint, analyze_budgets, analyzed_columns, budgets_document
from paceline.cli.flags.lists import ListFlagCommand
from paceline.cli.flags.profiles import DatasetsOption, ProfileArgument, SkipBadFlag, read_with_pictures
from paceline.cli.printing import JsonFlag, print_json, print_table, say, write_document
from paceline.profiles.atomic import require_file_path
from paceline.records import KnobConfig
from paceline.slo import MeanEstimate

LatencyOption = Annotated[str, typer.Option("--latency", help="Latency kind: ttft, prefill, llm-prefill or total.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON document to this file.")]


def register(app: typer.Typer) -> None:
    """Add `paceline budgets` to the command line."""
    app.command("budgets", cls=ListFlagCommand)(budgets)


def budgets(
    profile: ProfileArgument,
    latency: LatencyOption = "prefill",
    datasets: DatasetsOption = None,
    output: OutputOption = None,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Show percentiles, accuracy-latency fronts and recommended budgets of a profile."""
    if output is not None:
        require_file_path(output)
    columns = analyzed_columns(latency)
    read = read_with_pictures(profile, datasets=datasets, columns=columns, skip_bad=skip_bad)
    analysis = analyze_budgets(read.samples, latency_kind=latency)
    document = budgets_document(analysis)
    if output is not None:
        write_document(output, document)
    if as_json:
        print_json(document)
    else:
        _print_analysis(analysis, design_effects(read.samples) if "metadata" in read.samples.columns else {})


def _print_analysis(analysis: BudgetAnalysis, effects: Mapping[tuple[str, KnobConfig], float]) -> None:
    shown = analysis.percentiles
    names = ("min", "p5", "p25", "median", "p75", "p95", "max", "mean", "std")
    title = f"{analysis.latency_kind} latency over {shown.n:,} samples (ms)"
    print_table(title, names, [[f"{getattr(shown, name):.1f}" for name in names]])
    for name, dataset in analysis.datasets.items():
        print_table(
            f"{name}: front of {len(dataset.front)} out of {len(dataset.points)} configurations",
            ("configuration", "accuracy", "95 % interval", "latency ms", "± std", "n"),
            [_point_row(point, effects.get((name, point.config), 1.0)) for point in dataset.front],
        )
    _print_across(analysis)
    _print_recommended(analysis)
    unused = analysis.on_no_front
    total = len({point.config for dataset in analysis.datasets.values() for point in dataset.points})
    listed = f": {', '.join(config.key for config in unused)}" if unused else ""
    say(f"On no dataset's front: {len(unused)} of {total} configurations{listed}")


def _point_row(point: ConfigPoint, design_effect: float) -> list[str]:
    estimate = MeanEstimate(
        mean=point.accuracy, std=point.accuracy_std, count=point.num_samples, design_effect=design_effect
    )
    spread = f"{point.latency_std_ms:.1f}"
    interval = str(estimate.score_interval() or "-")
    return [
        point.config.key,
        f"{point.accuracy:.3f}",
        interval,
        f"{point.latency_ms:.2f}",
        spread,
        f"{point.num_samples:,}",
    ]


def _print_across(analysis: BudgetAnalysis) -> None:
    across = analysis.across
    similarity = "-" if across.jaccard is None else f"{across.jaccard:.2f}"
    print_table(
        f"Across {len(analysis.datasets)} dataset(s): the fronts' fastest and slowest latency (ms)",
        ("end", "extreme", "mean", "median", "Jaccard similarity"),
        [
            ("fastest", *(f"{ms:.2f}" for ms in (across.min_ms, across.mean_min_ms, across.median_min_ms)), similarity),
            ("slowest", *(f"{ms:.2f}" for ms in (across.max_ms, across.mean_max_ms, across.median_max_ms)), ""),
        ],
    )


def _print_recommended(analysis: BudgetAnalysis) -> None:
    recommended = analysis.recommended
    low, high = recommended.percentile_range_ms
    front_low, front_high = recommended.front_range_ms
    print_table(
        "Recommended budgets (ms)",
        ("from", "low", "high", "sample budgets"),
        [
            ("percentiles", low, f"{high} (safer {recommended.safer_upper_ms})", None),
            ("fronts", front_low, front_high, " ".join(map(str, recommended.budgets_ms))),
        ],
    )
