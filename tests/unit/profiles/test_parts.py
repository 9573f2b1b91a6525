"""Which questions choose and which certify: pictures stay whole, the file is sealed, and who chose never judges."""

import json
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import CertificateError, ProfileDataError
from paceline.profiles.answers import FILE_NAME as ANSWERS
from paceline.profiles.answers import Answer, AnswerJournal, read_answers
from paceline.profiles.parts import FILE_NAME, QuestionParts, part_questions, refuse_choosing_part
from paceline.profiles.questions import AskedQuestion


def question(dataset, number, picture):
    return AskedQuestion(
        dataset=dataset,
        sample_id=f"{dataset}-{number}",
        picture_sha256=f"{picture:064x}",
        prompt_sha256="0" * 64,
        scorer="vqa/1",
        references=("yes",),
        picture_id=f"p{picture}",
    )


@settings(deadline=None, max_examples=60)
@given(
    pictures=st.lists(st.integers(0, 30), min_size=4, max_size=80),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.1, 0.6),
)
def test_a_picture_is_in_one_part_and_every_question_in_exactly_one(pictures, seed, share):
    asked = [question("ab"[number % 2], number, picture) for number, picture in enumerate(pictures)]
    parts = part_questions(asked, choosing=max(1, round(share * len(asked))), seed=seed)
    keys = {(each.dataset, each.sample_id): each.picture_sha256 for each in asked}
    assert sorted(parts.choosing + parts.certifying) == sorted(keys)
    chose, certify = ({keys[key] for key in part} for part in (parts.choosing, parts.certifying))
    assert not chose & certify
    assert part_questions(list(reversed(asked)), choosing=max(1, round(share * len(asked))), seed=seed) == parts
    in_order = [keys[key] for key in parts.certifying]
    starts = [place for place in range(len(in_order)) if place == 0 or in_order[place] != in_order[place - 1]]
    assert len(starts) == len(certify), "questions about one picture stand together"
    assert parts.most_shared == max((in_order.count(picture) for picture in certify), default=1)
    assert len(set(zip(parts.pictures, in_order, strict=True))) == len(set(parts.pictures)) == len(certify)


def test_pictures_of_two_sets_with_one_id_are_two_and_one_picture_in_two_sets_is_one():
    asked = [question("ab"[number % 2], number, number // 2) for number in range(40)]
    parts = part_questions(asked, choosing=10, seed=1)
    assert parts.most_shared == 2 and len(set(parts.pictures)) == len(parts.pictures) / 2
    apart = [replace(each, picture_sha256=f"{number:064x}") for number, each in enumerate(asked)]
    assert part_questions(apart, choosing=10, seed=1).most_shared == 1


def test_every_set_gives_its_share_to_the_choosing_part():
    asked = [question(name, number, 100 * place + number) for place, name in enumerate("abc") for number in range(100)]
    parts = part_questions(asked, choosing=60, seed=1)
    assert [sum(key[0] == name for key in parts.choosing) for name in "abc"] == [20, 20, 20]
    assert part_questions(asked, choosing=60, seed=2).choosing != parts.choosing


def test_an_edited_file_is_refused_and_a_store_without_one_has_no_parts(tmp_path):
    assert QuestionParts.read(tmp_path) is None
    parts = part_questions([question("a", number, number) for number in range(30)], choosing=10, seed=1)
    parts.write(tmp_path)
    assert QuestionParts.read(tmp_path) == parts
    path = tmp_path / FILE_NAME
    document = json.loads(path.read_text())
    document["choosing"], document["certifying"] = document["choosing"][1:], [*document["certifying"], ["a", "a-1"]]
    path.write_text(json.dumps(document))
    with pytest.raises(CertificateError, match="was changed after it was written"):
        QuestionParts.read(tmp_path)
    path.write_text("{")
    with pytest.raises(CertificateError, match="certify into a new directory"):
        QuestionParts.read(tmp_path)


def test_questions_that_chose_neither_certify_nor_calibrate(tmp_path):
    parts = part_questions([question("a", number, number) for number in range(30)], choosing=10, seed=1)
    parts.write(tmp_path)
    samples = pl.DataFrame(list(parts.certifying), schema=["dataset", "sample_id"], orient="row")
    refuse_choosing_part(tmp_path, samples, purpose="calibrating bounds")
    mixed = pl.concat([samples, pl.DataFrame([parts.choosing[0]], schema=["dataset", "sample_id"], orient="row")])
    with pytest.raises(CertificateError, match="1 questions of the choosing part are offered for calibrating bounds"):
        refuse_choosing_part(tmp_path, mixed, purpose="calibrating bounds")
    refuse_choosing_part(tmp_path / "other", mixed, purpose="calibrating bounds")
    (tmp_path / "samples.parquet").touch()
    with pytest.raises(CertificateError, match="1 questions of the choosing part"):
        refuse_choosing_part(tmp_path / "samples.parquet", mixed, purpose="calibrating bounds")


ANSWER = Answer(
    dataset="a",
    sample_id="a-1",
    config="low_8_16",
    accuracy=0.3,
    pred="yes",
    output_tokens=2,
    batch_size=7,
)


def test_an_answer_in_flight_is_dropped_and_a_line_that_is_none_is_named(tmp_path):
    assert list(read_answers(tmp_path)) == []
    with AnswerJournal.open(tmp_path) as journal:
        journal.append(ANSWER)
    with (tmp_path / ANSWERS).open("ab") as file:
        file.write(b'{"dataset": "a", "sam')
    assert list(read_answers(tmp_path)) == [ANSWER]
    with AnswerJournal.open(tmp_path) as journal:
        assert journal.accuracies == {ANSWER.key: 0.3}
    with (tmp_path / ANSWERS).open("ab") as file:
        file.write(b'{"dataset": "a"}\n')
    with pytest.raises(ProfileDataError, match="line 2"):
        AnswerJournal.open(tmp_path)
