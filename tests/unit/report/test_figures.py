"""Intervals on the report's page: questions about one picture count as what they tell together."""

import json

import polars as pl
import pytest

from paceline.accuracy import analyze_accuracy
from paceline.analyze import analyze_budgets
from paceline.report.figures import front_rows, kept_shares, knob_rows, shared_pictures

QUESTIONS = 120


def samples(questions_a_picture):
    """Synthetic answers under two tiers: right or wrong, fast or slow, as their picture is."""
    rows = []
    for number in range(QUESTIONS):
        picture = number // questions_a_picture
        for tier, tokens in (("low", 1), ("high", 4)):
            right = (picture * (3 if tier == "low" else 5)) % 7 < 3 + tokens // 2
            rows.append(
                {
                    "dataset": "vqa",
                    "sample_id": str(number),
                    "tier": tier,
                    "top_k": 4,
                    "num_active_blocks": 8,
                    "accuracy": float(right),
                    "T_vision_total": 1.0 * tokens,
                    "T_LLM_prefill": 2.0 * tokens + picture % 5,
                    "pred": "",
                    "metadata": json.dumps({"picture": f"p{picture}"}),
                }
            )
    return pl.DataFrame(rows).cast({"dataset": pl.Categorical, "tier": pl.Enum(["low", "medium", "high"])})


def width(row, name):
    return row[f"{name}_high"] - row[f"{name}_low"]


def front(frame, pictures):
    return {row["key"]: row for row in front_rows(analyze_budgets(frame), frame, pictures)["vqa"]}


def test_accuracies_have_the_intervals_of_the_accuracy_command():
    frame = samples(4)
    rows = front(frame, shared_pictures(frame))
    for each in analyze_accuracy(frame).overall:
        row = rows[each.config.key]
        assert row["accuracy_low"] == pytest.approx(each.interval.low, abs=1e-4)
        assert row["accuracy_high"] == pytest.approx(each.interval.high, abs=1e-4)


def test_four_like_questions_a_picture_tell_as_much_as_one():
    frame = samples(4)
    shared, plain = front(frame, shared_pictures(frame)), front(frame, {})
    for key, row in shared.items():
        for name in ("accuracy", "latency_ms"):
            assert width(row, name) == pytest.approx(2 * width(plain[key], name), rel=0.05)


def test_a_picture_a_question_changes_nothing():
    frame = samples(1)
    assert front(frame, shared_pictures(frame)) == front(frame, {})
    assert knob_rows(frame, "prefill", shared_pictures(frame)) == knob_rows(frame, "prefill", {})


def test_what_a_knob_does_has_the_interval_of_the_paired_difference():
    frame = samples(4)
    (pair,) = analyze_accuracy(frame).differences
    low = next(row for row in knob_rows(frame, "prefill", shared_pictures(frame))["tier"] if row["value"] == "low")
    assert low["accuracy"] == pytest.approx(100 * pair.difference, abs=1e-4)
    assert low["accuracy_low"] == pytest.approx(100 * pair.interval.low, abs=1e-3)
    assert low["accuracy_high"] == pytest.approx(100 * pair.interval.high, abs=1e-3)


def test_the_share_that_kept_a_budget_counts_pictures_too():
    frame, taken = samples(4), {"vqa": {"own": ["low_4_8"]}}
    one_each = frame.filter(pl.col("sample_id").cast(int) % 4 == 0)
    ((share, low, high),) = kept_shares(frame, "prefill", [5.0], taken, shared_pictures(frame))["vqa"]["own"]
    assert [[share, low, high]] == kept_shares(one_each, "prefill", [5.0], taken, {})["vqa"]["own"]
    assert 0 < low < share < high < 1


def test_metadata_that_was_not_read_tells_no_pictures():
    assert shared_pictures(samples(2).drop("metadata")) == {}
