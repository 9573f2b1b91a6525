"""`paceline models`: which families of models can be steered, how, and which not."""

from typing import Annotated

import typer

from paceline.cli.printing import JsonFlag, print_json, print_table, say
from paceline.models.families.listing import (
    TESTED_TRANSFORMERS,
    family_rows,
    models_document,
    models_page,
    refused_rows,
)

MarkdownFlag = Annotated[bool, typer.Option("--markdown", help="Print the documentation page, docs/models.md.")]


def models(markdown: MarkdownFlag = False, as_json: JsonFlag = False) -> None:
    """List the families of models: how a tier acts, their limits, and those refused with the reason."""
    rows, refused = family_rows(), refused_rows()
    if markdown:
        say(models_page().removesuffix("\n"))
    elif as_json:
        print_json(models_document())
    else:
        columns = ("family", "tier rule", "caps", "limits")
        shown = [(row.family, row.tier_rule, _caps(row.caps), row.limits or None) for row in rows]
        print_table(f"{len(rows)} families, tested under transformers {', '.join(TESTED_TRANSFORMERS)}", columns, shown)
        say("top_k acts where the checkpoint has experts, num_active_blocks on all of them")
        print_table(f"{len(refused)} that cannot work here", ("family", "reason"), refused)


def _caps(caps: dict[str, int] | None) -> str | None:
    return None if caps is None else " ".join(str(tokens) for tokens in caps.values())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("models")(models)
