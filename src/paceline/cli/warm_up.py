"""`paceline warm-up`: a server's bounds calibrated before anybody else asks it."""

import re
import secrets
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer

from paceline.cli.flags.lists import ListFlagCommand, split_list, split_numbers
from paceline.cli.flags.server import KeyOption, ServedModelOption, UrlArgument, read_key
from paceline.cli.printing import JsonFlag, note, print_json, progress_bar, say
from paceline.errors import InvalidValueError
from paceline.quick.asking import Caller
from paceline.remote import ServerAddress
from paceline.warm_up.calibration import Calibration, calibration_of

PictureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--picture",
        metavar="WIDTHxHEIGHT",
        help="Sizes of the pictures, in pixels: those that your requests have.",
        show_default="448x448 896x672 1344x1008",
    ),
]
TextFlag = Annotated[bool, typer.Option("--text-only", help="Ask without pictures: of a model that sees none.")]
WordsOption = Annotated[
    list[str] | None, typer.Option("--words", help="Words of the questions.", show_default="8 24 64")
]
BudgetsOption = Annotated[
    list[str] | None,
    typer.Option("--budgets", help="Milliseconds to first token that are asked for.", show_default="1000"),
]
WaitOption = Annotated[float, typer.Option(help="How long the server may take to be up.")]
SecondsOption = Annotated[float, typer.Option(help="How long it is asked at most.")]
CheckFlag = Annotated[bool, typer.Option("--check", help="Ask nothing: exit code 0 if it is calibrated, else 1.")]
WatchFlag = Annotated[
    bool, typer.Option("--watch", help="Stay, and warm up again whenever the server was started anew.")
]
SeedOption = Annotated[
    int | None, typer.Option(help="Seed of pictures and wording.", show_default="another one each time")
]


def register(app: typer.Typer) -> None:
    """Add `paceline warm-up` to the command line."""
    app.command("warm-up", cls=ListFlagCommand)(warm_up)


def warm_up(
    url: UrlArgument,
    picture: PictureOption = None,
    text_only: TextFlag = False,
    words: WordsOption = None,
    budgets: BudgetsOption = None,
    model: ServedModelOption = None,
    api_key_file: KeyOption = None,
    wait_seconds: WaitOption = 1800.0,
    seconds: SecondsOption = 1800.0,
    check: CheckFlag = False,
    watch: WatchFlag = False,
    seed: SeedOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask a server with budgets until its bounds are calibrated; exit code 1 when it is not.

    One request at a time, each about a new picture in new words: what a server has in its caches is answered faster than what
    comes later, and would make bounds too low. Other requests meanwhile keep these from being alone.
    """
    caller = Caller(address=ServerAddress.parse(url), clock=time.monotonic, key=read_key(api_key_file))
    if watch and (as_json or check):
        raise InvalidValueError("watch", watch, "it without --json and --check, which end")
    if check:
        _finish(_document(caller, calibration_of(caller)), as_json)
        return
    if text_only and picture:
        raise InvalidValueError("picture", picture, "none with --text-only")
    given: dict[str, Any] = {
        "sizes_px": [] if text_only else _sizes(picture),
        "words": _whole("words", split_numbers("words", words)),
        "budgets_ms": split_numbers("budgets", budgets),
    }
    making = import_module("paceline.warm_up.requests")  # a probe does not wait for what makes pictures
    requests = making.WarmUpRequests(
        seed=secrets.randbits(32) if seed is None else seed,
        **{name: value for name, value in given.items() if value is not None},
    )
    warming = import_module("paceline.warm_up.warming")
    while True:
        with progress_bar("calibrating") as on_progress:
            warmer = warming.WarmUp(
                caller,
                requests,
                model=model,
                wait_seconds=wait_seconds,
                seconds=seconds,
                on_progress=on_progress,
                on_wait=partial(_note_waiting, caller),
            )
            result = warmer.run()
        more = {"asked": result.asked, "restarts": result.restarts, "seconds": round(result.seconds, 1)}
        more |= {"model": result.model, "seed": result.seed, "why_not": result.why_not}
        _finish(_document(caller, result.calibration) | more, as_json)
        if not watch:
            return
        warmer.wait_until_lost()


def _note_waiting(caller: Caller, why: str) -> None:
    note(f"waiting for {caller.address}, which {why}")


def _document(caller: Caller, found: Calibration) -> dict[str, Any]:
    return {
        "server": str(caller.address),
        "calibrated": found.reached,
        "calibration_requests": found.requests,
        "calibration_needed": found.needed,
        "drift_factor": found.drift_factor,
    }


def _finish(found: dict[str, Any], as_json: bool) -> None:
    """Print what was found; ends with exit code 1 where the server is not calibrated."""
    if as_json:
        print_json(found)
    else:
        say(_sentence(found))
    if not found["calibrated"]:
        raise typer.Exit(1)


def _sentence(found: dict[str, Any]) -> str:
    known = (
        f"{found['server']} has {found['calibration_requests']} of the {found['calibration_needed']} requests it needs"
    )
    if "asked" not in found:
        return f"{'calibrated' if found['calibrated'] else 'not calibrated'}: {known}"
    how = f"after {found['asked']} requests in {found['seconds']:g} s"
    if found["restarts"]:
        how += f", in which it was started anew {found['restarts']} times"
    if not found["calibrated"]:
        return f"not calibrated {how}: {known}; {found['why_not']}"
    return f"calibrated {how}: {known}"


def _sizes(given: Sequence[str] | None) -> list[tuple[int, int]] | None:
    parts = split_list(given)
    if parts is None:
        return None
    found = [re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", part) for part in parts]
    for part, match in zip(parts, found, strict=True):
        if match is None:
            raise InvalidValueError("picture", part, "WIDTHxHEIGHT in pixels, for example 896x672")
    return [(int(match[1]), int(match[2])) for match in found if match is not None]


def _whole(name: str, given: Sequence[float] | None) -> list[int] | None:
    for number in given or ():
        if not number.is_integer():
            raise InvalidValueError(name, number, "whole numbers, for example 8 24")
    return None if given is None else [int(number) for number in given]
