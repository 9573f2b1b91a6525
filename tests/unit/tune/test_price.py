"""The price of an engine's time, found in the simulator. Profiles and loads are synthetic."""

import math

import numpy as np
import pytest
from simulated_loads import STEP_TIME

from paceline.errors import InvalidValueError
from paceline.records import KnobConfig
from paceline.schedule import EngineTime, PlannerSettings
from paceline.serving.pricing import price_settings
from paceline.simulate import RequestColumns, SimulatedEngine
from paceline.tune.capacity import ServedWay
from paceline.tune.price import PriceTuning, Served, TriedPrice, TunedPrice, tune_price, with_budgets
from paceline.tune.student import T_95, t_half_width

ENGINE = SimulatedEngine(
    rules="paceline", planner=PlannerSettings(chunk_size=256, policy="edf"), max_num_seqs=32, num_blocks=20_000
)


def way(tier, accuracy, tokens, factor=1.0):
    config = KnobConfig(tier=tier, top_k=None, num_active_blocks=None)
    return ServedWay(config=config, accuracy=accuracy, image_tokens=tokens, prefill_factor=factor)


WAYS = (way("low", 0.6, 50), way("medium", 0.9, 250), way("high", 0.95, 1200))


def tuning(**changed):
    return PriceTuning(**{"engine": ENGINE, "time": EngineTime(step=STEP_TIME), "ways": WAYS} | changed)


T0 = tuning().t0_seconds(50)


def load(seed, *, busy, requests=120, budgets=(0.5, 1.0, 4.0)):
    """A load at such a share of what the largest configuration can do."""
    numbers = np.random.default_rng(seed)
    return RequestColumns(
        arrival_seconds=np.cumsum(numbers.exponential(T0 / busy, requests)),
        prompt_tokens=np.full(requests, 50),
        output_tokens=np.full(requests, 2),
        ttft_budget_seconds=numbers.choice(np.array(budgets) * T0, requests),
    )


def test_t0_is_what_a_run_of_the_largest_configuration_alone_takes():
    def two(budget):
        return RequestColumns(
            arrival_seconds=np.array([0.0, 1e3]),
            prompt_tokens=np.array([50, 50]),
            output_tokens=np.array([1, 1]),
            ttft_budget_seconds=np.full(2, budget),
        )

    assert tuning().fixed(two(1.0000001 * T0), WAYS[2]).attainment == 1.0
    assert tuning().fixed(two(0.999 * T0), WAYS[2]).attainment == 0.0


def test_under_load_a_price_is_found_that_beats_none():
    stretches = [load(seed, busy=1.5) for seed in range(12)]
    found = tune_price(tuning(), [stretches])
    assert [each.per_arrival for each in found.tried] == [0, 0.06, 0.12, 0.25, 0.5, 1.0]
    assert found.best.per_arrival > 0 and found.best.value > found.tried[0].value
    (judged,) = found.judged
    gain, half = judged.less(judged.none)
    assert gain - half > 0
    kept, promised = judged.promises
    assert promised and kept / promised >= 0.9


def test_where_chance_alone_speaks_for_a_price_none_is_recommended():
    def tried(price, *values):
        served = (tuple(Served(value=v, attainment=1.0, accuracy=v, promised=0, promises_kept=0) for v in values),)
        return TriedPrice(per_arrival=price, served=served)

    none = tried(0.0, 0.80, 0.82, 0.78, 0.80)
    noise = tried(0.5, 0.86, 0.80, 0.76, 0.81)  # better by .0075 on average, with a standard error of 0.019
    better = tried(1.0, 0.85, 0.88, 0.83, 0.86)
    assert TunedPrice(t0_seconds=1.0, tried=(none, noise), judged=()).best is none
    assert TunedPrice(t0_seconds=1.0, tried=(none, noise, better), judged=()).best is better
    own = tried(0.25, 0.80, 0.81, 0.78, 0.80)
    assert TunedPrice(t0_seconds=1.0, tried=(none, own, noise), judged=()).best is own  # what servers have stays
    assert TunedPrice(t0_seconds=1.0, tried=(none, own, better), judged=()).best is better
    alone = tried(0.0, 0.8), tried(0.5, 0.81)
    assert TunedPrice(t0_seconds=1.0, tried=alone, judged=()).best is alone[1]


def test_without_load_a_price_brings_nothing_and_the_servers_own_is_recommended():
    found = tune_price(tuning(), [[load(seed, busy=0.01, budgets=(4.0,)) for seed in range(4)]])
    assert found.best.per_arrival == 0.25
    (judged,) = found.judged
    assert judged.less(judged.none)[0] == 0.0
    assert judged.priced[0].accuracy == pytest.approx(0.95)


def test_a_request_without_a_budget_is_served_whole_unless_the_server_has_one_for_it():
    mixed = load(3, busy=3.0, budgets=(0.6, math.inf))
    whole, limited = tuning().chosen(mixed, 0.0), tuning(default_budget_seconds=20 * T0).chosen(mixed, 0.0)
    assert whole.value < limited.value
    only = RequestColumns(
        arrival_seconds=mixed.arrival_seconds,
        prompt_tokens=mixed.prompt_tokens,
        output_tokens=mixed.output_tokens,
        ttft_budget_seconds=np.full(len(mixed), np.inf),
    )
    with pytest.raises(InvalidValueError, match="requests with a budget"):
        tuning().chosen(only, 0.0)


def test_the_price_is_the_servers_own():
    """What is tuned is what is served: step and ceiling by the model's time, as in vLLM's API server."""
    assert price_settings(T0).step * T0**2 == pytest.approx(0.0784) and price_settings(T0).per_arrival == 0.25
    with pytest.raises(InvalidValueError, match="alpha"):
        tuning(alpha=0.0)
    with pytest.raises(InvalidValueError, match="default_budget_seconds"):
        tuning(default_budget_seconds=math.inf)
    with pytest.raises(InvalidValueError, match="one that judges"):
        tune_price(tuning(), [[load(1, busy=1.0)]])


def test_budgets_are_drawn_for_those_without_one():
    one = load(5, busy=1.0, budgets=(1.0, math.inf))
    drawn = with_budgets(one, [2.0, math.inf], seed=7)
    had = np.isfinite(one.budgets)
    assert (drawn.budgets[had] == one.budgets[had]).all()
    assert set(drawn.budgets[~had].tolist()) == {2.0, math.inf}
    assert (with_budgets(one, [2.0, math.inf], seed=7).budgets == drawn.budgets).all()
    for wrong in ([], [0.0], [math.nan]):
        with pytest.raises(InvalidValueError, match="budgets"):
            with_budgets(one, wrong, seed=0)


def test_half_widths_are_students():
    scipy_stats = pytest.importorskip("scipy.stats")
    assert tuple(round(float(scipy_stats.t.ppf(0.975, degrees)), 3) for degrees in range(1, 20)) == T_95
    assert t_half_width([1.0]) is None
    assert t_half_width([1.0, 3.0]) == pytest.approx(12.706)
