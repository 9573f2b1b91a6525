"""`paceline import`, `export` and `merge`: profiles in and out of the native store."""

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from paceline.cli.flags.lists import ListFlagCommand, split_list
from paceline.cli.flags.profiles import DatasetsOption, SkipBadFlag, note_drift_in
from paceline.cli.printing import JsonFlag, note, print_json, print_table, say
from paceline.profiles import CONFIGURATION, LeftOut, import_profile, merge_profiles, read_profile, write_core_exp
from paceline.profiles.parts import parts_of

OutFlag = Annotated[Path, typer.Option("--out", "-o", help="A new directory; an existing one is never overwritten.")]
EXTRA_FIGURES = {"files": "files", "joined": "rows joined with the same measurement in another part"}


def import_command(
    source: Annotated[Path, typer.Argument(help="A core-exp directory, or a Parquet file of samples.")],
    out: OutFlag,
    datasets: DatasetsOption = None,
    skip_bad: SkipBadFlag = False,
    json_output: JsonFlag = False,
) -> None:
    """Copy a core-exp directory into a native profile store."""
    profile = import_profile(source, out, datasets=split_list(datasets), skip_bad=skip_bad)
    _print(f"Imported into {out}", _summary(out, profile.samples, profile.left_out), json_output)


def export_command(
    source: Annotated[Path, typer.Argument(help="Any profile: a store, a core-exp directory, a Parquet file.")],
    out: OutFlag,
    datasets: DatasetsOption = None,
    skip_bad: SkipBadFlag = False,
    json_output: JsonFlag = False,
) -> None:
    """Write a profile as a core-exp directory, one JSON file a dataset and configuration."""
    profile = read_profile(source, datasets=split_list(datasets), skip_bad=skip_bad)
    files = write_core_exp(profile.samples, out)
    certified = parts_of(source)
    if certified is not None:
        note(
            f"{source} is a certified profile: {len(certified.choosing):,} of its questions chose configurations, which the "
            f"core-exp layout cannot say; calibrate no bounds on {out}",
            mark="caution",
        )
    _print(f"Exported to {out}", {**_summary(out, profile.samples, profile.left_out), "files": files}, json_output)


def merge_command(
    parts: Annotated[list[Path], typer.Argument(help="The profiles to join, of any layout.")],
    out: OutFlag,
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="Join parts of different models, devices or settings all the same."),
    ] = False,
    skip_bad: SkipBadFlag = False,
    json_output: JsonFlag = False,
) -> None:
    """Join the parts of several ranks or machines into one store; conflicting samples are refused."""
    for part in parts:
        note_drift_in(part)
    merged = merge_profiles(parts, out, allow_mixed=allow_mixed, skip_bad=skip_bad)
    summary = {**_summary(out, merged.samples, merged.left_out), "parts": len(parts), "joined": merged.joined}
    _print(f"Merged {len(parts)} parts into {out}", summary, json_output)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("import", cls=ListFlagCommand)(import_command)
    app.command("export", cls=ListFlagCommand)(export_command)
    app.command("merge")(merge_command)


def _summary(out: Path, samples: pl.DataFrame, left_out: tuple[LeftOut, ...]) -> dict[str, Any]:
    counted = samples.group_by("dataset").agg(samples=pl.len(), configurations=pl.struct(CONFIGURATION).n_unique())
    rows = sorted(counted.cast({"dataset": pl.String}).iter_rows())
    return {
        "out": str(out),
        "samples": samples.height,
        "datasets": {name: {"samples": count, "configurations": configs} for name, count, configs in rows},
        "left_out": [{"path": str(each.path), "sample": each.sample, "reason": each.reason} for each in left_out],
    }


def _print(title: str, summary: dict[str, Any], json_output: bool) -> None:
    for each in summary["left_out"]:
        note(each["reason"], mark="left out")
    if json_output:
        print_json(summary)
        return
    rows = [(name, f"{row['samples']:,}", row["configurations"]) for name, row in summary["datasets"].items()]
    print_table(title, ("dataset", "samples", "configurations"), rows)
    extra = [f"{summary[name]:,} {words}" for name, words in EXTRA_FIGURES.items() if summary.get(name)]
    say(", ".join([f"{summary['samples']:,} samples", *extra]))
