"""The reference of commands, from the command line itself: every command with its arguments and options."""

from collections.abc import Iterator
from typing import Any

import typer

from paceline.cli.main import COMMANDS, app_for

WITHOUT_JSON = {  # and what keeps it from one document
    "paceline serve": "runs until it is stopped",
    "paceline vllm serve": "becomes vLLM's server",
    "paceline completion": "prints what a shell reads",
}


def every_command() -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    for name in COMMANDS:
        group: Any = typer.main.get_command(app_for([name]))
        yield from _below(f"paceline {name}", group.commands[name])


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, each in command.commands.items():
        yield from _below(f"{name} {word}", each)


def page() -> str:
    """Return the page as Markdown."""
    but = ", ".join(f"`{name}`, which {why}" for name, why in WITHOUT_JSON.items())
    parts = [
        "# Commands",
        "Every command exits with 2 and a sentence when the input is at fault, and prints one JSON document with `--json`, but "
        f"for these: {but}. `paceline --version` prints the version.",
    ]
    for name, command in every_command():
        parts += [f"## `{name}`", command.help or ""]
        rows = [row for each in command.params if (row := _row(each))]
        if rows:
            parts.append("\n".join(["| argument or option | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(parameter: Any) -> str:
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return ""
    names = parameter.opts if parameter.opts[0].startswith("-") else [parameter.metavar or parameter.name.upper()]
    names = [each for each in names if "_" not in each or len(parameter.opts) == 1]  # spelled with dashes, too
    shown = ", ".join(f"`{each}`" for each in [*names, *parameter.secondary_opts])
    return f"| {shown} | {_default(parameter)} | {_cell(parameter.help or '')} |"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return _cell(parameter.show_default)
    if parameter.default is None or parameter.default is False or callable(parameter.default):
        return ""
    return f"`{_cell(str(parameter.default))}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
