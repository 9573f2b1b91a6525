"""Options that name a server elsewhere: its address, its model, its key."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.errors import InvalidValueError

UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="A server with OpenAI's interface, for example http://127.0.0.1:8000.")
]
ServedModelOption = Annotated[str | None, typer.Option(help="The model to ask.", show_default="the server's first")]
KeyOption = Annotated[Path | None, typer.Option(help="A file with the key that the server asks for.")]


def read_key(path: Path | None) -> str | None:
    """Return the key that a file holds, None without a file; raises InvalidValueError for what is no key."""
    if path is None:
        return None
    key = path.read_text(encoding="utf-8", errors="replace").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InvalidValueError("API key", "…", f"one line of letters and digits in {path}")
    return key
