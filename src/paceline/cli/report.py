"""`paceline report`: a profile, or a run, as one self-contained HTML page."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from paceline.cli.printing import JsonFlag, note_written, print_json, say
from paceline.errors import InvalidValueError
from paceline.profiles.atomic import require_file_path
from paceline.records import LatencyKind
from paceline.report import write_report
from paceline.report.comparison import write_comparison
from paceline.report.decisions import DecidedWith
from paceline.report.timeline import write_timeline
from paceline.schedule.step_log import read_step_log
from paceline.tune.run_files import STEPS, is_run, read_document, read_requests

DEFAULT_KIND: LatencyKind = "prefill"
OF_A_PROFILE = "a profile's own page, without --compare"
OF_PROFILES = "the page of one profile or of two"

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PROFILE",
        help="A native store, a core-exp directory or a Parquet file of samples; or a run's directory.",
    ),
]
CompareOption = Annotated[
    Path | None,
    typer.Option("--compare", help="An earlier profile: write what became slower or less accurate since, instead."),
]
EstimatorOption = Annotated[
    Path | None,
    typer.Option("--estimator", help="An estimator's directory: the slider shows what its bound takes too."),
]
ControllerOption = Annotated[
    list[Path] | None,
    typer.Option("--controller", help="A learned controller's directory, likewise; may be given again."),
]
UnderLoadOption = Annotated[
    Path | None,
    typer.Option("--under-load", help="The document of `paceline verify --under-load`: what knobs save under load."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The page to write; it opens without a network.")]
LatencyOption = Annotated[
    str | None, typer.Option("--latency", help="Latency kind: ttft, prefill or total.", show_default=DEFAULT_KIND)
]


def register(app: typer.Typer) -> None:
    """Add `paceline report` to the command line."""
    app.command("report")(report)


def report(
    profile: SourceArgument,
    output: OutputOption = Path("report.html"),
    latency: LatencyOption = None,
    estimator: EstimatorOption = None,
    controller: ControllerOption = None,
    under_load: UnderLoadOption = None,
    compare: CompareOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write fronts, decisions, stages, distributions and knob effects of a profile as one HTML page.

    Of a run of `paceline simulate` or `paceline tune`: queue, tokens a step, running requests and memory over time.
    """
    require_file_path(output)
    of_a_profile = {"--estimator": estimator, "--controller": controller, "--under-load": under_load}
    if is_run(profile):
        _require_unused("a run", of_a_profile, OF_A_PROFILE)
        _require_unused("a run", {"--compare": compare, "--latency": latency}, OF_PROFILES)
        size_bytes = write_timeline(
            read_requests(profile),
            read_step_log(profile / STEPS),
            output,
            title=profile.resolve().name,
            document=read_document(profile),
        )
    elif compare is not None:
        _require_unused("two profiles", of_a_profile, OF_A_PROFILE)
        _compare(profile, compare, output, latency or DEFAULT_KIND, as_json)
        return
    else:
        kind = cast(LatencyKind, latency or DEFAULT_KIND)  # checked where tables are built
        decided_with = DecidedWith(estimator=estimator, learned=tuple(controller or ()))
        size_bytes = write_report(profile, output, latency_kind=kind, decided_with=decided_with, under_load=under_load)
    if as_json:
        print_json({"output": str(output), "size_bytes": size_bytes})
    else:
        note_written(output, size_bytes=size_bytes)


def _require_unused(page: str, options: Mapping[str, object], goes_with: str) -> None:
    """Refuse an option that the page would leave unread."""
    for option, value in options.items():
        if value is not None:
            shown = ", ".join(map(str, cast("list[Path]", value))) if isinstance(value, list) else str(value)
            raise InvalidValueError(option, shown, f"nothing for the page of {page}: it goes with {goes_with}")


def _compare(after: Path, before: Path, output: Path, latency: str, as_json: bool) -> None:
    found, size_bytes = write_comparison(after, before, output, latency_kind=cast("LatencyKind", latency))
    if as_json:
        print_json({"output": str(output), "size_bytes": size_bytes, **asdict(found)})
        return
    count = len(found.changes)
    say(
        f"{found.latency_kind} latency {100 * (found.all_ratio - 1):+.1f} % over {found.pairs:,} answers in both; "
        f"{len(found.slower)} of {count} configurations became slower, {len(found.less_accurate)} less accurate"
    )
    for each in found.slower:
        say(f"{each.config.key}: {100 * (each.ratio - 1):+.1f} %", mark="caution")
    for each in found.less_accurate:
        say(f"{each.config.key}: accuracy {100 * each.accuracy:+.2f} points", mark="caution")
    note_written(output, size_bytes=size_bytes)
