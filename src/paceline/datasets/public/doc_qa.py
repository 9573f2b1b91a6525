"""DocVQA: questions about scanned pages."""

from paceline.datasets.public.description import Asked, PublicSet, Row


def _ask(row: Row) -> Asked:
    return Asked(
        sample_id=row.name("questionId"),
        question=row.text("question"),
        references=row.texts("answers"),
        types=row.types("question_types"),
    )


DOC_QA = PublicSet(
    name="doc_qa",
    title="DocVQA, single page",
    licence="of the competition (registration); pages: UCSF Industry Documents Library",
    source="https://www.docvqa.org",
    hub_ids=("lmms-lab/DocVQA", "lmms-lab-encoder/DocVQA"),
    config="DocVQA",
    splits={"validation": 5349},
    unanswered=("test",),
    columns={"questionId": "id", "question": "text", "answers": "texts", "image": "picture"},
    optional_columns={"question_types": "texts"},
    scorers=("anls/1",),
    ask=_ask,
    traps=(
        "the hub repository holds InfographicVQA too, under another config with other columns",
        "a similarity of exactly 0.5 counts, as in the competition's script; the formula in the papers drops it",
    ),
)
