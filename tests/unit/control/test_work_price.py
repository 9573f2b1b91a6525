import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.control.work_price import IDLE_IN_A_ROW, LEAST_GAPS, PriceSettings, WorkPrice, worthiest
from paceline.errors import InvalidValueError

OPTIONS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2), st.booleans()), min_size=1, max_size=27)


@given(OPTIONS, st.floats(0, 10))
def test_what_is_taken_fits_and_none_that_fits_is_worth_more(options, price):
    accuracies, work, fits = zip(*options, strict=True)
    found = worthiest(accuracies, work, fits, price_per_second=price)
    if not any(fits):
        assert found is None
        return
    worth = np.array(accuracies) - price * np.array(work)
    assert fits[found] and worth[found] == worth[list(fits)].max()


@given(OPTIONS, st.floats(0, 10), st.floats(0, 10))
def test_a_higher_price_never_takes_more_work(options, one, more):
    accuracies, work, fits = zip(*options, strict=True)
    cheap, dear = (worthiest(accuracies, work, fits, price_per_second=price) for price in (one, one + more))
    if cheap is not None:
        assert work[dear] <= work[cheap] + 1e-9


def test_the_price_rises_under_overload_stays_below_its_ceiling_and_falls_to_the_floor():
    price = WorkPrice(PriceSettings(floor=0.5, step=0.3, share=0.5, ceiling=8.0))
    assert price.per_second == 0.5
    for _ in range(100_000):  # no configuration is as cheap as the target asks
        price.take(work_seconds=0.1, gap_seconds=0.01)
    assert price.per_second == 8.0
    for _ in range(200):
        price.take(work_seconds=0.1, gap_seconds=1.0)
    assert price.per_second == 0.5


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.booleans(), st.booleans()), max_size=30))
def test_who_takes_the_least_work_keeps_a_price_up_and_never_raises_it(requests):
    price = WorkPrice(PriceSettings(step=1.0, ceiling=5.0))
    for work, gap, found_idle, is_least in requests:
        before, fallen = price._dual, price._fallen(gap)
        price.take(work_seconds=work, gap_seconds=gap, found_idle=found_idle, is_least=is_least)
        assert fallen <= price._dual <= 5.0
        if is_least:
            assert price._dual <= before


def test_a_price_does_not_rise_beyond_what_makes_everybody_take_the_least():
    price = WorkPrice(PriceSettings(step=1.0, ceiling=1000.0))
    for _ in range(500):  # twice as much as there is time for, even so
        cheap = price.per_second > 3.0
        price.take(work_seconds=0.1 if cheap else 0.4, gap_seconds=0.05, is_least=cheap)
    assert 2.9 < price.per_second < 3.5
    for _ in range(120):
        price.take(work_seconds=0.1, gap_seconds=0.5)
    assert price.per_second_after(0.5) == 0.0


def test_who_asks_again_when_answered_and_makes_nobody_wait_pays_the_floor():
    price = WorkPrice(PriceSettings(floor=0.5, step=0.3, share=0.5, ceiling=8.0))
    for _ in range(1_000):  # nearly all of the time is taken
        price.take(work_seconds=0.1, gap_seconds=0.101, found_idle=True)
    assert price.per_second == 0.5


def test_one_who_finds_somebody_ahead_pays_what_demand_asks_for():
    price = WorkPrice(PriceSettings(step=0.3, share=0.5, ceiling=8.0))
    for _ in range(10):
        price.take(work_seconds=1.0, gap_seconds=0.5)
    dear = price.per_second
    for number in range(1, IDLE_IN_A_ROW + 3):
        price.take(work_seconds=1.0, gap_seconds=1.1, found_idle=True)
        assert price.per_second == (0.0 if number >= IDLE_IN_A_ROW else pytest.approx(dear + 0.3 * 0.45 * number))
    price.take(work_seconds=1.0, gap_seconds=0.5)  # what others take of nobody's time raised nothing, and time went on
    hidden = dear + 0.3 * (0.45 * (IDLE_IN_A_ROW - 1) - 3 * 0.55)
    assert hidden > 0 and price.per_second == pytest.approx(hidden + 0.3 * 0.75)


ARRIVALS = st.lists(st.tuples(st.floats(0, 3), st.floats(-1, 20), st.booleans()), max_size=40)
SETTINGS = st.builds(
    PriceSettings,
    floor=st.floats(0, 3),
    step=st.floats(0.01, 3),
    share=st.floats(0.05, 1),
    ceiling=st.floats(0, 10),
)


@given(SETTINGS, ARRIVALS, st.lists(st.floats(0, 100), max_size=6))
def test_a_price_is_between_floor_and_ceiling_and_comes_down_with_time_whoever_arrives(settings, arrivals, later):
    price = WorkPrice(settings)
    for work, gap, idle in arrivals:
        price.take(work_seconds=work, gap_seconds=gap, found_idle=idle)
    seen = [price.per_second_after(gap) for gap in sorted([0.0, *later])]
    assert seen[0] == price.per_second <= max(settings.floor, settings.ceiling)
    assert all(settings.floor <= after <= before for before, after in pairwise(seen))
    assert price.per_second_after(1.01 * settings.ceiling / (settings.step * settings.share)) == settings.floor


@given(SETTINGS, ARRIVALS, st.lists(st.floats(0, 5), min_size=1, max_size=8))
def test_what_a_pause_takes_off_does_not_depend_on_those_who_ask_for_nothing_in_it(settings, arrivals, pauses):
    once, often = WorkPrice(settings), WorkPrice(settings)
    for work, gap, _ in arrivals:
        for price in (once, often):
            price.take(work_seconds=work, gap_seconds=gap)
    for gap in pauses:
        often.take(work_seconds=0.0, gap_seconds=gap)
    assert often.per_second == pytest.approx(once.per_second_after(sum(pauses)), abs=1e-9)


@given(SETTINGS, ARRIVALS, st.floats(0.01, 2), st.floats(1.0, 1.5))
def test_a_burst_is_forgotten_beside_a_client_that_makes_nobody_wait(settings, arrivals, work, pace):
    price = WorkPrice(settings)
    for each, gap, idle in arrivals:
        price.take(work_seconds=each, gap_seconds=gap, found_idle=idle)
    for _ in range(IDLE_IN_A_ROW):
        price.take(work_seconds=work, gap_seconds=pace * work, found_idle=True)
    turns = int(settings.ceiling / (settings.step * settings.share * work)) + 2
    for _ in range(min(turns, 20_000)):
        price.take(work_seconds=work, gap_seconds=pace * work, found_idle=True)
    if turns <= 20_000:  # whoever comes now and waits pays for what he takes, not for the burst
        price.take(work_seconds=work, gap_seconds=work)
        assert price.per_second <= max(settings.floor, settings.step * work) + 1e-9


def test_a_second_costs_what_those_who_arrive_in_it_lose():
    price = WorkPrice(PriceSettings(per_arrival=0.25, ceiling=10.0))
    for number in range(1, 200):
        price.take(work_seconds=0.1, gap_seconds=0.2)
        assert price.per_second == (0.0 if number < LEAST_GAPS else pytest.approx(0.25 / 0.2))
    for _ in range(200):
        price.take(work_seconds=0.1, gap_seconds=0.05)
    assert price.per_second == pytest.approx(0.25 / 0.05, rel=0.01)
    for _ in range(200):
        price.take(work_seconds=0.1, gap_seconds=0.0)
    assert price.per_second == 10.0  # all at once


def test_after_a_pause_arrivals_cost_little_and_soon_what_they_did():
    price = WorkPrice(PriceSettings(per_arrival=0.25, ceiling=10.0))
    for _ in range(100):
        price.take(work_seconds=0.1, gap_seconds=0.2)
    assert price.per_second_after(1e4) < 1e-3
    price.take(work_seconds=0.1, gap_seconds=1e4)
    for _ in range(10):
        price.take(work_seconds=0.1, gap_seconds=0.2)
    assert price.per_second > 0.7 * 0.25 / 0.2
    for _ in range(30):
        price.take(work_seconds=0.1, gap_seconds=100.0)
    assert price.per_second < 0.01


def test_a_client_that_asks_again_when_it_is_answered_does_not_pay_for_its_own_arrivals():
    price = WorkPrice(PriceSettings(per_arrival=0.25, ceiling=10.0))
    for number in range(1, 40):
        price.take(work_seconds=0.1, gap_seconds=0.2, found_empty=True)
        assert (price.per_second == 0.0) == (
            number < LEAST_GAPS or number > 8
        )  # of 8 independent ones some would have met
    price.take(work_seconds=0.1, gap_seconds=0.05)  # it is not alone any more
    assert price.per_second > 1.0


def test_soon_after_a_burst_whoever_makes_nobody_wait_pays_nothing():
    price = WorkPrice(PriceSettings(per_arrival=0.25, ceiling=80.0))
    for _ in range(50):
        price.take(work_seconds=0.02, gap_seconds=0.3)
    for _ in range(64):  # all at once
        price.take(work_seconds=0.02, gap_seconds=0.0)
    assert price.per_second > 10
    paid = []
    for _ in range(6):  # one after the other, a second apart
        paid.append(0.06 * price.per_second_after(1.0))
        price.take(work_seconds=0.06, gap_seconds=1.0, found_empty=True)
    assert paid[0] > 0 and paid[3:] == [0.0, 0.0, 0.0]


COMING = st.tuples(st.floats(0, 3), st.floats(-1e6, 1e6), st.booleans(), st.booleans())


@given(st.lists(COMING, max_size=60), st.lists(st.floats(-1e6, 1e6), max_size=4))
def test_whoever_floods_or_whatever_a_clock_does_a_price_by_arrivals_stays_within_its_ceiling(arrivals, later):
    price = WorkPrice(PriceSettings(floor=0.1, per_arrival=0.25, ceiling=5.0))
    for work, gap, is_empty, has_budget in arrivals:
        price.take(work_seconds=work, gap_seconds=gap, found_empty=is_empty, has_budget=has_budget)
    seen = [price.per_second_after(gap) for gap in sorted([0.0, *later])]
    assert all(0.1 <= each <= 5.0 for each in seen)
    assert all(after <= before + 1e-9 for before, after in pairwise(seen))  # time only brings it down


def test_those_without_a_budget_lose_nothing_and_cost_nothing():
    price, alone = (WorkPrice(PriceSettings(per_arrival=0.25, ceiling=10.0)) for _ in range(2))
    for _ in range(50):
        for _ in range(9):  # nine of ten ask for no budget
            price.take(work_seconds=0.01, gap_seconds=0.02, has_budget=False)
        price.take(work_seconds=0.1, gap_seconds=0.02)
        alone.take(work_seconds=0.1, gap_seconds=0.2)
        assert price.per_second == pytest.approx(alone.per_second)
    price.take(work_seconds=0.01, gap_seconds=1e4, has_budget=False)
    assert price.per_second < 1e-3  # time passes with them, too


@given(st.integers(0, 2**32))
def test_independent_arrivals_on_an_engine_that_is_often_empty_pay_all_the_same(seed):
    numbers = np.random.default_rng(seed)
    price, left, free = WorkPrice(PriceSettings(per_arrival=0.25, ceiling=10.0)), 0.0, 0
    for gap in numbers.exponential(1.0, 600).tolist():
        left = max(0.0, left - gap)
        price.take(work_seconds=0.3, gap_seconds=gap, found_empty=not left)
        left += 0.3
        free += price.per_second == 0.0
    assert free < 120


@pytest.mark.parametrize(
    "wrong",
    [{"floor": -0.1}, {"per_arrival": -1.0}, {"step": math.nan}, {"share": 0.0}, {"share": 1.5}, {"ceiling": math.inf}],
)
def test_a_price_that_cannot_work_is_refused(wrong):
    with pytest.raises(InvalidValueError, match=next(iter(wrong))):
        PriceSettings(**wrong)
