"""TextVQA: questions whose answers are written in the picture."""

from paceline.datasets.public.description import Asked, PublicSet, Row

PEOPLE = 10  # the official evaluator asserts it


def _ask(row: Row) -> Asked:
    answers = row.texts("answers")
    if len(answers) != PEOPLE:
        raise row.error("answers", f"holds {len(answers)} answers", expected="those of ten people")
    return Asked(
        sample_id=row.name("question_id"),
        question=row.text("question"),
        references=answers,
        picture_id=row.name("image_id"),
    )


TEXT_VQA = PublicSet(
    name="text_vqa",
    title="TextVQA",
    licence="CC BY 4.0; pictures: Open Images (CC BY 2.0)",
    source="https://textvqa.org",
    hub_ids=("lmms-lab/textvqa", "lmms-lab-encoder/textvqa"),
    splits={"validation": 5000, "train": 34_602},
    unanswered=("test",),
    columns={"question_id": "id", "image_id": "id", "question": "text", "answers": "texts", "image": "picture"},
    scorers=("text_vqa/1",),
    ask=_ask,
    traps=(
        "answers are normalised by mmf's rule, not by VQA's: commas and question marks go first, possessives stand apart",
        "lmms-eval sends question.capitalize(), which lower-cases the rest; here the question stands as it is",
    ),
)
