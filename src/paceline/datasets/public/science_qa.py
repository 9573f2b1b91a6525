"""ScienceQA: the multiple-choice questions that come with a picture."""

from paceline.datasets.public.description import NO_ANSWERS, Asked, PublicSet, Row
from paceline.datasets.scorers.mmmu import option_letters
from paceline.datasets.scorers.multiple_choice import LETTERS


def _ask(row: Row) -> Asked:
    choices, answer = row.texts("choices"), row.whole("answer")
    if len(choices) > len(LETTERS):
        raise row.error("choices", f"holds {len(choices)} options", expected=f"at most {len(LETTERS)}")
    if answer >= len(choices):
        raise row.error("answer", f"is {answer}", expected=f"an index of {len(choices)} choices", mend=NO_ANSWERS)
    hint = row.optional("hint")
    return Asked(
        question=row.text("question"),
        references=(option_letters(len(choices))[answer],),
        choices=choices,
        context=f"Context: {hint}\n" if hint else "",
        types=row.types("subject", "grade"),
    )


SCIENCE_QA_IMG = PublicSet(
    name="science_qa_img",
    title="ScienceQA, questions with a picture",
    licence="CC BY-NC-SA 4.0",
    source="https://scienceqa.github.io",
    hub_ids=("lmms-lab/ScienceQA", "lmms-lab-encoder/ScienceQA"),
    config="ScienceQA-IMG",
    splits={"test": 2017, "validation": 2097, "train": 6218},
    columns={"question": "text", "choices": "texts", "answer": "whole number", "image": "picture"},
    optional_columns={"hint": "text", "subject": "text", "grade": "text"},
    pictures_optional=True,
    prompt_template="{context}{question}\n{options}\nAnswer with the option's letter from the given choices directly.",
    scorers=("multiple_choice/1",),
    ask=_ask,
    traps=(
        "the answer is an index from 0; a sample is named by the number of its row",
        "rows without a picture are not part of the set; they are counted and left out",
        "a blank before the letter, `B.` and `b` are wrong: LLaVA's parser is taken, and nothing is guessed",
    ),
)
