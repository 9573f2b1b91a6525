import math
from dataclasses import replace

import numpy as np
import pytest
from estimator_samples import synthetic_samples
from simulated_loads import STEP_TIME

from paceline.errors import UnknownChoiceError
from paceline.records import KnobConfig
from paceline.schedule import EngineTime, LoadSettings, PlannerSettings
from paceline.simulate import ROUTERS, RequestColumns, SimulatedEngine
from paceline.tune.capacity import CapacityPlan, ServedWay, fewest, stretches_of, ways_of, worthwhile
from paceline.tune.capacity_chart import capacity_chart

ENGINE = SimulatedEngine(
    rules="paceline", planner=PlannerSettings(chunk_size=256, policy="edf"), max_num_seqs=32, num_blocks=20_000
)


def way(tier, accuracy, tokens, factor=1.0):
    config = KnobConfig(tier=tier, top_k=None, num_active_blocks=None)
    return ServedWay(config=config, accuracy=accuracy, image_tokens=tokens, prefill_factor=factor)


WAYS = (way("low", 0.7, 100), way("medium", 0.85, 500), way("high", 0.95, 1500))
PLAN = CapacityPlan(engine=ENGINE, time=EngineTime(step=STEP_TIME), ways=WAYS, alpha=0.1, settings=LoadSettings())


def load(seed, *, requests=100, rate=40.0):
    numbers = np.random.default_rng(seed)
    return RequestColumns(
        arrival_seconds=np.cumsum(numbers.exponential(1 / rate, requests)),
        prompt_tokens=numbers.integers(20, 200, requests),
        output_tokens=numbers.integers(1, 20, requests),
        ttft_budget_seconds=numbers.choice([0.15, 0.3, np.inf], requests),
    )


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 9, 100])
def test_the_fewest_that_suffice_are_found_without_asking_twice(needed):
    asked = []

    def suffices(count):
        asked.append(count)
        return count >= needed

    found = fewest(suffices)
    assert needed <= found <= needed + max(0, found - 100) / 100 and len(asked) == len(set(asked))
    assert len(asked) <= 2 + 2 * math.log2(needed)
    assert fewest(lambda _: False) is None and fewest(lambda _: False, least=4096) is None
    asked.clear()
    least = max(1, needed - 1)
    assert fewest(suffices, least=least) in (needed, needed + 1) and min(asked) >= least
    for guess in (1, needed // 2, needed - 1, needed, needed + 1, round(1.03 * needed), 2 * needed, 5000):
        asked.clear()
        found = fewest(suffices, guess=guess)
        assert needed <= found <= needed + max(0, found - 100) / 100, guess
        assert len(asked) == len(set(asked)) <= 20
        asked.clear()
        assert fewest(suffices, least=least, guess=guess) >= needed and min(asked) >= least
    assert fewest(lambda _: False, guess=70) is None


@pytest.mark.parametrize("rate", [5.0, 40.0, 200.0])
def test_no_plan_does_with_fewer_than_the_least_engines(rate):
    for seed in range(3):
        stretch = load(seed, rate=rate)
        need = PLAN.need([stretch], controller="choices", router="round_robin", accuracy_floor=0.0)
        assert 1 <= PLAN.least(stretch) <= need.planned
        assert PLAN.least(stretch) == 1 or not PLAN.suffices(
            stretch, "choices", "round_robin", 0.0, PLAN.least(stretch) - 1
        )


@pytest.mark.parametrize("accuracy", [0.7, 0.8, 0.85, 0.9, 0.95])
@pytest.mark.parametrize("requests", [3, 7, 10, 13, 58])
def test_a_floor_that_a_way_just_has_is_reached_by_it(accuracy, requests):
    """A mean of equal numbers may come out below them by a float's breadth."""
    plan = replace(PLAN, ways=(way("low", accuracy, 100),))
    for controller in ("fixed", "choices"):
        need = plan.need(
            [load(1, requests=requests)], controller=controller, router="round_robin", accuracy_floor=accuracy
        )
        assert need.planned is not None


def test_the_longest_prompts_may_be_those_that_are_late():
    few = load(5, requests=200, rate=200.0)
    tokens = few.prompt_tokens.copy()
    tokens[::40] = 60_000  # five of two hundred, and most of the work
    long = replace(few, prompt_tokens=tokens, ttft_budget_seconds=np.full(200, 0.3))
    assert tokens[::40].sum() > 0.9 * tokens.sum()
    least = PLAN.least(long)
    assert least == PLAN.least(replace(long, prompt_tokens=np.minimum(tokens, 200)))
    need = PLAN.need([long], controller="choices", router="round_robin", accuracy_floor=0.0)
    assert least <= need.planned
    assert need.planned == 1 or not PLAN.suffices(long, "choices", "round_robin", 0.0, need.planned - 1)


@pytest.mark.parametrize("controller", ["fixed", "choices"])
def test_of_many_engines_a_sample_gets_its_share_of_the_requests(controller):
    whole = load(3, requests=2400, rate=380.0)
    sampled = replace(PLAN, engines_served=10)
    of_all, of_some = (each.served(whole, controller, "round_robin", 0.9, 40) for each in (PLAN, sampled))
    assert of_some == pytest.approx(of_all, abs=0.06) and of_some != of_all
    assert sampled.served(whole, controller, "round_robin", 0.8, 10) == PLAN.served(
        whole, controller, "round_robin", 0.8, 10
    )


@pytest.mark.parametrize("router", ROUTERS)
def test_one_engine_fewer_breaks_the_promise(router):
    for controller in ("fixed", "choices"):
        need = PLAN.need([load(1)], controller=controller, router=router, accuracy_floor=0.8)
        count = need.planned
        attainment, accuracy = PLAN.served(load(1), controller, router, 0.8, count)
        assert attainment >= 0.9 and accuracy >= 0.8
        assert count == 1 or not PLAN.suffices(load(1), controller, router, 0.8, count - 1)


def test_choices_need_fewer_engines_than_one_configuration_of_the_same_accuracy():
    stretches = [load(seed) for seed in range(3)]
    fixed, choices = (
        PLAN.need(stretches, controller=each, router="round_robin", accuracy_floor=0.9) for each in ("fixed", "choices")
    )
    assert choices.planned < fixed.planned
    easier = PLAN.need(stretches, controller="fixed", router="round_robin", accuracy_floor=0.7)
    assert easier.planned <= fixed.planned
    chart = capacity_chart([fixed, easier, choices])
    assert chart.count("<polyline") == 2 and chart.endswith("</svg>\n")


def test_an_accuracy_that_nothing_has_is_not_planned_for():
    need = PLAN.need([load(1)], controller="choices", router="round_robin", accuracy_floor=0.99)
    assert need.planned is None and "<svg" in capacity_chart([need])


def test_what_does_not_exist_is_refused():
    for wrong in ({"controller": "guess", "router": "round_robin"}, {"controller": "fixed", "router": "best"}):
        with pytest.raises(UnknownChoiceError):
            PLAN.need([load(1)], accuracy_floor=0.5, **wrong)


def test_a_profile_gives_accuracy_image_tokens_and_shares_of_a_tiers_prefill(tmp_path):
    samples = synthetic_samples(40)
    samples.write_parquet(tmp_path / "profile.parquet")
    ways = ways_of(tmp_path / "profile.parquet")
    assert len(ways) == samples.select("tier", "top_k", "num_active_blocks").unique().height
    for tier in {each.config.tier for each in ways}:
        factors = [each.prefill_factor for each in ways if each.config.tier == tier]
        assert factors[-1] == 1.0 and min(factors) < 1.0  # the last has most experts and blocks
    assert all(0 <= each.accuracy <= 1 and each.image_tokens > 0 for each in ways)


def test_an_engines_own_step_times_say_what_a_configuration_saves(tmp_path):
    samples = synthetic_samples(24)
    samples.write_parquet(tmp_path / "profile.parquet")
    alone = ways_of(tmp_path / "profile.parquet")
    whole = alone[-1].config
    other = next(each.config for each in alone if each.config.step_key != whole.step_key)
    dearer = replace(STEP_TIME, per_prefill_token_ms=3 * STEP_TIME.per_prefill_token_ms, base_ms=0.0)
    times = {whole.step_key: dearer, other.step_key: STEP_TIME}
    for before, way in zip(alone, ways_of(tmp_path / "profile.parquet", times), strict=True):
        if way.config.step_key == other.step_key:
            assert 1 / 3 <= way.prefill_factor < 0.5
        else:
            assert way.prefill_factor == before.prefill_factor  # not measured, or the whole model


def test_ways_that_another_beats_are_never_taken():
    better = way("medium", 0.86, 400, 0.9)
    ways = (*WAYS, better, way("low", 0.7, 100, 1.0), way("high", 0.95, 1500, 1.1), way("high", 0.9, 1500, 0.5))
    assert set(worthwhile(ways)) == {WAYS[0], better, WAYS[2], ways[-1]}
    assert set(worthwhile(WAYS)) == set(WAYS) and worthwhile(WAYS[:1]) == WAYS[:1]
    plain, more = (
        replace(PLAN, ways=each).served(load(4), "choices", "round_robin", 0.0, 4) for each in (worthwhile(ways), ways)
    )
    assert plain == pytest.approx(more, abs=0.02)


def test_stretches_share_the_requests_and_begin_at_zero():
    whole = load(2)
    parts = stretches_of(whole, 7)
    assert sum(map(len, parts)) == len(whole)
    assert all(part.arrival_seconds[0] == 0.0 and part.ttft_budget_seconds is not None for part in parts)
