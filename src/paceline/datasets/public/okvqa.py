"""OK-VQA: questions that take knowledge from outside the picture."""

from paceline.datasets.public.description import Asked, PublicSet, Row

PROMPT = (
    "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase."
)


def _ask(row: Row) -> Asked:
    return Asked(
        sample_id=row.name("question_id"),
        question=row.text("question"),
        references=row.texts("answers"),
        types=row.types("question_type", "answer_type"),
    )


OKVQA = PublicSet(
    name="okvqa",
    title="OK-VQA",
    licence="not stated on the hub's card; pictures: COCO's terms (Flickr)",
    source="https://okvqa.allenai.org",
    hub_ids=("lmms-lab/OK-VQA", "lmms-lab-encoder/OK-VQA"),
    splits={"val2014": 5046},
    columns={"question_id": "id", "question": "text", "answers": "texts", "image": "picture"},
    optional_columns={"question_type": "text", "answer_type": "text"},
    prompt_template=PROMPT,
    scorers=("vqa/1", "vqa_normalised/1"),
    ask=_ask,
    traps=(
        "five people, each answer twice; which of `answer` and `raw_answer` the hub's column holds is not documented",
        "no picture id: questions share a picture where its bytes are equal",
        "nothing is normalised when all answers agree, as in VQA",
    ),
)
