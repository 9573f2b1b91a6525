"""`paceline quick`: a minute's judgement of any server, without a profile."""

import secrets
from typing import Annotated

import typer

from paceline.cli.flags.lists import ListFlagCommand, split_numbers
from paceline.cli.flags.server import KeyOption, ServedModelOption, UrlArgument, read_key
from paceline.cli.printing import JsonFlag, print_facts, print_json, print_table, progress_bar, say
from paceline.quick.levels import LevelTimes
from paceline.quick.run import DEFAULT_SIDES_PX, QuickJudge, QuickResult, document_of
from paceline.quick.words import not_controlled, sentences_of
from paceline.remote import ServerAddress

BudgetOption = Annotated[float, typer.Option(help="Milliseconds to first token that are to be kept.")]
SecondsOption = Annotated[float, typer.Option(help="How long to ask.")]
SizesOption = Annotated[
    list[str] | None,
    typer.Option("--sizes", help="Sides of the pictures in pixels, rising.", show_default="224 448 896 1344"),
]
SeedOption = Annotated[
    int | None,
    typer.Option(help="Seed of the pictures and of the order of asking.", show_default="another one each time"),
]
COLUMNS = ("asked", "image tokens", "requests", "kept of 100", "95 % interval", "P50 ms", "P95 ms", "errors")


def register(app: typer.Typer) -> None:
    """Add `paceline quick` to the command line."""
    app.command("quick", cls=ListFlagCommand)(quick)


def quick(
    url: UrlArgument,
    budget: BudgetOption = 300.0,
    seconds: SecondsOption = 60.0,
    sizes: SizesOption = None,
    model: ServedModelOption = None,
    api_key_file: KeyOption = None,
    seed: SeedOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Judge any server with OpenAI's interface: which share of requests keeps a budget, at which picture sizes.

    The same pictures are asked about at several sizes, interleaved in random order, one request at a time.
    """
    with progress_bar("asking") as on_progress:
        sides = split_numbers("sizes", sizes)
        result = QuickJudge(
            ServerAddress.parse(url),
            budget_ms=budget,
            seconds=seconds,
            sides_px=DEFAULT_SIDES_PX if sides is None else sides,
            model=model,
            key=read_key(api_key_file),
            seed=secrets.randbits(32) if seed is None else seed,  # a server's caches know an earlier run's pictures
            on_progress=on_progress,
        ).run()
    sentences, open_questions = sentences_of(result), not_controlled(result)
    if as_json:
        print_json(document_of(result, sentences=sentences, not_controlled=open_questions))
    else:
        _print(result, sentences, open_questions)


def _print(result: QuickResult, sentences: list[str], open_questions: list[str]) -> None:
    for sentence in sentences:
        say(sentence)
    title = f"\n{result.model} at {result.server}: {result.rounds} rounds in {result.seconds:.0f} s"
    print_table(title, COLUMNS, [_row(each) for each in result.levels])
    print_facts("Knobs", [(each.name, f"{each.what}: {each.how}") for each in result.knobs])
    say("\nNot controlled for:")
    for each in open_questions:
        say(f"- {each}")


def _row(times: LevelTimes) -> list[object]:
    kept = times.kept
    interval = None if kept is None else kept.interval()
    level = times.level
    asked = f"{level.side_px} × {level.side_px}" + (f", detail {level.detail}" if level.detail else "")
    cuts = [times.percentile(percent) for percent in (50, 95)]
    return [
        asked + (f", latency_budget_ms {level.budget_ms:g}" if level.budget_ms else ""),
        None if times.tokens is None else f"{times.tokens:,}",
        0 if kept is None else kept.count,
        None if kept is None else f"{100 * kept.share:.0f}",
        None if interval is None else f"{100 * interval.low:.0f} to {100 * interval.high:.0f}",
        *(None if cut is None else f"{cut[0]:.1f}" for cut in cuts),
        f"{len(times.errors)}: {times.errors[-1]}" if times.errors else 0,
    ]
