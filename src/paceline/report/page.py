"""The report page: one HTML file that needs no network, built from a profile's samples."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from paceline.analyze import BudgetAnalysis, LatencyPercentiles, analyze_budgets
from paceline.control import LookupTable
from paceline.fit import build_dataset_tables, build_lookup_table
from paceline.profiles import CONFIGURATION, Profile, read_profile
from paceline.profiles.sentinels import read_drifts
from paceline.records import LatencyKind
from paceline.report import figures
from paceline.report.certified import certificate_section
from paceline.report.charts import TIER_COLOURS, chart_specifications
from paceline.report.decisions import DecidedWith, judged_on_slider
from paceline.report.load_effects import load_section
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

READ_COLUMNS = (
    "dataset",
    "sample_id",
    *CONFIGURATION,
    "accuracy",
    *figures.STAGES.values(),
    "T_total",
    "T_ttft",
)
KIND_WORDS = {"ttft": "Time to first token", "prefill": "Prefill latency", "total": "Total latency"}
TABLES_ALONE = DecidedWith()
DECIDED = (
    "<p>On held-out requests, from which no part of these was made (tables here are of the others):</p>"
    '<dl class="taken" id="decided" aria-live="polite"></dl>'
)
BUILT_FROM_ALL = "Tables, accuracies and shares kept are all of the same samples here, which flatters tables a little"
FIRST_SHOWN_SHARE = 0.5  # where the slider stands when the page opens


def write_report(
    profile_path: Path | str,
    out: Path | str,
    *,
    latency_kind: LatencyKind = "prefill",
    decided_with: DecidedWith = TABLES_ALONE,
    under_load: Path | str | None = None,
) -> int:
    """Write the page of a profile and return its size in bytes; raises OutputPathError when `out` cannot be written.

    With `decided_with` the slider tells what the bound and learned controllers take too. `under_load` is the document of
    `paceline verify --under-load`.
    """
    profile = read_for_report(Path(profile_path))
    loads = load_section(None if under_load is None else Path(under_load))
    budgets_ms = figures.slider_budgets_ms(analyze_budgets(profile.samples, latency_kind=latency_kind))
    decided = judged_on_slider(Path(profile_path), budgets_ms, decided_with, latency_kind=latency_kind)
    return write_page(Path(out), report_page(profile, latency_kind=latency_kind, decided=decided, loads=loads))


def read_for_report(path: Path) -> Profile:
    """Return a profile with the columns that its page shows."""
    profile = read_profile(path, columns=READ_COLUMNS)
    if any(run.sources for run in profile.provenance):  # public sets ask several questions about one picture
        return read_profile(path, columns=(*READ_COLUMNS, "metadata"))
    return profile


def report_page(
    profile: Profile,
    *,
    latency_kind: LatencyKind = "prefill",
    decided: Mapping[str, Any] | None = None,
    loads: str = "",
) -> str:
    """Return the page's HTML; nothing in it is loaded from elsewhere.

    `decided` is what `judged_on_slider` returns, `loads` the section that `load_section` does.
    """
    samples = profile.samples
    analysis = analyze_budgets(samples, latency_kind=latency_kind)
    tables = build_dataset_tables(profile, latency_kind=latency_kind)
    document = _figures(profile, analysis, build_lookup_table(profile, latency_kind=latency_kind), tables)
    document["decided"] = decided
    datasets = tuple(analysis.datasets)
    shares = figures.dataset_percentiles(samples, latency_kind, datasets)
    cells = {
        "last_budget": str(len(document["budgets"]) - 1),
        "first_shown": str(int(FIRST_SHOWN_SHARE * len(document["budgets"]))),
        "tier_legend": _tier_legend(document["rows"]["front"]),
        "panels": "\n".join(_panel(name, analysis, document["rows"]["front"][name]) for name in datasets),
        "front_note": _front_note(analysis, tables, held_out=decided is not None),
        "stages_note": _stages_note(figures.measured_stages(samples)),
        "stages_numbers": _stage_numbers(document["rows"]["stages"], figures.measured_stages(samples)),
        "histogram_note": _histogram_note(analysis.percentiles, latency_kind),
        "percentile_numbers": _percentile_numbers({**shares, "all": analysis.percentiles}),
        "knobs": "\n".join(_knob_panel(knob) for knob in document["knobs"]),
        "loads": loads,
        "decided": "" if decided is None else DECIDED,
        "certificate": certificate_section(profile.source),
        "provenance": provenance_list(profile),
    }
    head = Head(
        kind="Paceline profile report",
        heading=title_of(profile),
        summary=_summary(profile, analysis),
        skip_to="budget",
        skip_words="the budget slider",
    )
    return framed(head, filled("profile.html", cells), chart_scripts(document, "profile.js"))


def _figures(
    profile: Profile, analysis: BudgetAnalysis, table: LookupTable, tables: Mapping[str, LookupTable]
) -> dict[str, Any]:
    samples, kind = profile.samples, analysis.latency_kind
    budgets_ms = figures.slider_budgets_ms(analysis)
    of_all = figures.taken_keys(table, budgets_ms)
    taken = {name: {"global": of_all, "own": figures.taken_keys(own, budgets_ms)} for name, own in tables.items()}
    unfit = figures.unfit_budgets(table, budgets_ms)
    pictures = figures.shared_pictures(samples)
    knobs = figures.knob_rows(samples, kind, pictures)
    percentiles = figures.percentile_rows(samples, kind)
    cuts = analysis.percentiles
    return {
        "budgets": budgets_ms,
        "global": of_all,
        "unfit": {
            name: {"global": unfit, "own": figures.unfit_budgets(own, budgets_ms)} for name, own in tables.items()
        },
        "global_unfit": unfit,
        "taken": taken,
        "kept": figures.kept_shares(samples, kind, budgets_ms, taken, pictures),
        "rows": {
            "front": figures.front_rows(analysis, samples, pictures),
            "stages": figures.stage_rows(samples),
            "histogram": figures.histogram_rows(samples, kind),
            "percentiles": percentiles,
            "knobs": knobs,
        },
        "cuts": [{"cut": cut, "ms": round(getattr(cuts, cut), 4)} for cut in ("p5", "median", "p95")],
        "knobs": list(knobs),
        "charts": chart_specifications(
            kind, (budgets_ms[0], budgets_ms[-1]), figures.measured_stages(samples), len(percentiles)
        ),
    }


def _summary(profile: Profile, analysis: BudgetAnalysis) -> str:
    configs = {point.config for dataset in analysis.datasets.values() for point in dataset.points}
    low, high = analysis.recommended.front_range_ms
    facts = {
        "samples": f"{analysis.percentiles.n:,}",
        "configurations": str(len(configs)),
        "datasets": str(len(analysis.datasets)),
        f"median {analysis.latency_kind} latency": f"{analysis.percentiles.median:.1f} ms",
        "recommended budgets": f"{low} to {high} ms",
    }
    drifts = read_drifts(profile.source)
    if drifts:
        facts["speed during the run"] = "; ".join(map(str, drifts))
    return facts_list(profile, facts)


def _tier_legend(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    present = {row["tier"] for each in rows.values() for row in each}
    return "\n".join(
        f'<li><span class="mark dot" style="background:{colour}"></span>tier {tier}</li>'
        for tier, colour in TIER_COLOURS.items()
        if tier in present and tier != "all"
    )


def _panel(name: str, analysis: BudgetAnalysis, rows: Sequence[Mapping[str, Any]]) -> str:
    dataset, shown = analysis.datasets[name], escape(name)
    numbers = numbers_table(
        ("configuration", "accuracy", "95 % interval", "latency ms", "95 % interval", "n", "front"),
        [
            (
                row["key"],
                f"{row['accuracy']:.3f}",
                _interval(row, "accuracy", 3),
                f"{row['latency_ms']:.2f}",
                _interval(row, "latency_ms", 2),
                f"{row['n']:,}",
                "yes" if row["front"] else "",
            )
            for row in rows
        ],
    )
    return (
        f'<figure class="panel"><h3>{shown}</h3>'
        f'<p class="figure-note">{len(dataset.front)} of {len(dataset.points)} configurations on the front</p>'
        f'<div class="chart" data-chart="front" data-rows="front" data-dataset="{shown}"></div>'
        f'<dl class="taken"><dt>Global table</dt><dd data-taken="global" data-dataset="{shown}"></dd>'
        f'<dt>Own table</dt><dd data-taken="own" data-dataset="{shown}"></dd></dl>{numbers}</figure>'
    )


def _interval(row: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _front_note(analysis: BudgetAnalysis, tables: Mapping[str, LookupTable], *, held_out: bool) -> str:
    tolerance = next(iter(tables.values())).metadata.tolerance
    unused = ", ".join(config.key for config in analysis.on_no_front) or "none"
    where = "stands above" if held_out else "is shown with --estimator"
    return (
        f"Bars are 95 % intervals. Both tables take the most accurate configuration whose mean latency is at most "
        f"{100 * tolerance:g} % above the budget; a mean says nothing of single requests, so see how many samples kept the "
        f"budget. {BUILT_FROM_ALL}: how tables do on held-out requests {where}. On no dataset's front: {escape(unused)}."
    )


def _stages_note(measured: Sequence[str]) -> str:
    left_out = [stage for stage in figures.STAGES if stage not in measured]
    note = "Mean time of every stage, end to end, over all samples of a configuration (tier, experts, blocks)."
    return f"{note} Not in these files: {', '.join(left_out)}." if left_out else note


def _stage_numbers(rows: Sequence[Mapping[str, Any]], measured: Sequence[str]) -> str:
    by_key: dict[str, list[str]] = {}
    for row in rows:
        by_key.setdefault(row["key"], [f"{row['n']:,}"]).append(f"{row['ms']:.2f}")
    columns = ("configuration", "n", *(f"{stage} ms" for stage in measured))
    return numbers_table(columns, [(key, *cells) for key, cells in by_key.items()])


def _histogram_note(percentiles: LatencyPercentiles, latency_kind: str) -> str:
    return (
        f"{KIND_WORDS[latency_kind]} of {percentiles.n:,} samples, coloured by tier; the slowest "
        f"{100 - figures.SHOWN_PERCENT:g} % are outside the chart (the slowest of all took {percentiles.max:.1f} ms)."
    )


def _percentile_numbers(rows: Mapping[str, LatencyPercentiles]) -> str:
    names = [name for name in LatencyPercentiles.__slots__ if name != "n"]
    cells = [(name, *(f"{getattr(row, cut):.2f}" for cut in names), f"{row.n:,}") for name, row in rows.items()]
    return numbers_table(("dataset", *(f"{name} ms" for name in names), "n"), cells)


def _knob_panel(knob: str) -> str:
    charts = "".join(
        f'<div class="chart" data-chart="{chart}" data-rows="knobs" data-dataset="{knob}"></div>'
        for chart in ("knob_accuracy", "knob_latency")
    )
    return f'<figure class="panel"><h3>{figures.KNOB_WORDS[knob].capitalize()}</h3>{charts}</figure>'
