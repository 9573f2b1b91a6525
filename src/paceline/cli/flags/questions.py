"""Flags of the commands that ask data sets."""

from typing import Annotated

import typer

PLACES = "FOLDER, FILE.parquet, hub, hub@REVISION or hub:OWNER/ID@REVISION"
SplitFlag = Annotated[
    str | None, typer.Option(help="Split of every set.", show_default="validation for digits, a public set's own")
]
TemplateHelp = r"Prompt with {question}, {options} and {context} in it, \n a line break"
