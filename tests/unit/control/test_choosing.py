import math
import warnings
from dataclasses import replace

import pytest
from learned_controllers import seen_request, synthetic_bounds, token_linear_of
from serving_desk import CONFIGS, table

from paceline.control.choosing import choose, configurations, needed_ms
from paceline.control.estimated import BoundController
from paceline.control.fixed import FixedConfiguration
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import TIERS, RequestFeatures

FEATURES = RequestFeatures(text_tokens=10, vision_tokens={"low": 10, "medium": 40, "high": 90})


def times(factor):
    return lambda ms: factor * ms


ALL = dict.fromkeys(TIERS, times(1.0))
BUDGETS = (0.01, 1, 10, 11.9, 12, 13, 20, 25, 35, 38, 60, 100, 200, 500, 1000, 5000)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("tiers", [TIERS, ("low",), ("low", "medium")])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_table_takes_the_most_accurate_that_fits_of_the_tiers(budget, tiers):
    found = choose(table(), budget, FEATURES, dict.fromkeys(tiers, times(1.0)))
    allowed = {config: cells for config, cells in CONFIGS.items() if config.tier in tiers}
    fitting = [config for config, (ms, _) in allowed.items() if ms <= budget]
    best = max(fitting, key=lambda config: CONFIGS[config][1]) if fitting else min(allowed, key=lambda c: CONFIGS[c][0])
    assert found.taken.config == best and found.taken.within_budget is bool(fitting)
    assert found.least.config == min(allowed, key=lambda config: CONFIGS[config][0])


@pytest.mark.parametrize("budget", BUDGETS)
def test_over_all_tiers_a_controller_takes_what_it_always_takes(budget):
    bounds = synthetic_bounds()
    controller = BoundController(model=token_linear_of(), bounds=bounds)
    request = seen_request()
    found = choose(controller, budget, request, ALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = controller.predict(budget, features=request)
    assert found.taken.config == expected.config or not expected.within_budget
    assert found.taken.within_budget == expected.within_budget
    low = choose(controller, budget, request, {"low": times(1.0)})
    assert low.taken.config.tier == "low" == low.least.config.tier
    # what needs the least is what the first budget that anything fits leads to
    exact = choose(controller, needed_ms(low.least), request, {"low": times(1.0)})
    assert exact.taken.within_budget and exact.taken.config == low.least.config
    below = math.nextafter(needed_ms(low.least), 0)
    assert not choose(controller, below, request, {"low": times(1.0)}).taken.within_budget


def test_what_nothing_can_be_chosen_from_is_refused():
    with pytest.raises(InvalidValueError, match="tiers"):
        choose(table(), 10, FEATURES, {})
    with pytest.raises(InvalidValueError, match="latency budget"):
        choose(table(), 0, FEATURES, ALL)
    fixed = FixedConfiguration(entry=table().entries[0], latency_kind="ttft")
    for asked in (lambda: choose(fixed, 10, FEATURES, ALL), lambda: configurations(fixed)):
        with pytest.raises(UnknownChoiceError, match="FixedConfiguration"):
            asked()
    assert set(configurations(table())) == set(CONFIGS)


@pytest.mark.parametrize("budget", BUDGETS)
def test_scales_are_of_the_milliseconds_of_a_tier(budget):
    controller, request = BoundController(model=token_linear_of(), bounds=synthetic_bounds()), seen_request()
    for asked in (table(), controller):
        same = choose(asked, budget, request, dict.fromkeys(TIERS, times(2.5)))
        alone = choose(asked, budget / 2.5, request, ALL)
        assert same.taken.config == alone.taken.config and same.taken.within_budget == alone.taken.within_budget
        # a tier that takes far longer holds back no other
        slow = choose(asked, budget, request, {"low": times(1e6), "medium": times(1.0)})
        medium = choose(asked, budget, request, {"medium": times(1.0)})
        assert replace(slow, allowed=medium.allowed) == medium
        known = {config for config in configurations(asked) if config.tier != "high"}
        assert {each.config for each in slow.allowed} == known
        assert {each.config.tier for each in medium.allowed} == {"medium"}
