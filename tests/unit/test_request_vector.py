import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import InvalidValueError
from paceline.records import PICTURE_RANGES, TIERS, PictureFeatures, RequestFeatures
from paceline.request_vector import RANGES, REQUEST_VECTOR_NAMES, REQUEST_VECTOR_VERSION, request_vector

FLAT = PictureFeatures(
    width_px=160, height_px=80, **{name: lowest for name, (lowest, _highest) in PICTURE_RANGES.items()}
)
COUNTS = {"low": 16, "medium": 49, "high": 100}
DOCUMENT = Path(__file__).parents[2] / "docs" / "request-features.md"


def request(**changed):
    return RequestFeatures(**{"text_tokens": 9, "vision_tokens": COUNTS, "picture": FLAT, **changed})


def named(features):
    return dict(zip(REQUEST_VECTOR_NAMES, request_vector(features), strict=True))


pictures = st.builds(
    PictureFeatures,
    width_px=st.integers(1, 10**9),
    height_px=st.integers(1, 10**9),
    **{
        name: st.integers(lowest, highest) if name == "mark_count" else st.floats(lowest, highest)
        for name, (lowest, highest) in PICTURE_RANGES.items()
    },
)
token_counts = st.integers(0, 10**9)
requests = st.builds(
    RequestFeatures,
    text_tokens=token_counts,
    vision_tokens=st.fixed_dictionaries(dict.fromkeys(TIERS, token_counts)),
    picture=pictures,
    prompt_embedding=st.none() | st.tuples(*[st.floats(-1, 1)] * 16),
)


@given(requests)
def test_every_number_is_finite_within_its_range_and_survives_a_file(features):
    vector = request_vector(features)
    assert len(vector) == len(REQUEST_VECTOR_NAMES) == 33
    for number, (lowest, highest) in zip(vector, RANGES.values(), strict=True):
        assert math.isfinite(number) and lowest <= number <= highest
    assert tuple(json.loads(json.dumps(vector))) == vector
    assert request_vector(features) == vector


def test_the_vector_of_a_known_request():
    picture = replace(FLAT, stroke_width=2 / 64, mark_size=0.25, mark_count=3, brightness=0.5)
    found = named(request(picture=picture, prompt_embedding=(0.6, -0.8, *[0.0] * 14)))
    assert found["log_text_tokens"] == pytest.approx(math.log(10), abs=1e-6)
    assert [found[f"log_vision_tokens_{tier}"] for tier in TIERS] == pytest.approx(
        [math.log(17), math.log(50), math.log(101)], abs=1e-6
    )
    assert found["log_pixels"] == pytest.approx(math.log(12_800), abs=1e-6)
    assert found["log_aspect"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["brightness"] == 0.5
    assert found["log_stroke_width"] == pytest.approx(math.log(3), abs=1e-6)
    assert found["log_mark_size"] == pytest.approx(math.log(17), abs=1e-6)
    assert found["log_mark_count"] == pytest.approx(math.log(4), abs=1e-6)
    assert found["has_prompt_embedding"] == 1
    assert [found[f"prompt_{index:02}"] for index in range(3)] == [0.6, -0.8, 0.0]


def test_a_request_without_an_embedding_says_so_and_differs_in_nothing_else():
    with_it, without = named(request(prompt_embedding=(1.0, *[0.0] * 15))), named(request())
    assert {name for name in with_it if with_it[name] != without[name]} == {"has_prompt_embedding", "prompt_00"}
    assert without["has_prompt_embedding"] == 0
    assert all(without[f"prompt_{index:02}"] == 0 for index in range(16))


def test_the_vector_knows_no_dataset_and_no_answer_length():
    assert request_vector(request(dataset="digits_read", expected_output_tokens=9.0)) == request_vector(request())


def test_a_model_without_tiers_has_its_tokens_under_all_three():
    found = named(request(vision_tokens={None: 99}))
    assert {found[f"log_vision_tokens_{tier}"] for tier in TIERS} == {round(math.log(100), 6)}


@given(requests)
def test_a_vector_that_was_computed_before_is_the_one_used(features):
    stored = request_vector(features)
    assert request_vector(RequestFeatures(text_tokens=1, vision_tokens={None: 1}, vector=stored)) == stored
    assert request_vector(request(vector=stored)) == stored


@pytest.mark.parametrize("wrong", [(), (0.5,) * 32, (0.5,) * 34, (*(0.5,) * 32, math.nan), (math.inf, *(0.5,) * 32)])
def test_a_vector_of_another_length_or_without_a_number_is_refused(wrong):
    with pytest.raises(InvalidValueError, match="expected 33 finite numbers"):
        request_vector(request(vector=wrong))


def test_a_request_that_does_not_tell_enough_is_refused_with_the_remedy():
    with pytest.raises(InvalidValueError, match=r"VisionLanguageModel\.features"):
        request_vector(request(picture=None))
    with pytest.raises(InvalidValueError, match=r"given for low only.*tier medium too"):
        request_vector(request(vision_tokens={"low": 16}))


@pytest.mark.parametrize("name", PICTURE_RANGES)
def test_a_statistic_beyond_its_range_cannot_be_built(name):
    lowest, highest = PICTURE_RANGES[name]
    for wrong in (lowest - 1, highest + 1, math.nan):
        with pytest.raises(InvalidValueError, match=name):
            replace(FLAT, **{name: wrong})


def test_impossible_sizes_and_embeddings_cannot_be_built():
    with pytest.raises(InvalidValueError, match="height_px"):
        replace(FLAT, height_px=0)
    for wrong in ((0.5,) * 15, (math.nan,) * 16, (2.0,) + (0.0,) * 15, ()):
        with pytest.raises(InvalidValueError, match="16 numbers from -1 to 1"):
            request(prompt_embedding=wrong)


def test_the_document_lists_names_order_ranges_and_version():
    text = DOCUMENT.read_text()
    assert f"## The vector, version {REQUEST_VECTOR_VERSION}\n" in text and "vector of 33 numbers" in text
    rows = re.findall(r"^\| `(\w+)`(?: … `\w+`)? \| (\S+) to (\S+) \|", text, flags=re.MULTILINE)
    expected = [name for name in REQUEST_VECTOR_NAMES if not re.fullmatch(r"prompt_(0[1-9]|1\d)", name)]
    assert [name for name, _low, _high in rows] == expected
    for name, lowest, highest in rows:
        assert (float(lowest), float(highest)) == pytest.approx(RANGES[name], abs=1e-6)
