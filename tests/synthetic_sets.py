"""Small local copies of the public data sets, in the schema that the hub has: everything in them is synthetic.

Pictures are drawn here: coloured discs and a few words on a plain ground. Questions and answers are made up.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "orange", "purple")
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ANSWER = pa.struct([("answer", pa.string()), ("answer_confidence", pa.string()), ("answer_id", pa.int64())])
TEXTS = pa.list_(pa.string())


def drawn(number: int, *, size: tuple[int, int] = (96, 72), discs: int | None = None) -> bytes:
    """Return a JPEG of `discs` coloured discs; numbers give different pictures."""
    picture = Image.new("RGB", size, (235, 235, 220 - number % 40))
    pen = ImageDraw.Draw(picture)
    for disc in range(number % 4 + 1 if discs is None else discs):
        left, top = (11 + 23 * disc + number % 7) % (size[0] - 20), (7 + 13 * disc + number % 5) % (size[1] - 20)
        pen.ellipse((left, top, left + 16, top + 16), fill=COLOURS[(number + disc) % len(COLOURS)])
    pen.text((3, size[1] - 12), f"no. {number}", fill="black")
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def picture(number: int) -> dict[str, Any]:
    """Return a picture as a column of the hub holds it."""
    return {"bytes": drawn(number), "path": f"synthetic-{number:04d}.jpg"}


def coco_2014_vqa(number: int) -> dict[str, Any]:
    said = [COLOURS[number % 5]] * 7 + ["grey"] * 3
    return {
        "question_type": ("what color is the", "how many")[number % 2],
        "multiple_choice_answer": said[0],
        "answers": [
            {"answer": each, "answer_confidence": "yes", "answer_id": person + 1} for person, each in enumerate(said)
        ],
        "image_id": 100 + number // 2,  # two questions a picture
        "answer_type": ("other", "number")[number % 2],
        "question_id": 1000 + number,
        "question": "What color is the disc?",
        "image": picture(number // 2),
    }


def text_vqa(number: int) -> dict[str, Any]:
    return {
        "image_id": f"synthetic{number // 2:04d}",
        "question_id": number,
        "question": "what number is written there?",
        "question_tokens": ["what"],
        "image": picture(number // 2),
        "image_width": 96,
        "image_height": 72,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": [str(number // 2)] * 8 + ["no. 1"] * 2,
        "image_classes": ["Disc"],
        "set_name": "val",
        "ocr_tokens": ["no."],
    }


def okvqa(number: int) -> dict[str, Any]:
    return {
        "question_id": str(5000 + number),
        "image": picture(number // 2),
        "question": "What shape is shown?",
        "answers": [word for word in ("disc", "circle", "ball", "dot", "round") for _ in range(2)],
        "question_type": ("one", "two", "other")[number % 3],
        "answer_type": "other",
    }


def doc_qa(number: int) -> dict[str, Any]:
    return {
        "questionId": str(7000 + number),
        "question": "What is the number on the page?",
        "question_types": [["layout"], ["handwritten", "form"]][number % 2],
        "image": picture(number // 2),
        "docId": number // 2,
        "ucsf_document_id": "synthetic",
        "ucsf_document_page_no": "1",
        "answers": [f"no. {number // 2}", str(number // 2)],
        "data_split": "val",
    }


def st_qa(number: int) -> dict[str, Any]:
    asked = [("What is written?", [f"no. {number}"]), ("Which number is it?", [str(number)])]
    return {"image": picture(number), "qas": [{"question": q, "answers": a} for q, a in asked[: 1 + number % 2]]}


def science_qa_img(number: int) -> dict[str, Any]:
    return {
        "image": None if number % 5 == 4 else picture(number),
        "question": "Which of these colours does the first disc have?",
        "choices": list(COLOURS[: 3 + number % 2]),
        "answer": number % 3,
        "hint": "The discs are drawn." if number % 2 else "",
        "task": "closed choice",
        "grade": f"grade{number % 3}",
        "subject": ("natural science", "social science")[number % 2],
        "topic": "synthetic",
        "category": "",
        "skill": "",
        "lecture": "",
        "solution": "",
    }


def mmmu(number: int) -> dict[str, Any]:
    is_open, two = number % 4 == 3, number % 4 == 1
    return {
        "id": f"validation_{('Math', 'Chemistry')[number % 2]}_{number + 1}",
        "question": "How many discs are in <image 1>" + (" and <image 2>?" if two else "?"),
        "options": "[]" if is_open else "['1', '2', \"3\", '4']",
        "explanation": "",
        **{f"image_{place}": picture(number + place) if place <= 1 + two else None for place in range(1, 8)},
        "img_type": "['Diagrams']",
        "answer": "['4', 'four']" if is_open else "ABCD"[number % 4],
        "topic_difficulty": ("Easy", "Medium", "Hard")[number % 3],
        "question_type": "open" if is_open else "multiple-choice",
        "subfield": "synthetic",
    }


def tally_qa(number: int) -> dict[str, Any]:
    asked = [
        {"question": "How many discs are there?", "answer": number % 4 + 1, "is_simple": True},
        {"question": "How many red discs touch a blue one?", "answer": 0, "is_simple": False},
    ]
    return {"image": picture(number), "qa": asked[: 1 + number % 2]}


def coco_caption(number: int) -> dict[str, Any]:
    colour = COLOURS[number % 5]
    return {
        "question_id": f"COCO_val2017_{number + 1:012d}.jpg",
        "image": picture(number),
        "question": "Please carefully observe the image and come up with a caption for the image",
        "answer": [
            f"A {colour} disc on a pale ground.",
            f"{number % 4 + 1} discs, the first one {colour}.",
            "Some discs above a number.",
        ],
        "id": number,
    }


Make = Callable[[int], dict[str, Any]]
ROWS: Mapping[str, Make] = {
    each.__name__: each
    for each in (coco_2014_vqa, text_vqa, okvqa, doc_qa, st_qa, science_qa_img, mmmu, tally_qa, coco_caption)
}
SPLITS = {
    "coco_2014_vqa": "validation",
    "text_vqa": "validation",
    "okvqa": "val2014",
    "doc_qa": "validation",
    "st_qa": "train",
    "science_qa_img": "test",
    "mmmu": "validation",
    "tally_qa": "test",
    "coco_caption": "val",
}
TYPES: Mapping[str, Mapping[str, pa.DataType]] = {
    "coco_2014_vqa": {"answers": pa.list_(ANSWER)},
    "text_vqa": {"question_id": pa.int32(), "answers": TEXTS},
    "science_qa_img": {"answer": pa.int8()},
}


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows with the hub's column types; columns not in TYPES are as their values say."""
    columns: dict[str, pa.Array] = {}
    for column in rows[0]:
        kind = PICTURE if column.startswith("image") and isinstance_picture(rows, column) else None
        kind = TYPES.get(name, {}).get(column, kind)
        columns[column] = pa.array([row[column] for row in rows], type=kind)
    return pa.table(columns)


def isinstance_picture(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column holds pictures, null ones included."""
    return column == "image" or (column.startswith("image_") and column[6:].isdigit())


def write_set(folder: Path, name: str, count: int = 8, *, files: int = 2, rows: Sequence[Any] | None = None) -> Path:
    """Write `count` rows of a set below `folder` as the hub names its files, and return the folder."""
    made = list(rows) if rows is not None else [ROWS[name](number) for number in range(count)]
    target = folder / name / "data"
    target.mkdir(parents=True)
    share = -(-len(made) // files)
    for part in range(files):
        path = target / f"{SPLITS[name]}-{part:05d}-of-{files:05d}.parquet"
        pq.write_table(table(name, made[part * share : (part + 1) * share] or made[:0]), path, row_group_size=3)
    return folder / name
