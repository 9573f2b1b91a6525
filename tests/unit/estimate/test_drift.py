"""Coverage before, during and after a change of speed, on generated latencies of fixed seeds."""

from collections.abc import Callable

import numpy as np
import pytest
from latency_models import scores_of

from paceline.estimate.drift import FALL, DriftCorrection

ALPHA = 0.05
SLOWER = 1.2
STEPS = 1500
SETTLED = 500
SEEDS = 60


def exceeded(speed: Callable[[int], float], noise: float, seed: int, steps: int = STEPS) -> np.ndarray:
    """Whether each of a stream of lognormal latencies exceeded its corrected bound."""
    random = np.random.default_rng(seed)
    factor = float(np.exp(scores_of([random.normal(0, noise, 400).tolist()]).quantiles(ALPHA)[0]))
    correction = DriftCorrection(ALPHA)
    found = np.zeros(steps, dtype=bool)
    for step in range(steps):
        found[step] = speed(step) * random.lognormal(0, noise) > factor * correction.factor
        correction.observe(exceeded=bool(found[step]))
    return found


def coverage(speed: Callable[[int], float], noise: float, window: slice, steps: int = STEPS) -> float:
    return float(np.mean([1 - exceeded(speed, noise, seed, steps)[window].mean() for seed in range(SEEDS)]))


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.25])
def test_coverage_comes_back_within_500_requests_of_a_machine_becoming_slower(noise: float) -> None:
    def speed(step: int) -> float:
        return SLOWER if step >= 500 else 1.0

    after = coverage(speed, noise, slice(500 + SETTLED, None), steps=3000)
    assert after == pytest.approx(1 - ALPHA, abs=0.01)
    assert coverage(speed, noise, slice(500, 520)) < 1 - ALPHA - 0.02  # the change does hurt at first


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.25])
def test_coverage_comes_back_when_the_machine_recovers(noise: float) -> None:
    def speed(step: int) -> float:
        return SLOWER if 500 <= step < 1500 else 1.0

    assert coverage(speed, noise, slice(1500 + SETTLED, None), steps=4000) == pytest.approx(1 - ALPHA, abs=0.01)


def test_without_a_change_coverage_stays() -> None:
    assert coverage(lambda _: 1.0, 0.1, slice(None)) == pytest.approx(1 - ALPHA, abs=0.01)


def test_the_long_run_share_is_kept_whatever_the_sequence() -> None:
    """An adversary that alternates between very slow and very fast for long stretches."""
    steps = 40_000
    found = exceeded(lambda step: 3.0 if (step // 5000) % 2 else 1.0, 0.1, 3, steps)
    assert found.mean() == pytest.approx(ALPHA, abs=0.005)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_one_miss_moves_the_bounds_by_a_fixed_little(alpha: float) -> None:
    correction = DriftCorrection(alpha)
    correction.observe(exceeded=True)
    assert correction.factor == pytest.approx(np.exp(FALL * (1 - alpha) / alpha))
    kept = round((1 - alpha) / alpha)
    for _ in range(kept):
        correction.observe(exceeded=False)
    assert correction.factor == pytest.approx(1.0)
