"""`paceline dashboard`: opens what there is already, of a profile, a run, a controller or a server."""

import webbrowser
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.printing import JsonFlag, note, print_json, say
from paceline.dashboard import Dashboard, live_dashboard, report_dashboard
from paceline.errors import InvalidValueError
from paceline.remote import ServerAddress

WHAT = "a profile, a run's directory, a table file, the directory of an estimator or a learned controller, or http://HOST:PORT"
SourceArgument = Annotated[str, typer.Argument(metavar="PROFILE|ESTIMATOR|URL", help=f"{WHAT[0].upper()}{WHAT[1:]}.")]
PortOption = Annotated[int, typer.Option(help="Port of this machine to show it at.", show_default="any that is free")]
BrowserFlag = Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")]


def register(app: typer.Typer) -> None:
    """Add `paceline dashboard` to the command line."""
    app.command("dashboard")(dashboard)


def dashboard(
    source: SourceArgument, port: PortOption = 0, no_browser: BrowserFlag = False, as_json: JsonFlag = False
) -> None:
    """Open the report of a profile or a controller, or the live page before a server, until Ctrl-C.

    It listens on this machine alone. Before a server it relays what the page asks for, to that server and no other.
    """
    found = _dashboard(source, port)
    try:
        if as_json:
            print_json(
                {"url": found.url, "source": source, "server": None if found.upstream is None else str(found.upstream)}
            )
        else:
            say(found.url)
            note("Ctrl-C ends it.")
        if not no_browser:
            webbrowser.open(found.url)
        found.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        found.server_close()


def _dashboard(source: str, port: int) -> Dashboard:
    path = Path(source)
    if "://" in source:
        return live_dashboard(
            ServerAddress.parse(source), port=port
        )  # needs nothing of reports, nor the extra [report]
    if not path.exists():
        hint = f"; for a server, http://{source}" if source.rpartition(":")[2].isdigit() else ""
        raise InvalidValueError("source", source, f"{WHAT}, and there is nothing at this path{hint}")
    return report_dashboard(import_module("paceline.cli.pages").page_of(path), port=port)
