import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import InvalidValueError
from paceline.profiles import Split, split_samples


def frame(names: list[tuple[str, str]], configs: int = 3) -> pl.DataFrame:
    rows = [(dataset, sample, top_k) for dataset, sample in names for top_k in range(configs)]
    return pl.DataFrame(rows, schema=["dataset", "sample_id", "top_k"], orient="row").with_columns(
        pl.col("dataset").cast(pl.Categorical)
    )


NAMES = [(dataset, f"{number}") for dataset in ("text_vqa", "okvqa") for number in range(150)]


def test_every_row_is_in_one_part_and_a_sample_in_one_only():
    samples = frame(NAMES)
    parts = split_samples(samples, Split())
    each = [parts.fit, parts.calibration, parts.test]
    assert pl.concat(each).sort(pl.all()).equals(samples.sort(pl.all()))
    keys = [set(part.select("dataset", "sample_id").iter_rows()) for part in each]
    assert not (keys[0] & keys[1] or keys[1] & keys[2] or keys[0] & keys[2])
    assert all(part.columns == samples.columns for part in each)


@given(st.integers(0, 9999), st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_shares_are_near_those_asked_for(seed, calibration, test):
    split = Split(seed=seed, calibration_share=calibration, test_share=test)
    parts = [split.part_of("text_vqa", str(number)) for number in range(2000)]
    for part, share in (("calibration", calibration), ("test", test)):
        assert abs(parts.count(part) / 2000 - share) < 5 * (share * (1 - share) / 2000) ** 0.5


def test_what_is_held_out_stays_so_when_a_profile_grows_or_is_read_in_part():
    few, all_of_them = split_samples(frame(NAMES[:150], 1), Split()), split_samples(frame(NAMES, 5), Split())
    held_out = set(all_of_them.test.select("dataset", "sample_id").iter_rows())
    assert set(few.test.select("dataset", "sample_id").iter_rows()) == {
        name for name in NAMES[:150] if name in held_out
    }


def test_names_of_a_dataset_with_dashes_and_underscores_are_one():
    split = Split()
    assert [split.part_of("text-vqa", str(n)) for n in range(50)] == [
        split.part_of("text_vqa", str(n)) for n in range(50)
    ]


def test_another_seed_parts_otherwise():
    parts = [[Split(seed=seed).part_of("okvqa", str(n)) for n in range(100)] for seed in (1, 2)]
    assert parts[0] != parts[1]


def test_too_few_samples_and_impossible_shares_are_refused_with_the_remedy():
    with pytest.raises(InvalidValueError, match="none of them in the part for .*profile more"):
        split_samples(frame(NAMES[:2]), Split())
    for shares in ({"test_share": 0}, {"test_share": 1.0}, {"calibration_share": -0.1}):
        with pytest.raises(InvalidValueError, match="a share between 0 and 1"):
            Split(**shares)
    with pytest.raises(InvalidValueError, match="some samples are fitted"):
        Split(calibration_share=0.6, test_share=0.4)


PICTURES = {name: f"picture{int(name[1]) // 3}" for name in NAMES}  # three questions of either dataset share one


def test_questions_of_a_picture_go_together_and_one_of_them_calibrates_or_judges():
    parts = split_samples(frame(NAMES), Split(by_picture=True), PICTURES)
    found = [
        set(part.select("dataset", "sample_id").iter_rows()) for part in (parts.fit, parts.calibration, parts.test)
    ]
    pictures = [{PICTURES[name] for name in names} for names in found]
    assert not (pictures[0] & pictures[1] or pictures[1] & pictures[2] or pictures[0] & pictures[2])
    assert [len(names) for names in found[1:]] == [len(each) for each in pictures[1:]], "one question a picture"
    assert len(found[0]) == 6 * len(pictures[0])
    assert parts.left_out == 5 * (len(pictures[1]) + len(pictures[2])) == len(NAMES) - sum(map(len, found))


def test_a_split_by_picture_stays_when_a_profile_grows():
    split = Split(by_picture=True)
    few, more = split_samples(frame(NAMES[:90]), split, PICTURES), split_samples(frame(NAMES), split, PICTURES)
    for small, large in ((few.fit, more.fit), (few.test, more.test), (few.calibration, more.calibration)):
        told = [{PICTURES[name] for name in part.select("dataset", "sample_id").iter_rows()} for part in (small, large)]
        assert told[0] and told[0] <= told[1]


def test_a_split_by_picture_needs_the_pictures():
    known = {name: picture for name, picture in PICTURES.items() if name != NAMES[7]}
    with pytest.raises(
        InvalidValueError, match="does not tell the picture of question '7' of text_vqa.*name the store"
    ):
        split_samples(frame(NAMES), Split(by_picture=True), known)
