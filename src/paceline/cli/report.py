"""`paceline report`: a profile as one self-contained HTML page."""

from pathlib import Path
from typing import Annotated, cast

import typer

from paceline.cli.flags.profiles import ProfileArgument
from paceline.cli.printing import JsonFlag, note_written, print_json
from paceline.profiles.atomic import require_file_path
from paceline.records import LatencyKind
from paceline.report import write_report

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The page to write; it opens without a network.")]
LatencyOption = Annotated[str, typer.Option("--latency", help="Latency kind: ttft, prefill or total.")]


def register(app: typer.Typer) -> None:
    """Add `paceline report` to the command line."""
    app.command("report")(report)


def report(
    profile: ProfileArgument,
    output: OutputOption = Path("report.html"),
    latency: LatencyOption = "prefill",
    as_json: JsonFlag = False,
) -> None:
    """Write fronts, decisions, stages, distributions and knob effects of a profile as one HTML page."""
    require_file_path(output)
    size_bytes = write_report(
        profile, output, latency_kind=cast(LatencyKind, latency)
    )  # checked where tables are built
    if as_json:
        print_json({"output": str(output), "size_bytes": size_bytes})
    else:
        note_written(output, size_bytes=size_bytes)
