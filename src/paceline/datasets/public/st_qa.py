"""ST-VQA: questions about text in scenes, several a row."""

from paceline.datasets.public.description import Asked, PublicSet, Row


def _ask(row: Row) -> Asked:
    return Asked(question=row.text("question"), references=row.texts("answers"))


ST_QA = PublicSet(
    name="st_qa",
    title="ST-VQA",
    licence="of the competition; pictures: those of its source sets (COCO, Visual Genome, ImageNet, VizWiz, …)",
    source="https://rrc.cvc.uab.es/?ch=11",
    hub_ids=("vikhyatk/st-vqa",),
    splits={"train": None},
    unanswered=("test",),
    columns={"qas": "questions", "image": "picture"},
    nested="qas",
    nested_columns={"question": "text", "answers": "texts"},
    scorers=("anls/1",),
    ask=_ask,
    traps=(
        "no question ids: a sample is named by its row and its place in the row, so a file in another order is another set",
        "lmms-lab/ST-VQA holds the test split alone, without answers",
        "its own script is not public: DocVQA's rule is taken, as both belong to the Robust Reading Competition",
    ),
)
