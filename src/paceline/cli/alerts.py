"""`paceline alerts`: what watches a server in production, as files for Prometheus and Grafana."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.printing import JsonFlag, note_written, print_json
from paceline.errors import OutputPathError
from paceline.monitoring.files import DEFAULT_BASELINE, DEFAULT_FOR, DEFAULT_WINDOW, monitoring_files
from paceline.profiles.atomic import write_atomically

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Directory to write both files to.")]
WindowOption = Annotated[str, typer.Option(help="What promises and decisions are counted over.")]
ForOption = Annotated[str, typer.Option("--for", help="How long a condition holds before it is an alert.")]
BaselineOption = Annotated[str, typer.Option(help="What drift is told against.")]


def register(app: typer.Typer) -> None:
    """Add `paceline alerts` to the command line."""
    app.command("alerts")(alerts)


def alerts(
    out: OutOption,
    window: WindowOption = DEFAULT_WINDOW,
    lasting: ForOption = DEFAULT_FOR,
    baseline: BaselineOption = DEFAULT_BASELINE,
    as_json: JsonFlag = False,
) -> None:
    """Write Prometheus's alert rules and a Grafana dashboard for servers with budgets."""
    files = monitoring_files(window=window, lasting=lasting, baseline=baseline)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(out, error.strerror or str(error)) from error
    for name, content in files.items():
        _require_unedited(out / name, content)
    for name, content in files.items():
        write_atomically(out / name, content)
        note_written(out / name)
    if as_json:
        print_json({"files": [str(out / name) for name in files]})


def _require_unedited(path: Path, content: bytes) -> None:
    """Raise OutputPathError over a file that says something else: a copy beside it would be read as rules too."""
    if path.exists() and path.read_bytes() != content:
        raise OutputPathError(path, "it is there with another content, perhaps edited, and is left as it is")
