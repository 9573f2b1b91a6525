import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.evaluate.bootstrap import RESAMPLES, middle_of, paired_difference, resampled_means
from paceline.evaluate.choices import Outcomes
from paceline.evaluate.names import BOUND, ORACLE, ORACLE_WITHIN_BOUND, TABLE, is_learned, scaled_table_for
from paceline.evaluate.recovered import Recovered, learned_figures, recovered_of

BUDGETS, REQUESTS = 3, 24
ROUNDING = 1e-9


def synthetic_outcomes(seed: int, *, right: float = 0.5) -> Outcomes:
    """Answers that are right with one probability, and budgets that are mostly kept."""
    random = np.random.default_rng(seed)
    shape = BUDGETS, REQUESTS
    return Outcomes(
        latency_ms_BR=random.uniform(1, 2, shape),
        accuracy_BR=(random.random(shape) < right).astype(float),
        kept_BR=random.random(shape) < 0.9,
    )


def at_least(one: Outcomes, other: Outcomes) -> Outcomes:
    """Outcomes as accurate as the better of two, request by request: a best in hindsight."""
    return Outcomes(
        latency_ms_BR=one.latency_ms_BR,
        accuracy_BR=np.maximum(one.accuracy_BR, other.accuracy_BR),
        kept_BR=one.kept_BR | other.kept_BR,
    )


seeds = st.integers(0, 10**6)
possible = st.lists(st.booleans(), min_size=BUDGETS, max_size=BUDGETS)


def recovered_between(learned: Outcomes, base: Outcomes, best: Outcomes, within: list[bool]) -> Recovered:
    return recovered_of("base", "best", learned, {"base": base, "best": best}, within)


@settings(max_examples=25, deadline=None)
@given(seeds, possible)
def test_the_best_recovers_all_and_the_base_nothing(seed, within):
    base = synthetic_outcomes(seed, right=0.3)
    best = at_least(base, synthetic_outcomes(seed + 1))
    for learned, share in ((best, 1.0), (base, 0.0)):
        found = recovered_between(learned, base, best, within)
        for each in (*found.budgets, *([found.overall] if found.overall else [])):
            if each.share is not None:
                assert each.share == pytest.approx(share, abs=ROUNDING)
                if each.interval is not None:
                    assert (each.interval.low, each.interval.high) == pytest.approx((share, share), abs=ROUNDING)
            else:
                assert each.distance <= ROUNDING


@settings(max_examples=25, deadline=None)
@given(seeds, possible)
def test_share_and_gain_are_sums_over_the_counted_budgets_and_lie_in_their_intervals(seed, within):
    base, learned = synthetic_outcomes(seed, right=0.3), synthetic_outcomes(seed + 1)
    best = at_least(at_least(base, learned), synthetic_outcomes(seed + 2))
    found = recovered_between(learned, base, best, within)
    gains = learned.accuracy_BR - base.accuracy_BR
    distances = best.accuracy_BR - base.accuracy_BR
    there = distances.mean(axis=1) > 0
    assert list(found.counted) == [bool(can and is_there) for can, is_there in zip(within, there, strict=True)]
    assert found.without_distance == sum(can and not is_there for can, is_there in zip(within, there, strict=True))
    counted = np.array(found.counted)
    if not counted.any():
        assert found.overall is None
        return
    assert found.overall is not None and found.overall.share is not None
    assert found.overall.share == pytest.approx(gains[counted].sum() / distances[counted].sum())
    assert found.overall.gain.difference == pytest.approx(gains[counted].mean())
    for each in (found.overall, *found.budgets):
        assert each.gain.interval.low - ROUNDING <= each.gain.difference <= each.gain.interval.high + ROUNDING
        if each.share is not None and each.interval is not None:
            assert each.interval.low - ROUNDING <= each.share <= each.interval.high + ROUNDING


def test_a_share_whose_distance_hangs_on_one_request_has_no_interval():
    base = synthetic_outcomes(1)
    accuracy_BR = base.accuracy_BR.copy()
    lost = int(np.flatnonzero(base.accuracy_BR[0] == 0)[0])
    accuracy_BR[:, lost] = 1.0
    best = Outcomes(latency_ms_BR=base.latency_ms_BR, accuracy_BR=accuracy_BR, kept_BR=base.kept_BR)
    first = recovered_between(best, base, best, [True] * BUDGETS).budgets[0]
    assert first.share == 1.0 and first.interval is None  # a third of all resamples lack that request


def test_resampling_is_that_of_drawing_requests_one_by_one():
    values_RK = np.random.default_rng(5).normal(size=(REQUESTS, 2))
    random = np.random.default_rng(3407)
    plain = [values_RK[random.integers(0, REQUESTS, REQUESTS)].mean(axis=0) for _ in range(RESAMPLES)]
    assert np.allclose(resampled_means(values_RK), plain, atol=1e-12)


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    values_R = np.random.default_rng(6).normal(size=2000)
    found = paired_difference(values_R)
    reach = 1.96 * values_R.std() / math.sqrt(len(values_R))
    assert found.interval.high - found.difference == pytest.approx(reach, rel=0.15)
    assert found.difference - found.interval.low == pytest.approx(reach, rel=0.15)
    assert middle_of(np.arange(1001.0)).low == 25.0


def test_distances_with_an_end_that_was_not_judged_are_left_out():
    everything = {
        name: synthetic_outcomes(seed)
        for seed, name in enumerate(
            ["grpo", BOUND, TABLE, ORACLE, ORACLE_WITHIN_BOUND, scaled_table_for("grpo"), scaled_table_for(BOUND)]
        )
    }
    ends = [(each.base, each.best) for each in learned_figures("grpo", everything, None, [True] * BUDGETS).recovered]
    assert ends == [(scaled_table_for("grpo"), ORACLE), (BOUND, ORACLE_WITHIN_BOUND), (TABLE, ORACLE)]
    fewer = {name: each for name, each in everything.items() if name != BOUND}
    without = learned_figures("grpo", fewer, None, [True] * BUDGETS)
    assert [each.base for each in without.recovered] == [scaled_table_for("grpo"), TABLE]
    assert without.adherence_minus_bound is None


def test_the_difference_in_adherence_is_over_all_budgets():
    outcomes = {"grpo": synthetic_outcomes(1), BOUND: synthetic_outcomes(2)}
    found = learned_figures("grpo", outcomes, None, [False] * BUDGETS).adherence_minus_bound
    assert found is not None
    more = outcomes["grpo"].kept_BR.mean() - outcomes[BOUND].kept_BR.mean()
    assert found.difference == pytest.approx(more)
    assert found.interval.low <= found.difference <= found.interval.high


def test_learned_controllers_go_by_the_first_word_of_their_names():
    assert all(map(is_learned, ("grpo", "supervised", "grpo_second", "supervised_second_one")))
    assert not any(map(is_learned, (TABLE, BOUND, ORACLE, scaled_table_for("grpo"), "fixed_low_4_8", "point")))


def test_pictures_are_resampled_with_all_of_their_requests():
    values_G = np.random.default_rng(5).normal(size=40)
    pictures = [picture for picture in range(40) for _ in range(6)]
    shared, alone = paired_difference(np.repeat(values_G, 6), pictures), paired_difference(values_G)
    assert (shared.interval.low, shared.interval.high) == pytest.approx((alone.interval.low, alone.interval.high))
    plain = paired_difference(np.repeat(values_G, 6))
    assert shared.interval.high - shared.interval.low > 2 * (plain.interval.high - plain.interval.low)
