"""`paceline report`: a profile, or a run, as one self-contained HTML page."""

from pathlib import Path
from typing import Annotated, cast

import typer

from paceline.cli.printing import JsonFlag, note_written, print_json
from paceline.profiles.atomic import require_file_path
from paceline.records import LatencyKind
from paceline.report import write_report
from paceline.report.timeline import write_timeline
from paceline.schedule.step_log import read_step_log
from paceline.tune.run_files import STEPS, is_run, read_document, read_requests

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PROFILE",
        help="A native store, a core-exp directory or a Parquet file of samples; or a run's directory.",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The page to write; it opens without a network.")]
LatencyOption = Annotated[str, typer.Option("--latency", help="Latency kind: ttft, prefill or total.")]


def register(app: typer.Typer) -> None:
    """Add `paceline report` to the command line."""
    app.command("report")(report)


def report(
    profile: SourceArgument,
    output: OutputOption = Path("report.html"),
    latency: LatencyOption = "prefill",
    as_json: JsonFlag = False,
) -> None:
    """Write fronts, decisions, stages, distributions and knob effects of a profile as one HTML page.

    Of a run of `paceline simulate` or `paceline tune`: queue, tokens a step, running requests and memory over time.
    """
    require_file_path(output)
    if is_run(profile):
        size_bytes = write_timeline(
            read_requests(profile),
            read_step_log(profile / STEPS),
            output,
            title=profile.resolve().name,
            document=read_document(profile),
        )
    else:
        kind = cast(LatencyKind, latency)  # checked where tables are built
        size_bytes = write_report(profile, output, latency_kind=kind)
    if as_json:
        print_json({"output": str(output), "size_bytes": size_bytes})
    else:
        note_written(output, size_bytes=size_bytes)
