"""COCO captions: one sentence for a picture, judged as a whole set."""

import re

from paceline.datasets.public.description import Asked, PublicSet, Row

PICTURE_NUMBER = re.compile(r"(?:.*_)?0*(\d+)(?:\.\w+)?")


def _ask(row: Row) -> Asked:
    name = row.name("question_id")
    number = PICTURE_NUMBER.fullmatch(name)
    if number is None:
        raise row.error("question_id", f"is {name!r}", expected="a file name that ends with the picture's number")
    return Asked(sample_id=number[1], question="", references=row.texts("answer"), picture_id=number[1])


COCO_CAPTION = PublicSet(
    name="coco_caption",
    title="COCO Captions, 2017 validation",
    licence="CC BY 4.0 (captions); pictures: COCO's terms (Flickr)",
    source="https://cocodataset.org/#captions-2015",
    hub_ids=(
        "lmms-lab/COCO-Caption2017",
        "lmms-lab-encoder/COCO-Caption2017",
        "lmms-lab/COCO-Caption",
        "lmms-lab-encoder/COCO-Caption",
    ),
    splits={"val": 5000},
    unanswered=("test",),
    columns={"question_id": "id", "answer": "texts", "image": "picture"},
    prompt_template="Provide a one-sentence caption for the provided image.",
    scorers=("cider/1",),
    ask=_ask,
    traps=(
        "CIDEr weighs words by how rare they are among the pictures scored together: a part of the set is another figure",
        "scores run from 0 to 10, and a good model's mean is near 1: papers print 100 times the mean",
        "a picture's accuracy exists when every picture asked was captioned under that configuration",
    ),
)
