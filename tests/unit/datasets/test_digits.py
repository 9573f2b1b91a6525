import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from paceline.datasets import DIGIT_SETS, DrawnPicture, VisualQuestion, digit_questions, score
from paceline.datasets.digits import CANVAS_SHAPES, SPLITS, compose_scene, digit_scans
from paceline.errors import UnknownChoiceError


def test_splits_share_no_scan_and_hold_all_of_them():
    def identities(split):
        scans = digit_scans(split)
        return [(bytes(pixels), int(label)) for pixels, label in zip(scans.pixels_SHW, scans.labels_S, strict=True)]

    everything = [each for split in SPLITS for each in identities(split)]
    assert len(everything) == len(load_digits().target) == 1797
    train, validation, test = (set(identities(split)) for split in ("train", "validation", "test"))
    assert not train & validation and not train & test and not validation & test


@pytest.mark.parametrize("dataset", DIGIT_SETS)
def test_questions_depend_on_their_number_alone(dataset):
    many, few = (digit_questions(dataset, split="test", count=count, seed=5) for count in (6, 3))
    assert many[:3] == few
    assert [q.picture.tobytes() for q in many[:3]] == [q.picture.tobytes() for q in few]
    assert len({q.sample_id for q in many}) == 6
    assert digit_questions(dataset, split="test", count=3, seed=6)[0].picture.tobytes() != few[0].picture.tobytes()


def test_answers_follow_from_the_scene():
    for index in range(200):
        scene = compose_scene(digit_scans("test"), np.random.default_rng(index))
        assert 1 <= len(scene.placed) <= 4 and scene.picture.size in CANVAS_SHAPES
        width, height = scene.picture.size
        quadrants = [(each.top >= height // 2, each.left >= width // 2) for each in scene.placed]
        assert quadrants == sorted(set(quadrants))  # reading order, one digit a quadrant
        for each in scene.placed:
            assert each.left + each.side <= width and each.top + each.side <= height
            assert (
                np.asarray(scene.picture)[each.top : each.top + each.side, each.left : each.left + each.side].max()
                > 100
            )


def test_exist_is_balanced_and_count_covers_one_to_four():
    exist = [q.references[0] for q in digit_questions("digits_exist", split="test", count=400)]
    assert 160 < exist.count("yes") < 240
    counts = {q.references[0] for q in digit_questions("digits_count", split="test", count=100)}
    assert counts == {"1", "2", "3", "4"}


@pytest.mark.parametrize(
    ("said", "right"), [("3 1 7", 1.0), (" 3  1 7 ", 1.0), ("3 1", 0.0), ("3 1 7 7", 0.0), ("", 0.0)]
)
def test_reading_needs_every_digit_in_order(said, right):
    question = VisualQuestion(
        sample_id="x",
        dataset="digits_read",
        pictures=(DrawnPicture(image=Image.new("RGB", (8, 8))),),
        prompt="?",
        references=("3 1 7",),
        scorer="exact_match/1",
    )
    assert score(question, said) == right


def test_unknown_names_are_refused_with_the_close_one():
    with pytest.raises(UnknownChoiceError, match="did you mean 'digits_count'"):
        digit_questions("digit_count", split="test", count=1)
    with pytest.raises(UnknownChoiceError, match="did you mean 'validation'"):
        digit_questions("digits_count", split="validate", count=1)
