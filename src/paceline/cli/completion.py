"""`paceline completion`: the lines that make a shell complete commands and flags."""

from typing import Annotated

import typer
from typer.completion import get_completion_script  # pyright: ignore[reportPrivateImportUsage]

from paceline.cli.main import COMPLETING
from paceline.cli.printing import print_raw
from paceline.errors import UnknownChoiceError

SHELLS = ("bash", "zsh", "fish")


def completion(shell: Annotated[str, typer.Argument(help=f"Whose: {', '.join(SHELLS)}.")]) -> None:
    """Print what makes a shell complete commands and flags: eval "$(paceline completion bash)"."""
    if shell not in SHELLS:
        raise UnknownChoiceError("shell", shell, SHELLS)
    print_raw(get_completion_script(prog_name="paceline", complete_var=COMPLETING, shell=shell) + "\n")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("completion")(completion)
