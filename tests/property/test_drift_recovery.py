"""Bounds and their drift correction in a closed loop: what is refused, or measured wrong, must not keep them wrong."""

import math
import random
import threading
import warnings
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_models import bounds_of, request, steady_bounds, token_linear
from learned_controllers import seen_request, synthetic_chooser

from paceline.control.controller import Controller, DriftCorrecting
from paceline.control.estimated import BoundController
from paceline.control.learned.controller import LearnedController
from paceline.errors import BudgetTooSmallError, InvalidValueError, PacelineWarning
from paceline.estimate.drift import FALL, LARGEST_FACTOR, LARGEST_RISE, SMALLEST_FACTOR, DriftCorrection

ALPHAS = [0.2, 0.1, 0.05, 0.01, 0.001]
SLOWNESS, SLOW_REQUESTS = 1.5, 200
# θ overshoots the slowness by one rise at most; each refusal takes FALL of it
MOST_REFUSED = math.ceil((math.log(SLOWNESS) + LARGEST_RISE) / FALL)
SMALLEST_BOUND_MS = 1.02 * 0.08 * 100  # what the fastest configuration of token_linear is bounded by for `request()`


def bound_controller(alpha: float = 0.05) -> BoundController:
    return BoundController(model=token_linear(), bounds=steady_bounds(1.02, count=5000), alpha=alpha)


def served(controller: Controller, budget_ms: float, speed: float, *, strict: bool) -> bool:
    """Whether a request was promised its budget; what is run takes `speed` times its prediction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)
        try:
            decision = controller.predict(budget_ms, features=request(), strict=strict)
        except BudgetTooSmallError:
            return False
    assert isinstance(controller, DriftCorrecting)
    controller.observe(decision, speed * decision.latency_ms)
    return decision.within_budget


@settings(max_examples=20, deadline=None)
@given(st.floats(1.001, 1.6), st.sampled_from(ALPHAS))
def test_refusals_of_a_strict_stream_end_after_the_machine_recovered(slack: float, alpha: float) -> None:
    controller = bound_controller(alpha)
    budget_ms = slack * SMALLEST_BOUND_MS
    for _ in range(SLOW_REQUESTS):
        # an ample budget, so that every slow latency is measured
        served(controller, 1e6, SLOWNESS, strict=True)
    refused = sum(not served(controller, budget_ms, 1.0, strict=True) for _ in range(MOST_REFUSED + 1))
    assert refused <= MOST_REFUSED
    assert served(controller, budget_ms, 1.0, strict=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.sampled_from([0.2, 0.1, 0.05, 0.01]))
def test_a_mix_of_budgets_recovers_as_soon(seed: int, strict: bool, alpha: float) -> None:
    controller, drawn = bound_controller(alpha), random.Random(seed)
    for _ in range(SLOW_REQUESTS):
        served(controller, drawn.choice([9.0, 12.0, 40.0]), SLOWNESS, strict=strict)
    for _ in range(MOST_REFUSED):
        served(controller, drawn.choice([9.0, 12.0, 40.0]), 1.0, strict=strict)
    assert served(controller, 9.0, 1.0, strict=strict)


def test_what_would_not_fit_without_the_correction_does_not_lower_it() -> None:
    controller = bound_controller()
    served(controller, 1e6, 9.0, strict=True)
    risen = controller.drift.factor
    for _ in range(100):
        assert not served(controller, 0.9 * SMALLEST_BOUND_MS, 1.0, strict=True)
    assert controller.drift.factor == risen > 1


def test_on_a_machine_that_stays_slow_misses_are_alpha_of_all_requests() -> None:
    """A refused request counts as a kept one: what is let through to see whether the machine recovered is bounded."""
    controller, misses, alpha, count = bound_controller(), 0, 0.05, 20_000
    for _ in range(count):
        try:
            decision = controller.predict(1.1 * SMALLEST_BOUND_MS, features=request(), strict=True)
        except BudgetTooSmallError:
            continue
        measured_ms = SLOWNESS * decision.latency_ms
        assert decision.bound_ms is not None
        misses += measured_ms > decision.bound_ms
        controller.observe(decision, measured_ms)
    # θ / η is the most that the share of the start can add
    assert misses / count <= alpha + math.log(SLOWNESS) / (FALL / alpha * count) + 1 / count


def test_requests_beyond_the_fitted_ranges_teach_nothing() -> None:
    controller = bound_controller()
    decision = controller.predict(1e6, features=request(text_tokens=3000))
    assert decision.outside == ("text_tokens",)
    for _ in range(100):
        controller.observe(decision, 10 * decision.latency_ms)
    assert controller.drift.factor == 1
    # the chooser's ranges are not those of latencies
    controller.observe(replace(decision, outside=("prompt_0",)), 10 * decision.latency_ms)
    assert controller.drift.factor > 1


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(ALPHAS), st.booleans())
def test_one_miss_moves_the_bounds_a_little_and_all_together_within_limits(alpha: float, exceeded: bool) -> None:
    correction = DriftCorrection(alpha)
    correction.observe(exceeded=True)
    assert 1 < correction.factor <= math.exp(LARGEST_RISE)
    for _ in range(100_000):
        correction.observe(exceeded=exceeded)
        assert SMALLEST_FACTOR * (1 - 1e-9) <= correction.factor <= LARGEST_FACTOR * (1 + 1e-9)


@pytest.mark.parametrize("measured_ms", [math.nan, -1.0, math.inf])
def test_a_time_that_is_none_leaves_the_factor(measured_ms: float) -> None:
    controller = bound_controller()
    decision = controller.predict(50.0, features=request())
    with pytest.raises(InvalidValueError, match="measured latency"):
        controller.observe(decision, measured_ms)
    assert controller.drift.factor == 1


@pytest.mark.parametrize("alpha", ALPHAS)
def test_coverage_stands_still_and_comes_back_after_20_percent(alpha: float) -> None:
    """Mean over streams; the bound starts as the calibrated quantile of lognormal noise."""
    noise, streams = 0.1, 40
    drawn, normal = random.Random(7), NormalDist()
    still, after = 0, 0
    count = 3000
    for _ in range(streams):
        correction, quantile = DriftCorrection(alpha), noise * normal.inv_cdf(1 - alpha)
        for step in range(2 * count):
            speed = math.log(1.2) if step >= count else 0.0
            exceeded = speed + drawn.gauss(0, noise) > quantile + math.log(correction.factor)
            still += exceeded and step < count
            after += exceeded and step >= count + 500
            correction.observe(exceeded=exceeded)
    reach = 4.5 * (alpha / (streams * count)) ** 0.5
    assert still / (streams * count) <= alpha + reach
    assert after / (streams * (count - 500)) <= alpha + reach


def test_threads_lose_no_observation() -> None:
    correction, expected = DriftCorrection(0.05), DriftCorrection(0.05)
    threads = [
        threading.Thread(target=lambda: [correction.observe(exceeded=False) for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(800):
        expected.observe(exceeded=False)
    assert correction.factor == pytest.approx(expected.factor, rel=1e-12)


def test_a_learned_controller_recovers_too() -> None:
    chooser = synthetic_chooser("supervised", configs=token_linear().configs)
    controller = LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds(1.02))
    features = seen_request(10, low=90, medium=140, high=190)
    decision = controller.predict(1e6, features=features)
    for _ in range(20):
        controller.observe(decision, 9 * decision.latency_ms)
    risen = controller.bound.drift.factor
    with pytest.raises(BudgetTooSmallError):
        controller.predict(1.01 * SMALLEST_BOUND_MS, features=features, strict=True)
    assert controller.bound.drift.factor < risen


def test_what_the_order_of_tests_refuses_without_any_drift_lowers_nothing() -> None:
    """The fastest setting has wide misses: nothing fits 20 ms, though the bounds of slower ones are smaller."""
    scores = [[math.log(4.0)] * 99, *[[math.log(1.02)] * 99] * 3]
    controller = BoundController(model=token_linear(), bounds=bounds_of(scores))
    controller.drift.observe(exceeded=True)
    before = controller.drift.factor
    for _ in range(50):
        with pytest.raises(BudgetTooSmallError) as raised:
            controller.predict(20.0, features=request(), strict=True)
        assert raised.value.fastest_ms > 20.0
    assert controller.drift.factor == before > 1
