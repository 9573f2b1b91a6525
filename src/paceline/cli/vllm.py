"""`paceline vllm serve`: serve a model with vLLM, under latency budgets."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.printing import say
from paceline.vllm_plugin.command import require_vllm, serve_command

HELP = "Serve with vLLM under latency budgets: print the command, and run it."
vllm = typer.Typer(no_args_is_help=True, help=HELP)


@vllm.callback()
def _group() -> None:
    """Serve with vLLM under latency budgets: print the command, and run it."""


@vllm.command("serve", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="digits (ships with the package), a local folder or a hub id.")],
    controller: Annotated[
        Path, typer.Option(help="A table file, or the directory of an estimator or a learned controller.")
    ],
    alpha: Annotated[
        float | None, typer.Option(help="Share of promised budgets that may be missed.", show_default="0.05")
    ] = None,
    default_budget_ms: Annotated[
        float | None,
        typer.Option(help="Budget of chats that ask for none.", show_default="the whole model answers them"),
    ] = None,
    certified_only: Annotated[
        bool, typer.Option("--certified-only", help="Take nothing that the table's certificate does not hold.")
    ] = False,
    print_only: Annotated[bool, typer.Option("--print-only", help="Print the command and run nothing.")] = False,
) -> None:
    """Print the `vllm serve` command that serves MODEL under latency budgets, and run it; other options are vLLM's."""
    require_vllm()
    words = serve_command(
        model,
        controller=controller,
        alpha=alpha,
        default_budget_ms=default_budget_ms,
        certified_only=certified_only,
        arguments=context.args,
    )
    say(shlex.join(words))
    if not print_only:
        os.execv(words[0], words)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(vllm, name="vllm")
