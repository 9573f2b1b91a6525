"""The `paceline` command: registers the command groups and turns errors into sentences and exit codes."""

import sys

import typer
from rich.markup import escape

from paceline.cli.printing import LOG
from paceline.errors import PacelineError

app = typer.Typer(
    name="paceline",
    help="Run (multimodal) LLMs to a latency budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line: exit code 0 when done, 2 for the user's mistake, 1 for ours."""
    try:
        app()
    except PacelineError as error:
        LOG.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
