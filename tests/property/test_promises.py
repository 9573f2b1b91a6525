"""Accounts of promises: bounds only widen, what is broken beyond its share is limited, and machines that change are followed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_promises import ALPHA, MACHINES, WINDOW, served

from paceline.errors import InvalidValueError
from paceline.estimate.online_scores import OnlineScores
from paceline.estimate.promises import BANK, TARGET_SHARE, PromiseAccounts, shifted_score
from paceline.estimate.recent import RecentScores

ALPHAS = st.sampled_from([0.02, 0.05, 0.1, 0.3])
outcomes = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=300)


@given(ALPHAS, outcomes)
def test_a_shift_is_never_below_zero_and_one_class_does_not_narrow_another(alpha, seen):
    accounts, alone = PromiseAccounts(alpha), {name: PromiseAccounts(alpha) for name in range(3)}
    for name, kept in seen:
        before = accounts.shift(name)
        accounts.observe(name, kept=kept)
        alone[name].observe(name, kept=kept)
        assert accounts.shift(name) <= before if kept else accounts.shift(name) >= before
        assert all(accounts.shift(each) >= alone[each].shift(each) >= 0 for each in alone)


@given(ALPHAS, st.lists(st.booleans(), max_size=1500))
def test_bounds_widen_before_more_than_a_share_and_the_bank_are_broken(alpha, kept):
    accounts, broken = PromiseAccounts(alpha), 0
    for number, each in enumerate(kept, start=1):
        if accounts.shift("a"):
            return
        accounts.observe("a", kept=each)
        broken += not each
        assert broken <= TARGET_SHARE * alpha * number + BANK * alpha + 1


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=80), st.data())
def test_a_shifted_score_is_the_rank_itself_and_rises_without_an_end(scores, data):
    ordered = sorted(scores)
    rank = data.draw(st.integers(1, len(ordered)))
    shifts = sorted(data.draw(st.lists(st.floats(0, 0.5), min_size=1, max_size=9)))
    found = [shifted_score(ordered, rank, shift) for shift in (0.0, *shifts)]
    assert found[0] == ordered[rank - 1]
    assert all(low <= high + 1e-12 for low, high in pairwise(found))
    if ordered[-1] - ordered[len(ordered) // 2] > 1e-6:
        assert shifted_score(ordered, rank, 50.0) > ordered[-1]


def test_both_windows_of_scores_widen_by_a_shift_and_promise_nothing_earlier():
    recent, online = RecentScores(0.05), OnlineScores(alpha=0.05)
    for number in range(1, 101):
        assert (recent.upper_at(0.3) is None) == (number <= recent.needed)
        assert (online.factor(None, shift=0.3) is None) == (number <= online.least)
        recent.observe(number, 100.0)
        online.observe(None, measured_seconds=float(number), predicted_seconds=100.0)
    assert recent.upper == recent.upper_at(0.0) <= recent.upper_at(0.01) <= recent.upper_at(0.2)
    assert online.factor(None) == pytest.approx(0.96) and online.factor(None, shift=0.02) == pytest.approx(0.99)


def test_a_probability_is_asked_for():
    with pytest.raises(InvalidValueError, match="alpha"):
        PromiseAccounts(1.0)


@pytest.mark.parametrize("machine", MACHINES)
def test_of_a_thousand_promises_in_a_row_no_more_are_broken_than_said(machine):
    before, counted = (served(5, MACHINES[machine], adapts=adapts, requests=3600) for adapts in (False, True))
    assert len(counted.kept) > WINDOW and counted.worst_window >= 1 - ALPHA
    assert counted.worst_window >= before.worst_window - 0.002 and counted.worth > before.worth - 0.03
    if machine.startswith("twice"):
        assert before.worst_window < 0.93  # the scores alone follow too late


def test_however_many_promises_broke_a_bound_is_a_number_of_milliseconds():
    scores = RecentScores(alpha=0.4)
    for measured_ms in (1.0, 1.0, 1.1, 8000.0):  # hiccups of eight thousand times their length
        for _ in range(5):
            scores.observe(measured_ms, 1.0)
    upper = scores.upper_at(400.0)
    assert upper is not None and scores.upper is not None and scores.upper <= upper < 1e22
