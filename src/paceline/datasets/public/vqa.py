"""VQA v2.0: open questions about COCO pictures, each with the answers of ten people."""

from typing import Any

from paceline.datasets.public.description import NO_ANSWERS, Asked, PublicSet, Row


def _ask(row: Row) -> Asked:
    return Asked(
        sample_id=row.name("question_id"),
        question=row.text("question"),
        references=_answers(row),
        picture_id=row.name("image_id"),
        types=row.types("answer_type", "question_type"),
    )


def _answers(row: Row) -> tuple[str, ...]:
    records: list[Any] = row.values.get("answers") or []
    if not records:
        raise row.error("answers", "is empty", expected="the answers of ten people", mend=NO_ANSWERS)
    said = [each.get("answer") if isinstance(each, dict) else each for each in records]
    texts = tuple(each for each in said if isinstance(each, str))
    if len(texts) < len(records):
        raise row.error("answers", f"is {records!r}", expected="a list of answers, each with its text as `answer`")
    return texts


COCO_2014_VQA = PublicSet(
    name="coco_2014_vqa",
    title="VQA v2.0 on COCO 2014",
    licence="CC BY 4.0 (annotations); pictures: COCO's terms (Flickr)",
    source="https://visualqa.org",
    hub_ids=("lmms-lab/VQAv2", "lmms-lab-encoder/VQAv2"),
    splits={"validation": 214_354},
    unanswered=("test", "testdev"),
    columns={
        "question_id": "id",
        "image_id": "id",
        "question": "text",
        "answers": "answers",
        "question_type": "text",
        "answer_type": "text",
        "image": "picture",
    },
    scorers=("vqa/1", "vqa_normalised/1"),
    ask=_ask,
    traps=(
        "the official script normalises nothing when all ten answers agree: `Yes` against ten `yes` scores 0",
        "people are told apart by position, never by equal text",
    ),
)
