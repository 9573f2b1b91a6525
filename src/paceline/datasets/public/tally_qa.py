"""TallyQA: how many there are, several questions a row."""

from paceline.datasets.public.description import Asked, PublicSet, Row
from paceline.datasets.scorers.tally import counting_split


def _ask(row: Row) -> Asked:
    simple = row.optional("is_simple" if "is_simple" in row.values else "issimple")
    if simple is not None and not isinstance(simple, bool):
        raise row.error("is_simple", f"is {simple!r}", expected="true or false")
    split = counting_split(data_source=row.optional("data_source"), is_simple=simple)
    return Asked(
        question=row.text("question"),
        references=(str(row.whole("answer")),),
        types=() if split is None else (f"split={split}",),
    )


TALLY_QA = PublicSet(
    name="tally_qa",
    title="TallyQA",
    licence="not stated: see the source; pictures: COCO and Visual Genome",
    source="https://github.com/manoja328/TallyQA_dataset",
    hub_ids=("vikhyatk/tallyqa-test",),
    splits={"test": None},
    columns={"qa": "questions", "image": "picture"},
    nested="qa",
    nested_columns={"question": "text", "answer": "count", "is_simple|issimple": "truth"},
    prompt_template=(
        "Look at the image carefully and count the objects. Answer with just a number, without any additional text. "
        "{question}"
    ),
    scorers=("tally/1", "tally_normalised/1"),
    ask=_ask,
    traps=(
        "any text that is not digits alone counts as 0, so `three` is wrong and `many` is right where there is none",
        "without data_source the split by is_simple is all that can be said, not the official one",
        "questions that are neither simple nor complex are in no split, and in the whole",
    ),
)
