"""Flags that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

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
DeviceMapFlag = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="WORD|JSON",
        help="Spread a model over devices with accelerate: auto, or a JSON object of a device (cpu, cuda:0, disk) by part.",
    ),
]
OffloadFolderFlag = Annotated[
    Path | None,
    typer.Option(help="With --device-map: where weights lie on disk that the checkpoint holds in another form."),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAsked:
    """A model's name as a user gave it, and the flags that say how it is loaded."""

    name: str
    device: str
    dtype: str
    revision: str | None
    template_argument: list[str] | None
    trust_remote_code: str | None
    device_map: str | None
    offload_folder: Path | None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `load_model`; raises InvalidValueError for words that are none."""
        if self.offload_folder is not None and self.device_map is None:
            raise InvalidValueError("--offload-folder", str(self.offload_folder), "--device-map beside it")
        return {
            "device": self.device,
            "dtype": self.dtype,
            "revision": self.revision,
            "template_arguments": template_arguments(self.template_argument),
            "trust_remote_code": self.trust_remote_code,
            "device_map": _device_map(self.device_map),
            "offload_folder": self.offload_folder,
        }


def _device_map(text: str | None) -> str | dict[str, str | int] | None:
    if text is None or not text.lstrip().startswith("{"):
        return text
    expected = """a JSON object of a device by part, for example {"model.visual": 0, "model.language_model": "cpu"}"""
    try:
        parsed = parsed_json(text)
    except ValueError as error:
        raise InvalidValueError("--device-map", text, f"{expected} ({error})") from error
    places = cast("dict[str, object]", parsed)
    if any(isinstance(place, bool) or not isinstance(place, str | int) for place in places.values()):
        raise InvalidValueError("--device-map", text, expected)
    return cast("dict[str, str | int]", places)


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
