"""Any set of questions by what a user names: a digit set, or a public one with the place where it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from paceline.datasets.digits import DIGIT_SCORER, DIGIT_SETS, digit_questions
from paceline.datasets.prompts import checked_template
from paceline.datasets.public import PUBLIC_SETS, PublicSet
from paceline.datasets.question import VisualQuestion
from paceline.datasets.sources import GRAMMAR, HubPlace, OpenedSet, chosen_split, local_files, parse_place
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import QuestionSource

KNOWN_SETS = (*DIGIT_SETS, *PUBLIC_SETS)
DIGIT_SPLIT = "validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRequest:
    """A data set to ask: where a public one is read, and what differs from the set's own split, prompt and scorer."""

    name: str
    place: HubPlace | Path | None = None
    split: str | None = None
    prompt_template: str | None = None
    scorer: str | None = None

    def __post_init__(self) -> None:
        if self.name not in KNOWN_SETS:
            raise UnknownChoiceError("dataset", self.name, KNOWN_SETS)
        public = PUBLIC_SETS.get(self.name)
        if public is not None and self.place is None:
            raise InvalidValueError("dataset", self.name, f"the place where it is read too: {GRAMMAR}")
        if public is None and self.place is not None:
            raise InvalidValueError(f"place of {self.name}", str(self.place), "none: this set ships with the package")
        scorers = (DIGIT_SCORER,) if public is None else public.scorers
        if self.scorer is not None and self.scorer not in scorers:
            raise UnknownChoiceError(f"scorer of {self.name}", self.scorer, scorers)
        if public is None and self.prompt_template is not None:
            raise InvalidValueError(
                f"prompt template of {self.name}", self.prompt_template, "none: its prompts are fixed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """The questions of one data set in the order in which they are asked; `source` is None for a digit set."""

    name: str
    split: str
    scorer: str
    questions: tuple[VisualQuestion, ...]
    source: QuestionSource | None = None


def set_requests(
    datasets: Sequence[str],
    *,
    split: str | None = None,
    prompt_templates: Sequence[str] = (),
    scorers: Sequence[str] = (),
) -> tuple[SetRequest, ...]:
    """Read data sets as a user writes them: `NAME` or `NAME=PLACE`, and prompt templates and scorers as `NAME=VALUE`.

    A value without a name is that of every public set. Raises UnknownChoiceError and InvalidValueError.
    """
    places = dict(_named(text) for text in datasets)
    if not places or len(places) < len(datasets):
        raise InvalidValueError("datasets", tuple(datasets), "at least one, none twice")
    for name in places:
        if name not in KNOWN_SETS:
            raise UnknownChoiceError("dataset", name, KNOWN_SETS)
    template_of, scorer_of = _by_set("prompt template", prompt_templates, places), _by_set("scorer", scorers, places)
    return tuple(
        SetRequest(
            name=name,
            place=None if place is None else parse_place(place),
            split=split,
            prompt_template=checked_template(template_of[name]) if name in template_of else None,
            scorer=scorer_of.get(name),
        )
        for name, place in places.items()
    )


def load_question_set(request: SetRequest, *, count: int, seed: int) -> QuestionSet:
    """Return `count` questions of a data set, drawn with a seed; all of a public set that does not hold so many.

    Raises DatasetError where a public set cannot be read or a row of it cannot be asked, naming file, row and field.
    """
    public = PUBLIC_SETS.get(request.name)
    if public is None:
        split = request.split or DIGIT_SPLIT
        questions = digit_questions(request.name, split=split, count=count, seed=seed)
        return QuestionSet(name=request.name, split=split, scorer=DIGIT_SCORER, questions=tuple(questions))
    opened = open_set(request)
    sampled = import_module("paceline.datasets.loading").sample_questions(opened, count=count, seed=seed)
    source = QuestionSource(
        place=opened.files.place,
        revision=opened.files.revision,
        split=opened.files.split,
        prompt_template=opened.prompt_template or public.prompt_template,
        available=sampled.available,
        asked=len(sampled.questions),
        left_out=sampled.left_out,
    )
    return QuestionSet(
        name=request.name,
        split=opened.files.split,
        scorer=opened.scorer,
        questions=sampled.questions,
        source=source,
    )


def open_set(request: SetRequest) -> OpenedSet:
    """Return a public set with its files found, at the commit that a hub's revision stands for; no row is read.

    Raises DatasetError where there are none, or where the split that is asked for holds no answers.
    """
    public = public_set(request.name)
    split = chosen_split(public, request.split)
    assert request.place is not None, "a request of a public set has one"
    if isinstance(request.place, Path):
        files = local_files(public, request.place, split)
    else:  # the hub needs an extra that local files do without
        files = import_module("paceline.datasets.hub").hub_files(public, request.place, split)
    return OpenedSet(
        public=public,
        files=files,
        scorer=request.scorer or public.scorers[0],
        prompt_template=request.prompt_template,
    )


def public_set(name: str) -> PublicSet:
    """Return a public set by its name; raises UnknownChoiceError."""
    if name not in PUBLIC_SETS:
        raise UnknownChoiceError("public dataset", name, tuple(PUBLIC_SETS))
    return PUBLIC_SETS[name]


def _named(text: str) -> tuple[str, str | None]:
    name, equals, place = text.partition("=")
    return name.strip().replace("-", "_"), place if equals else None


def _by_set(what: str, values: Sequence[str], places: Mapping[str, str | None]) -> dict[str, str]:
    """Return the value of each set: `NAME=VALUE` for one that is asked, `VALUE` for all public ones."""
    public = [name for name in places if name in PUBLIC_SETS]
    found: dict[str, str] = {}
    for text in values:
        name, own = _named(text)
        named = {name: own} if own is not None and name in places else dict.fromkeys(public, text)
        if not named:
            raise InvalidValueError(what, text, "a public data set beside it; the digit sets have none of their own")
        found |= named
    return found
