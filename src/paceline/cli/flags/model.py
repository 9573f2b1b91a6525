"""Flags that several commands share."""

from typing import Annotated

import typer

from paceline.cli.flags.lists import split_list
from paceline.errors import InvalidValueError

DeviceFlag = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu or cuda[:n].")]
DtypeFlag = Annotated[str, typer.Option(help="auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16, float16.")]
RevisionFlag = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
TiersFlag = Annotated[list[str] | None, typer.Option(help="Vision-token tiers.", show_default="low medium high")]
TopKFlag = Annotated[list[str] | None, typer.Option("--top-k", help="Experts a token.", show_default="the model's own")]
BlocksFlag = Annotated[
    list[str] | None, typer.Option("--blocks", help="Active decoder blocks.", show_default="the model's own")
]


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
