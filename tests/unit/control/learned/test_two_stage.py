import math
from dataclasses import replace

import pytest
from latency_models import GRID, TokenLinear, steady_bounds, token_linear
from learned_controllers import chooser_looking_at, chooser_of_scores, seen_request

from paceline.control.learned.controller import LearnedController
from paceline.control.learned.two_stage import TwoStage
from paceline.errors import BudgetTooSmallError, InvalidValueError, PacelineWarning
from paceline.estimate.bounds import CalibratedConfig, LatencyBounds
from paceline.records import KnobConfig, RequestFeatures
from paceline.request_vector import request_vector

# latencies are 0.01 ms · blocks · (image + text tokens), bounds 1.2 times as much
LOW_8, LOW_16, HIGH_8, HIGH_16 = GRID
EXPECTED = {"low": 90, "high": 190}


def request(low: int = 90, high: int = 190, **more: int) -> RequestFeatures:
    return seen_request(10, low=low, medium=140, high=high, **more)


def two_stage(scores: tuple[float, float, float, float] = (0.1, 0.2, 0.3, 0.9), **changes: object) -> TwoStage:
    chooser = chooser_of_scores(dict(zip(GRID, scores, strict=True)), **changes)
    controller = LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds(1.2))
    return TwoStage(controller=controller, expected_vision_tokens=EXPECTED)


def test_the_tier_follows_from_the_expected_tokens_and_the_rest_from_the_actual_ones() -> None:
    controller = two_stage()
    assert controller.predict(38.5, features=request()).config == HIGH_16
    # the tier is taken in the belief that high costs 190 tokens; with 400 neither of its configurations keeps 38.5 ms
    with pytest.warns(PacelineWarning, match="high_4_8 with 39.4 ms"):
        decision = controller.predict(38.5, features=request(high=400))
    assert (decision.config, decision.within_budget) == (HIGH_8, False)
    assert controller.predict(38.5, features=request(high=300)).config == HIGH_8
    # one stage sees it beforehand, and takes what does
    assert controller.controller.predict(38.5, features=request(high=400)).config == LOW_16


def test_a_picture_that_costs_less_than_expected_does_not_change_the_tier() -> None:
    controller = two_stage((0.1, 0.8, 0.1, 0.9))
    assert controller.controller.predict(38.3, features=request(high=100)).config == HIGH_16
    assert controller.predict(38.3, features=request(high=100)).config == LOW_16


def test_strictness_is_about_the_tier_taken() -> None:
    with pytest.raises(BudgetTooSmallError) as raised:
        two_stage().predict(38.5, features=request(high=400), strict=True)
    assert raised.value.fastest_ms == pytest.approx(1.2 * 0.08 * 410)


def test_the_first_stage_sees_the_expected_tokens_in_the_vector_too() -> None:
    chooser = chooser_looking_at("log_vision_tokens_high", math.log1p(200), LOW_16, GRID)
    controller = LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds(1.2))
    assert controller.predict(1e3, features=request(high=150)).config == HIGH_16
    assert controller.predict(1e3, features=request(high=250)).config == LOW_16
    expecting = TwoStage(controller=controller, expected_vision_tokens=EXPECTED)
    stored = request(high=250)
    stored = replace(stored, picture=None, vector=request_vector(stored))
    for features in (request(high=250), stored):
        assert expecting.predict(1e3, features=features).config == HIGH_16
        more = TwoStage(controller=controller, expected_vision_tokens={"low": 90, "high": 300})
        assert more.predict(1e3, features=features).config == LOW_16


def test_a_model_without_tiers_has_one_stage() -> None:
    configs = [KnobConfig(tier=None, top_k=None, num_active_blocks=blocks) for blocks in (8, 16)]
    plain = steady_bounds(1.2)
    known = tuple(
        CalibratedConfig(config=config, accuracy=accuracy, accuracy_std=0.1, num_samples=9, expected_output_tokens=1.0)
        for config, accuracy in zip(configs, (0.5, 0.8), strict=True)
    )
    scores = replace(
        plain.scores["prefill"],
        scores_N=plain.scores["prefill"].scores_N[: 2 * 99],
        requests_N=plain.scores["prefill"].requests_N[: 2 * 99],
        counts_C=plain.scores["prefill"].counts_C[:2],
    )
    controller = LearnedController(
        chooser=chooser_of_scores(dict(zip(configs, (0.3, 0.9), strict=True))),
        model=TokenLinear({configs[0]: 0.08, configs[1]: 0.16}),
        bounds=LatencyBounds(configs=known, scores={"prefill": scores}),
    )
    assert controller.tiers == (None,)
    features = replace(request(), vision_tokens={None: 90})
    both = TwoStage(controller=controller, expected_vision_tokens={None: 190})
    for budget_ms in (10.0, 20.0, 40.0):
        assert both.predict(budget_ms, features=features) == controller.predict(budget_ms, features=features)


def test_every_tier_needs_its_expected_tokens() -> None:
    controller = two_stage().controller
    for expected in ({"low": 90}, {"low": 90, "medium": 140, "high": 190}, {}):
        with pytest.raises(InvalidValueError, match="expected_vision_tokens is .*; expected one number for each of"):
            TwoStage(controller=controller, expected_vision_tokens=expected)


def test_what_it_says_and_learns_is_its_controllers() -> None:
    both = two_stage(latency_kind="total")
    assert (both.latency_kind, both.provenance, both.looks_at) == ("total", (), both.controller.looks_at)
    decision = both.predict(1e6, features=request())
    both.observe(decision, 1e9)
    assert both.controller.bound.drift.factor > 1
