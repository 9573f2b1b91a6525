import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import InvalidValueError
from paceline.estimate.online_scores import OnlineScores, budget_class
from paceline.estimate.step_drift import StepDrift


def seen(scores: OnlineScores, ratios, kind=None):
    for ratio in ratios:
        scores.observe(kind, measured_seconds=ratio, predicted_seconds=1.0)


def test_nothing_is_bounded_before_there_are_enough_scores():
    scores = OnlineScores(alpha=0.1)
    seen(scores, [1.0] * 8)
    assert scores.factor(None) is None and scores.count(None) == 8 < scores.least
    seen(scores, [1.0])
    assert scores.factor(None) == 1.0
    assert scores.factor("another class") is None


@given(
    st.lists(st.floats(0.01, 100), min_size=9, max_size=60),
    st.sampled_from([0.1, 0.2, 0.5]),
    st.sampled_from([9, 20, 500]),
)
def test_the_factor_is_the_conformal_quantile_of_the_last_scores(ratios, alpha, window):
    scores = OnlineScores(alpha=alpha, window=window)
    seen(scores, ratios)
    kept = sorted(ratios[-window:])
    rank = math.ceil((len(kept) + 1) * (1 - alpha) - 1e-9)
    assert scores.factor(None) == (pytest.approx(kept[rank - 1]) if rank <= len(kept) else None)


def test_a_share_of_alpha_exceeds_the_bound_in_each_class():
    numbers = np.random.default_rng(1)
    scores = OnlineScores(alpha=0.1)
    exceeded = {0: [], 1: []}
    for index in range(6000):
        kind = index % 2
        measured = float(np.exp(numbers.normal(0, 0.05 if kind else 0.5)))
        factor = scores.factor(kind)
        if factor is not None:
            exceeded[kind].append(measured > factor)
        scores.observe(kind, measured_seconds=measured, predicted_seconds=1.0)
    for each in exceeded.values():
        assert np.mean(each) == pytest.approx(0.1, abs=0.02)  # four standard errors are 0.022


def test_times_that_are_none_are_refused_and_change_nothing():
    scores = OnlineScores(alpha=0.1)
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(InvalidValueError):
            scores.observe(None, measured_seconds=wrong, predicted_seconds=1.0)
        with pytest.raises(InvalidValueError):
            StepDrift().observe(measured_seconds=wrong, predicted_seconds=1.0)
    assert scores.count(None) == 0
    with pytest.raises(InvalidValueError, match="window"):
        OnlineScores(alpha=0.01, window=50)


def test_budgets_a_factor_of_two_apart_are_classes_of_their_own():
    for budget in (0.1, 0.13, 0.26, 1.0, 7.3):
        assert budget_class(2 * budget) == budget_class(budget) + 1
    assert budget_class(None) is None


def test_drift_finds_a_slower_machine_within_fifty_steps_and_forgives_a_hiccup():
    drift = StepDrift()
    for _ in range(50):
        drift.observe(measured_seconds=1.2, predicted_seconds=1.0)
    assert drift.factor == pytest.approx(1.2, abs=0.02)
    drift.observe(measured_seconds=1e6, predicted_seconds=1.0)
    assert drift.factor < 1.7
    drift.observe(measured_seconds=1.0, predicted_seconds=0.0)
    assert drift.factor < 1.7


def test_chances_and_lower_factors_are_those_of_the_scores():
    scores = OnlineScores(alpha=0.1)
    assert scores.chance("a", ratio=0.1) == 1.0 and scores.lower_factor("a") is None
    for number in range(1, 20):
        scores.observe("a", measured_seconds=float(number), predicted_seconds=10.0)
    assert scores.chance("a", ratio=0.99) == pytest.approx(9 / 20)
    assert scores.chance("a", ratio=0.05) == 0.0 and scores.chance("a", ratio=99.0) == pytest.approx(0.95)
    assert scores.lower_factor("a") == pytest.approx(0.2) and scores.factor("a") == pytest.approx(1.8)
    assert (
        scores.chance("a", ratio=scores.factor("a") * 1.0001) >= 0.9
    )  # what a bound lets fit comes in time with 1 - alpha
