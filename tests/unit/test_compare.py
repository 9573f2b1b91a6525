"""Two profiles against each other: what was changed by hand is found, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.compare import compare_profiles
from paceline.errors import InvalidValueError
from paceline.profiles import SCHEMA, Profile

TIERS, BLOCKS = ("low", "high"), (12, 16)


def samples(seed, *, count=40, factor=None, loss=0.0, noise=0.05):
    """Synthetic samples; `factor` maps a configuration's (tier, blocks) to what its latency is multiplied by."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        hardness = np.random.default_rng(index).uniform(0.5, 2)
        for tier in TIERS:
            for blocks in BLOCKS:
                latency = 10 * hardness * blocks / 12 * (factor or {}).get((tier, blocks), 1.0)
                latency *= float(np.exp(noise * random.standard_normal()))
                lost = loss if (tier, blocks) == ("low", 12) else 0.0
                rows.append(
                    {
                        "dataset": "synthetic", "sample_id": str(index), "tier": tier, "top_k": None,
                        "num_active_blocks": blocks, "accuracy": float(random.uniform() < 0.9 - lost),
                        "T_vision_total": 0.4 * latency, "T_LLM_prefill": 0.6 * latency, "T_total": 2 * latency,
                        "T_ttft": 1.1 * latency, "pred": "7", "metadata": "{}",
                    }
                )  # fmt: skip
    frame = pl.DataFrame(rows)
    return frame.with_columns(pl.col(name).cast(SCHEMA[name]) for name in frame.columns)


def profile(frame):
    return Profile(samples=frame, source=Path("synthetic"), provenance=(), left_out=())


def keys(changes):
    return {(each.config.tier, each.config.num_active_blocks) for each in changes}


def test_what_became_slower_is_named_with_how_much():
    found = compare_profiles(profile(samples(2, factor={("low", 16): 1.2})), profile(samples(1)))
    assert keys(found.slower) == {("low", 16)}
    (slower,) = found.slower
    assert slower.ratio == pytest.approx(1.2, rel=0.05) and slower.ratio_interval.low < slower.ratio
    assert slower.pairs == 40 and found.left_out == 0 and 1.0 < found.all_ratio < 1.1


def test_what_became_less_accurate_is_named():
    found = compare_profiles(profile(samples(2, count=300, loss=0.5)), profile(samples(1, count=300)))
    assert keys(found.less_accurate) == {("low", 12)} and found.less_accurate[0].accuracy < -0.3


def test_a_profile_beside_itself_has_not_changed():
    frame = samples(1)
    found = compare_profiles(profile(frame), profile(frame.sample(fraction=1, shuffle=True, seed=3)))
    assert all(each.ratio == 1.0 and each.accuracy == 0.0 for each in found.changes)
    assert found.slower == () and found.less_accurate == () and found.all_ratio == 1.0


@given(factor=st.floats(0.2, 5), seed=st.integers(0, 2**32 - 1))
def test_a_factor_on_everything_is_found_on_everything(factor, seed):
    before = samples(seed, count=12)
    after = before.with_columns(pl.col("T_vision_total", "T_LLM_prefill") * factor)
    found = compare_profiles(profile(after), profile(before))
    assert all(each.ratio == pytest.approx(factor, rel=1e-4) for each in found.changes)
    there = compare_profiles(profile(before), profile(after))
    assert there.all_ratio * found.all_ratio == pytest.approx(1, rel=1e-4)


def test_false_alarms_are_as_rare_as_told():
    pairs = [(profile(samples(2 * seed, count=15)), profile(samples(2 * seed + 1, count=15))) for seed in range(60)]
    alarms = sum(bool(found.slower or found.less_accurate) for found in (compare_profiles(*each) for each in pairs))
    assert alarms <= 9  # at 0.05 a comparison more than nine of sixty come once in 500 times


def about_pictures(frame, questions_each):
    """The same samples, so many questions in turn about one picture, which are all alike."""
    picture = pl.col("sample_id").cast(pl.Int64) // questions_each
    told = [json.dumps({"picture": f"p{int(name) // questions_each}"}) for name in frame["sample_id"]]
    first = frame.filter(pl.col("sample_id").cast(pl.Int64) % questions_each == 0).with_columns(picture=picture)
    keys = ["picture", "tier", "num_active_blocks"]
    figures = ["accuracy", "T_vision_total", "T_LLM_prefill", "T_total", "T_ttft"]
    alike = (
        frame.drop(figures)
        .with_columns(picture=picture)
        .join(first.select(*keys, *figures), on=keys, maintain_order="left")
    )
    return alike.drop("picture").with_columns(metadata=pl.Series(told)).select(frame.columns)


def test_questions_about_one_picture_count_as_one():
    """Four questions that change alike tell no more than one of them."""
    alike = [about_pictures(samples(seed, count=120), 4) for seed in (1, 2)]
    four, untold = (
        compare_profiles(*(profile(frame.drop(left_out)) for frame in alike)) for left_out in ([], ["metadata"])
    )
    for narrow, wide in zip(untold.changes, four.changes, strict=True):
        assert wide.ratio == pytest.approx(narrow.ratio)
        spread = [np.log(found.ratio_interval.high / found.ratio_interval.low) for found in (narrow, wide)]
        assert spread[1] == pytest.approx(2 * spread[0], rel=0.05)


def test_ten_questions_about_nine_pictures_are_too_few():
    frames = [about_pictures(samples(seed, count=18), 2) for seed in (1, 2)]
    with pytest.raises(InvalidValueError, match="about as many pictures"):
        compare_profiles(*map(profile, frames))


def test_samples_that_one_alone_has_are_counted():
    frame = samples(1)
    found = compare_profiles(profile(frame.filter(pl.col("sample_id") != "3")), profile(frame))
    assert found.left_out == 4 and all(each.pairs == 39 for each in found.changes)


def test_profiles_with_nothing_in_common_are_refused():
    frame = samples(1, count=9)
    with pytest.raises(InvalidValueError, match="at least 10 of one configuration"):
        compare_profiles(profile(frame), profile(frame))
    other = frame.with_columns(dataset=pl.lit("other").cast(SCHEMA["dataset"]))
    with pytest.raises(InvalidValueError, match="0 questions"):
        compare_profiles(profile(frame), replace(profile(frame), samples=other))
