"""MMMU: college questions with up to seven pictures, multiple-choice and open."""

import ast
import re

from paceline.datasets.public.description import NO_ANSWERS, SHORT_ANSWER, Asked, PublicSet, Row
from paceline.datasets.scorers.mmmu import SUBJECTS_OF_DOMAIN, option_letters

MOST_PICTURES = 7
PICTURES = tuple(f"image_{number}" for number in range(1, MOST_PICTURES + 1))
NAMED_PICTURE = re.compile(r"<image ([1-7])>")
SUBJECT = re.compile(r"[^_]+_(.+)_\d+")
DOMAIN_OF_SUBJECT = {subject: domain for domain, subjects in SUBJECTS_OF_DOMAIN.items() for subject in subjects}
UNKNOWN = "?"  # the answer of every question of the test split
CHOICE_PROMPT = "{question}\n{options}\n\nAnswer with the option's letter from the given choices directly."
OPEN_PROMPT = SHORT_ANSWER.replace("\n", "\n\n")


def _ask(row: Row) -> Asked:
    sample_id, question, answers = row.name("id"), row.text("question"), _answers(row)
    is_choice = row.text("question_type") == "multiple-choice"
    choices = _list_literal(row, "options") if is_choice else ()
    if is_choice and not set(answers) <= set(option_letters(len(choices))):
        raise row.error("answer", f"is {answers!r}", expected=f"a letter of its {len(choices)} options")
    named = [int(number) for text in (question, *choices) for number in NAMED_PICTURE.findall(text)]
    return Asked(
        sample_id=sample_id,
        question=question,
        references=answers,
        choices=choices,
        types=(*_subject(sample_id), *row.types("topic_difficulty", "question_type")),
        prompt_template=CHOICE_PROMPT if choices else OPEN_PROMPT,
        pictures=tuple(f"image_{number}" for number in sorted(set(named or [1]))),
    )


def _answers(row: Row) -> tuple[str, ...]:
    answer = row.text("answer")
    if answer.strip() == UNKNOWN:
        raise row.error("answer", f"is {answer!r}", expected="an answer", mend=NO_ANSWERS)
    return _list_literal(row, "answer") if answer.startswith("[") and answer.endswith("]") else (answer,)


def _list_literal(row: Row, name: str) -> tuple[str, ...]:
    """Return the texts of a Python list that stands in a string, as this set writes lists."""
    text = row.text(name)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise row.error(name, f"is {text!r}", expected="a Python list of texts") from error
    if not isinstance(value, list) or not value:
        raise row.error(name, f"is {text!r}", expected="a Python list of texts")
    return tuple(str(each) for each in value)


def _subject(sample_id: str) -> tuple[str, ...]:
    found = SUBJECT.fullmatch(sample_id)
    if found is None or found[1] not in DOMAIN_OF_SUBJECT:
        return ()
    return f"domain={DOMAIN_OF_SUBJECT[found[1]]}", f"subject={found[1]}"


MMMU = PublicSet(
    name="mmmu",
    title="MMMU",
    licence="not stated on the hub's card: see the source",
    source="https://mmmu-benchmark.github.io",
    hub_ids=("lmms-lab/MMMU", "lmms-lab-encoder/MMMU"),
    splits={"validation": 900, "dev": 150},
    unanswered=("test",),
    columns={
        "id": "id",
        "question": "text",
        "options": "text",
        "answer": "text",
        "question_type": "text",
        "image_1": "picture",
    },
    optional_columns={"topic_difficulty": "text", **{name: "picture" for name in PICTURES[1:]}},
    pictures=PICTURES,
    prompt_template=CHOICE_PROMPT,
    scorers=("mmmu/1",),
    ask=_ask,
    traps=(
        "options, and three open answers, are Python lists written in a string",
        "several pictures are set side by side, for a request holds one here; `<image k>` stays in the text",
        "the official script guesses where no letter parses; here that is no answer, score 0",
        "MMMU/MMMU has a config for each subject; one repository with all of them is taken",
    ),
)
