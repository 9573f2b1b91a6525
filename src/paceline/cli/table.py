"""`paceline table`: build lookup tables from profiles, and show what a table decides."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from paceline.analyze import analyzed_columns
from paceline.cli.flags.lists import ListFlagCommand, split_numbers
from paceline.cli.flags.profiles import DatasetsOption, SkipBadFlag, one_source, read_listing_left_out
from paceline.cli.printing import JsonFlag, note, note_written, print_json, print_table, say
from paceline.control import AggregationMethod, LookupTable
from paceline.control.certificate import Certificate
from paceline.control.table_entry import DEFAULT_TOLERANCE
from paceline.errors import InvalidValueError, PacelineWarning, UnknownChoiceError
from paceline.fit import build_dataset_tables, build_lookup_table, save_table
from paceline.profiles.atomic import require_file_path
from paceline.records import LATENCY_KINDS, Decision, LatencyKind
from paceline.slo import MeanEstimate

PROFILE_HELP = "A native store, a core-exp directory or a Parquet file of samples."
ProfileArgument = Annotated[Path | None, typer.Argument(metavar="PROFILE", help=PROFILE_HELP)]
ResultsOption = Annotated[
    Path | None, typer.Option("--results-dir", "--results_dir", help="The same as PROFILE, by its other name.")
]
OutputOption = Annotated[
    Path, typer.Option("--output-file", "--output_file", "-o", help="Table file; one that exists is kept beside it.")
]
MethodOption = Annotated[
    str,
    typer.Option("--aggregation-method", "--aggregation_method", help="mean, median or max_accuracy (optimistic)."),
]
ToleranceOption = Annotated[float, typer.Option("--tolerance", help="Share by which a latency may exceed the budget.")]
KindOption = Annotated[
    str | None,
    typer.Option("--latency", help="Latency kind: ttft, prefill or total (for analysis only).", show_default="prefill"),
]
PrefillFlag = Annotated[
    bool, typer.Option("--use-prefill-only", "--use_prefill_only", help="The same as --latency prefill.")
]
TotalFlag = Annotated[
    bool, typer.Option("--use-total-latency", "--use_total_latency", help="The same as --latency total.")
]
PerDatasetFlag = Annotated[bool, typer.Option("--per-dataset", help="Write a table for each dataset too.")]
BudgetsOption = Annotated[
    list[str] | None,
    typer.Option("--budgets", help="Budgets in ms to decide for.", show_default="where the decision changes"),
]
COLUMNS = ("budget", "configuration", "accuracy (95 % CI)", "latency ± std", "n", "fits")


def register(app: typer.Typer) -> None:
    """Add `paceline table build` and `paceline table show` to the command line."""
    table = typer.Typer(name="table", help="Build and show lookup tables.", no_args_is_help=True)
    table.command("build", cls=ListFlagCommand)(build)
    table.command("show", cls=ListFlagCommand)(show)
    app.add_typer(table)


def build(
    profile: ProfileArgument = None,
    results_dir: ResultsOption = None,
    output_file: OutputOption = Path("table.json"),
    datasets: DatasetsOption = None,
    aggregation_method: MethodOption = "mean",
    tolerance: ToleranceOption = DEFAULT_TOLERANCE,
    latency: KindOption = None,
    use_prefill_only: PrefillFlag = False,
    use_total_latency: TotalFlag = False,
    per_dataset: PerDatasetFlag = False,
    budgets: BudgetsOption = None,
    skip_bad: SkipBadFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Build a lookup table from a profile and show what it decides."""
    kind = _latency_kind(latency, use_prefill_only, use_total_latency)
    shown_ms = split_numbers("budgets", budgets)
    source = one_source(profile, results_dir)
    require_file_path(output_file)
    read = read_listing_left_out(source, datasets=datasets, columns=analyzed_columns(kind), skip_bad=skip_bad)
    method = cast(AggregationMethod, aggregation_method)  # checked where the table is built
    tables = {output_file: build_lookup_table(read, aggregation_method=method, latency_kind=kind, tolerance=tolerance)}
    if per_dataset:
        each = build_dataset_tables(read, aggregation_method=method, latency_kind=kind, tolerance=tolerance)
        for name, table in each.items():
            tables[output_file.with_name(f"{output_file.stem}-{name}{output_file.suffix}")] = table
    for path, table in tables.items():
        kept = save_table(table, path)
        note_written(path, kept=kept)
    _show_table(tables[output_file], shown_ms, as_json)


def _latency_kind(latency: str | None, use_prefill_only: bool, use_total_latency: bool) -> LatencyKind:
    if latency not in (None, *LATENCY_KINDS):
        raise UnknownChoiceError("latency kind", latency, LATENCY_KINDS)
    flags = {"--use-prefill-only": use_prefill_only, "--use-total-latency": use_total_latency}
    named = [name for name, given in {**flags, "--latency": latency is not None}.items() if given]
    if len(named) > 1:
        raise InvalidValueError("latency kind", " and ".join(named), "one of them: a table holds latencies of one kind")
    return latency or ("total" if use_total_latency else "prefill")


def show(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A table file.")],
    budgets: BudgetsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a table's latency range, its decision at each budget, and its statistics."""
    _show_table(LookupTable.load(table), split_numbers("budgets", budgets), as_json)


def _show_table(table: LookupTable, budgets_ms: Sequence[float] | None, as_json: bool) -> None:
    asked_ms = budgets_ms or table.thresholds_ms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)  # every row says for itself whether it is within its budget
        decisions = [(budget_ms, table.predict(budget_ms)) for budget_ms in asked_ms]
    for caution in table.cautions:
        note(caution, mark="caution")
    if as_json:
        print_json(_document(table, decisions))
    else:
        _print_decisions(table, decisions)


def _print_decisions(table: LookupTable, decisions: Sequence[tuple[float, Decision]]) -> None:
    statistics, metadata = table.statistics, table.metadata
    (low_ms, high_ms), (least, most) = statistics.latency_range_ms, statistics.accuracy_range
    lines = (
        f"{statistics.num_configs} configurations, {metadata.num_profiling_results:,} samples of "
        f"{', '.join(metadata.datasets)}; aggregated by {metadata.aggregation_method}, tolerance {metadata.tolerance:g}",
        f"{table.latency_kind} latency {low_ms:.2f} to {high_ms:.2f} ms (median {statistics.latency_median_ms:.2f}, "
        f"mean {statistics.latency_mean_ms:.2f}, std {statistics.latency_std_ms:.2f}); accuracy {least:.3f} to {most:.3f}",
    )
    say("\n".join(lines))
    print_table(
        "Decisions (times in ms)", COLUMNS, [_row(table, budget_ms, decision) for budget_ms, decision in decisions]
    )
    unused = ", ".join(entry.config.key for entry in table.never_taken) or "none"
    if table.certificate is not None:
        print_certificate(table.certificate)
    say(
        f"Never taken at any budget: {len(table.never_taken)} of {statistics.num_configs} configurations ({unused})",
    )


def print_certificate(certificate: Certificate) -> None:
    """Print what a certificate holds: each claim of its sequence, and the questions behind it."""
    mix = ", ".join(f"{count:,} of {name}" for name, count in certificate.mix.items())
    say(
        f"Certificate (epsilon {certificate.epsilon:g}, delta {certificate.delta:g}, {certificate.rule}): {certificate.sentence}"
        + (f"; {certificate.stopped}" if certificate.stopped else "")
    )
    for claim in certificate.claims:
        say(f"  {claim}")
    say(
        f"  about a mix of {mix}; {certificate.choosing_questions:,} other questions chose the sequence, fixed as plan "
        f"{certificate.plan_sha256[:12]} before the first certifying answer; seed {certificate.seed}"
    )


def _row(table: LookupTable, budget_ms: float, decision: Decision) -> list[object]:
    entry = table.entry_of(decision.config)
    estimate = MeanEstimate(mean=entry.accuracy, std=entry.accuracy_std, count=entry.num_samples)
    # an interval of the mean says nothing about a median or a single best sample
    interval = estimate.score_interval() if table.metadata.aggregation_method == "mean" else None
    accuracy = f"{entry.accuracy:.3f} ({interval})" if interval else f"{entry.accuracy:.3f}"
    latency = f"{entry.latency_ms:.2f} ± {entry.latency_std_ms:.2f}"
    fits = "yes" if decision.within_budget else "no"
    return [f"{budget_ms:g}", entry.config.key, accuracy, latency, f"{entry.num_samples:,}", fits]


def _document(table: LookupTable, decisions: Sequence[tuple[float, Decision]]) -> dict[str, Any]:
    return {
        "latency_kind": table.latency_kind,
        "num_configs": len(table.entries),
        "latency_range_ms": list(table.latency_range_ms),
        "accuracy_range": list(table.accuracy_range),
        "decisions": [_decision_document(budget_ms, decision) for budget_ms, decision in decisions],
        "never_taken": [entry.config.key for entry in table.never_taken],
        "cautions": list(table.cautions),
        "certificate": None if table.certificate is None else table.certificate.document(),
    }


def _decision_document(budget_ms: float, decision: Decision) -> dict[str, str | int | float | bool | None]:
    return {
        "budget_ms": budget_ms,
        "tier": decision.config.tier,
        "top_k": decision.config.top_k,
        "num_active_blocks": decision.config.num_active_blocks,
        "accuracy": decision.accuracy,
        "latency_ms": decision.latency_ms,
        "num_samples": decision.num_samples,
        "within_budget": decision.within_budget,
    }
