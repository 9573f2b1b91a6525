"""Bounds from a window of requests: the factors are order statistics of the scores, and cover what they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import InvalidValueError
from paceline.estimate.recent import ClassedScores, RecentScores
from paceline.slo import tolerance_rank

latencies = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(latencies, latencies), max_size=120), st.sampled_from([0.05, 0.1, 0.3]))
def test_factors_are_order_statistics_of_the_last_scores(pairs, alpha):
    scores = RecentScores(alpha, window=60)
    for measured, predicted in pairs:
        scores.observe(measured, predicted)
    last = sorted(math.log(max(m, 1e-6) / max(p, 1e-6)) for m, p in pairs[-60:])
    assert len(scores) == len(last)
    rank = tolerance_rank(len(last), 1 - alpha, 0.9) if last else None
    assert scores.upper == (None if rank is None else pytest.approx(math.exp(last[rank - 1])))
    assert (scores.upper is None) == (len(last) < scores.needed)
    below = math.floor((len(last) + 1) * alpha)
    assert scores.lower == (pytest.approx(math.exp(last[below - 1])) if below else None)
    assert scores.median == pytest.approx(math.exp(last[len(last) // 2]) if last else 1.0)


def test_a_bound_covers_the_share_it_says_and_follows_a_slower_machine():
    random = np.random.default_rng(11)
    scores, kept = RecentScores(0.05), []
    for number in range(6000):
        slower = 3.0 if number >= 3000 else 1.0
        measured = slower * 20.0 * random.lognormal(0, 0.2)
        if scores.upper is not None:
            kept.append(measured <= 20.0 * scores.upper)
        scores.observe(measured, 20.0)
    assert np.mean(kept[:2900]) > 0.95
    assert np.mean(kept[3500:]) > 0.95  # a window later
    assert scores.lower < scores.median < scores.upper


def test_what_is_no_latency_is_refused_and_so_is_a_window_that_promises_nothing():
    for measured, predicted in ((-1, 1), (1, -1), (math.nan, 1), (math.inf, 1), (1, math.inf)):
        with pytest.raises(InvalidValueError, match="latency"):
            RecentScores(0.05).observe(measured, predicted)
    with pytest.raises(InvalidValueError, match="at least 45 requests"):
        RecentScores(0.05, window=44)


@pytest.mark.parametrize("seed", range(5))
def test_rare_short_requests_are_covered_where_a_machine_adds_milliseconds(seed):
    random = np.random.default_rng(seed)
    scores, kept = ClassedScores(0.05), {10.0: [], 40.0: []}
    for _ in range(6000):
        predicted = 10.0 if random.random() < 0.1 else 40.0
        measured = predicted + random.exponential(15.0)
        own = scores.of("medium", predicted)
        if own.upper is not None:
            kept[predicted].append(measured <= own.upper * predicted)
        scores.observe("medium", measured, predicted)
    # the first short ones are bounded by what long ones took
    assert np.mean(kept[40.0]) > 0.95 and np.mean(kept[10.0][60:]) > 0.93  # of some 540


def test_too_few_of_a_size_are_bounded_by_their_class_and_that_by_all():
    scores = ClassedScores(0.05)
    for _ in range(45):
        scores.observe("low", 20.0, 10.0)
    assert scores.of("low", 10.0).upper == pytest.approx(2.0)
    assert scores.of("low", 80.0).upper == scores.of("high", 10.0).upper == pytest.approx(2.0)
    for _ in range(44):
        scores.observe("low", 80.0, 80.0)
    assert scores.of("low", 80.0) is not scores.of("low", 10.0) and len(scores.of("low", 80.0)) == 89
    scores.observe("low", 80.0, 80.0)
    assert scores.of("low", 80.0).upper == pytest.approx(1.0) and len(scores.of("high", 80.0)) == 90
