"""`paceline datasets`: which question sets there are, and how one of them is asked."""

from typing import Annotated, Any

import typer

from paceline.cli.flags.questions import PLACES, SplitFlag, TemplateHelp
from paceline.cli.printing import JsonFlag, print_facts, print_json, print_table, say
from paceline.datasets.digits import DIGIT_SCORER, DIGIT_SETS, SPLITS
from paceline.datasets.public import PUBLIC_SETS, PublicSet
from paceline.datasets.question import VisualQuestion
from paceline.datasets.question_sets import KNOWN_SETS, QuestionSet, load_question_set, set_requests
from paceline.errors import UnknownChoiceError
from paceline.profiles.fields import dataset_name

SHOWN = 3
SEED = 3407


def register(app: typer.Typer) -> None:
    """Add `paceline datasets` to the command line."""
    group = typer.Typer(
        name="datasets", help="List the question sets, and show how one of them is asked.", invoke_without_command=True
    )
    group.callback()(list_sets)
    group.command("show")(show)
    app.add_typer(group)


def list_sets(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the question sets, and show how one of them is asked."""
    if context.invoked_subcommand is not None:
        return
    if as_json:
        print_json(
            [_digit_document(name) for name in DIGIT_SETS] + [_public_document(each) for each in PUBLIC_SETS.values()]
        )
        return
    rows: list[tuple[object, ...]] = [
        (name, "with the package", ", ".join(SPLITS), DIGIT_SCORER) for name in DIGIT_SETS
    ]
    rows += [(name, each.hub_ids[0], _splits(each), ", ".join(each.scorers)) for name, each in PUBLIC_SETS.items()]
    print_table("Question sets", ("name", "hub", "splits with answers", "scorers, official first"), rows)
    say(f"A public set is asked from a place: --datasets text_vqa=PLACE, PLACE one of {PLACES}")


def show(
    name: Annotated[str, typer.Argument(help="A question set.")],
    place: Annotated[
        str | None, typer.Option("--from", help=f"Where a public set is read: {PLACES}.", show_default="none")
    ] = None,
    split: SplitFlag = None,
    prompt_template: Annotated[str | None, typer.Option(help=f"{TemplateHelp}.", show_default="the set's own")] = None,
    scorer: Annotated[str | None, typer.Option(help="Scorer by id.", show_default="the official rule")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the questions, as of `paceline profile`.")] = SEED,
    as_json: JsonFlag = False,
) -> None:
    """Show the first three questions that a profile asks: picture sizes, the prompt as sent, how answers are judged."""
    name = dataset_name(name)
    if name not in KNOWN_SETS:
        raise UnknownChoiceError("dataset", name, KNOWN_SETS)
    requests = set_requests(
        [name if place is None else f"{name}={place}"],
        split=split,
        prompt_templates=() if prompt_template is None else (f"{name}={prompt_template}",),
        scorers=() if scorer is None else (f"{name}={scorer}",),
    )
    asked = load_question_set(requests[0], count=SHOWN, seed=seed)
    if as_json:
        print_json(_asked_document(asked))
    else:
        _print_asked(asked)


def _print_asked(asked: QuestionSet) -> None:
    source, public = asked.source, PUBLIC_SETS.get(asked.name)
    facts: list[tuple[str, object]] = [("split", asked.split), ("scorer", asked.scorer)]
    if source is not None:
        facts = [("from", source.place), ("revision", source.revision or "local files"), *facts]
        facts += [("questions", f"{source.available:,}")]
        facts += [("left out", f"{source.left_out:,} rows without a picture")] if source.left_out else []
    facts += [("trap", trap) for trap in public.traps] if public is not None else []
    print_facts(asked.name, facts)
    for question in asked.questions:
        print_facts(
            f"Question {question.sample_id}",
            [
                ("pictures", ", ".join(f"{width}x{height}" for width, height in _sizes(question))),
                ("prompt", question.prompt),
                ("answers", " | ".join(question.references)),
                ("types", ", ".join(question.types) or "-"),
                ("picture id", question.picture_id or "-"),
            ],
        )


def _sizes(question: VisualQuestion) -> list[tuple[int, int]]:
    return [each.open().size for each in question.pictures]


def _asked_document(asked: QuestionSet) -> dict[str, Any]:
    source = asked.source
    return {
        "name": asked.name,
        "split": asked.split,
        "scorer": asked.scorer,
        "from": None if source is None else source.place,
        "revision": None if source is None else source.revision,
        "available": None if source is None else source.available,
        "left_out": None if source is None else source.left_out,
        "questions": [_question_document(each) for each in asked.questions],
    }


def _question_document(question: VisualQuestion) -> dict[str, Any]:
    return {
        "sample_id": question.sample_id,
        "pictures": [list(size) for size in _sizes(question)],
        "picture_sha256": question.picture_sha256,
        "prompt": question.prompt,
        "references": list(question.references),
        "choices": list(question.choices),
        "types": list(question.types),
        "picture_id": question.picture_id,
    }


def _digit_document(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "scorer": DIGIT_SCORER,
        "splits": dict.fromkeys(SPLITS),
        "sources": ["with the package"],
        "hub_ids": [],
        "scorers": [DIGIT_SCORER],
    }


def _public_document(public: PublicSet) -> dict[str, Any]:
    return {
        "name": public.name,
        "scorer": public.scorers[0],
        "sources": [*(f"hub:{each}" for each in public.hub_ids), "FOLDER", "FILE.parquet"],
        "title": public.title,
        "licence": public.licence,
        "source": public.source,
        "hub_ids": list(public.hub_ids),
        "config": public.config,
        "splits": dict(public.splits),
        "without_answers": list(public.unanswered),
        "scorers": list(public.scorers),
        "prompt_template": public.prompt_template,
        "traps": list(public.traps),
    }


def _splits(public: PublicSet) -> str:
    return ", ".join(name if rows is None else f"{name} ({rows:,})" for name, rows in public.splits.items())
