import json

import polars as pl
import pytest

from paceline.accuracy import accuracy_document, analyze_accuracy, design_effects
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.profiles.questions import AskedQuestion
from paceline.profiles.told import ToldQuestion, told_questions
from paceline.records import KnobConfig

LOW, HIGH = (KnobConfig(tier=tier, top_k=4, num_active_blocks=8) for tier in ("low", "high"))
# (question, picture, types, scores under low and high)
ROWS = (
    ("a", "p", ["split=simple"], 1.0, 1.0),
    ("b", "p", ["split=complex"], 0.0, 1.0),
    ("c", "q", ["split=simple"], 0.0, 1.0),
    ("d", "r", ["split=simple", "other=x"], 1.0, 0.0),
)


def frame(rows=ROWS, dataset="tally_qa"):
    samples = [
        {
            "dataset": dataset,
            "sample_id": name,
            "tier": config.tier,
            "top_k": 4,
            "num_active_blocks": 8,
            "accuracy": score,
            "pred": "3" if score else "three",
            "metadata": json.dumps({"picture": picture, "types": types, "request_features": [1.0]}),
        }
        for name, picture, types, *scores in rows
        for config, score in zip((LOW, HIGH), scores, strict=True)
    ]
    return pl.DataFrame(samples).cast({"dataset": pl.Categorical, "tier": pl.Enum(["low", "medium", "high"])})


def test_accuracies_by_set_type_and_configuration():
    analysis = analyze_accuracy(frame())
    overall = {each.config: each for each in analysis.overall}
    assert overall[LOW].accuracy.mean == 0.5 and overall[HIGH].accuracy.mean == 0.75
    assert overall[LOW].pictures == 3 and overall[LOW].accuracy.count == 4
    low = {each.label: each.accuracy.mean for each in analysis.by_type if each.config == LOW}
    assert low == {"split=simple": pytest.approx(2 / 3), "split=complex": 0.0, "other=x": 1.0}
    assert json.loads(json.dumps(accuracy_document(analysis)))["overall"][0]["pictures"] == 3


def test_pairs_are_the_same_questions_and_unequal_ones_are_told():
    (pair,) = analyze_accuracy(frame()).differences
    assert (pair.config, pair.against, pair.difference) == (LOW, HIGH, -0.25)
    assert (pair.questions, pair.better, pair.worse) == (4, 1, 2)
    assert pair.interval.low < -0.25 < pair.interval.high
    (turned,) = analyze_accuracy(frame(), against=LOW).differences
    assert (turned.difference, turned.better, turned.worse) == (0.25, 2, 1)
    part = frame().filter(~((pl.col("sample_id") == "d") & (pl.col("tier") == "high")))
    (fewer,) = analyze_accuracy(part).differences
    assert fewer.questions == 3 and fewer.difference == pytest.approx(-2 / 3)


def test_equal_answers_leave_a_difference_open():
    (pair,) = analyze_accuracy(frame([(n, p, t, s, s) for n, p, t, s, _ in ROWS])).differences
    assert pair.difference == 0 and pair.interval.high == pytest.approx(1 - 0.05 ** (1 / 3))


def test_counts_report_their_error_where_the_questions_are_known():
    asked = {
        ("tally_qa", name): AskedQuestion(
            dataset="tally_qa", sample_id=name, picture_sha256="", prompt_sha256="", scorer="tally/1", references=("3",)
        )
        for name in "abcd"
    }
    overall = {each.config: each.count_rmse for each in analyze_accuracy(frame(), questions=asked).overall}
    assert overall == {LOW: pytest.approx((9 * 2 / 4) ** 0.5), HIGH: pytest.approx((9 / 4) ** 0.5)}
    assert analyze_accuracy(frame()).overall[0].count_rmse is None


def test_what_cannot_be_compared_is_a_sentence():
    with pytest.raises(UnknownChoiceError, match="configuration of tally_qa 'low_8_8' is unknown; expected low_4_8"):
        analyze_accuracy(frame(), against=KnobConfig(tier="low", top_k=8, num_active_blocks=8))
    apart = frame().filter((pl.col("sample_id") == "a") == (pl.col("tier") == "low"))
    with pytest.raises(InvalidValueError, match="configurations that answered the same questions"):
        analyze_accuracy(apart)


def test_metadata_of_other_tools_tells_nothing():
    for metadata in ('{"picture": 7}', '{"types": "x"}', "[1]", '{"other": 1}', "null"):
        samples = frame().with_columns(metadata=pl.lit(metadata))
        assert set(told_questions(samples).values()) == {ToldQuestion()}
        assert set(design_effects(samples).values()) == {1.0}
    assert design_effects(frame())["tally_qa", HIGH] >= 1
