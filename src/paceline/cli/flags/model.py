"""Flags that several commands share."""

from typing import Annotated

import typer

from paceline.cli.flags.lists import split_list
from paceline.errors import InvalidValueError
from paceline.json_document import parsed_json

DeviceFlag = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu or cuda[:n].")]
DtypeFlag = Annotated[str, typer.Option(help="auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16, float16.")]
RevisionFlag = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
TrustFlag = Annotated[
    str | None,
    typer.Option(
        "--trust-remote-code",
        metavar="REVISION",
        help="Run the code that comes with a checkpoint (Molmo): its full commit, or the hash of a local folder's code.",
    ),
]
TiersFlag = Annotated[list[str] | None, typer.Option(help="Vision-token tiers.", show_default="low medium high")]
TopKFlag = Annotated[list[str] | None, typer.Option("--top-k", help="Experts a token.", show_default="the model's own")]
BlocksFlag = Annotated[
    list[str] | None, typer.Option("--blocks", help="Active decoder blocks.", show_default="the model's own")
]

TemplateArgumentFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--template-argument",
        metavar="NAME=JSON",
        help="An argument of the chat template, for example enable_thinking=false; may be repeated.",
    ),
]


def template_arguments(values: list[str] | None) -> dict[str, object]:
    """Return the arguments of the chat template; raises InvalidValueError for a word that is no NAME=JSON."""
    return dict(_template_argument(value) for value in values or ())


def _template_argument(word: str) -> tuple[str, object]:
    name, separator, value = word.partition("=")
    try:
        return name, parsed_json(value if separator else "")
    except ValueError as error:
        raise InvalidValueError(
            "--template-argument",
            word,
            'NAME=JSON, for example enable_thinking=false or language="de" (a text in quotes)',
        ) from error


def names(values: list[str] | None) -> tuple[str, ...] | None:
    """Return the names of a list option; None when it was not given."""
    parts = split_list(values)
    return None if parts is None else tuple(parts)


def whole_numbers(flag: str, values: list[str] | None) -> tuple[int, ...] | None:
    """Return the whole numbers of a list option; raises InvalidValueError for a word that is none."""
    parts = split_list(values)
    for part in parts or ():
        if not part.isdigit():
            raise InvalidValueError(flag, part, "whole numbers, for example 4 6 8")
    return None if parts is None else tuple(int(part) for part in parts)
