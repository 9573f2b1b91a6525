"""An exact unconditional test that one configuration is at most ε less accurate than another, on paired right and wrong answers.

Of m questions b are broken (right under the full configuration, wrong under the other) and g mended. H0: the loss, P(broken) −
P(mended), is ε or more. The statistic is the score with the rate of mended answers estimated under H0 (Tango, Statistics in
Medicine 17, 1998, 891); the critical value is the largest whose probability stays at most δ whatever that rate is (Hsueh, Liu
and Chen, Biometrics 57, 2001, 478). The region is convex (fewer broken or more mended stay in it), so its size is reached at a
loss of exactly ε.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import bdtr, gammaln, xlog1py, xlogy
from scipy.stats import norm

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

RATES = 96  # of mended answers at which the size is looked at, finer where they are rare
FEWER_RATES = 24  # while the critical value is looked for
RESERVE = 0.002  # of δ, for what lies between two of them
STEPS = 11  # of the bisection for the critical value
STEP_BACK = 0.004  # of it, where the finer look finds more
WIDTH = 9.0  # standard deviations of the number of mended answers that are summed


def score(broken: Floats | Whole | int, mended: Floats | Whole | int, questions: int, epsilon: float) -> Floats:
    """Return the score statistic; the smaller, the more it speaks against a loss of ε or more."""
    b, g, m = np.asarray(broken, dtype=np.float64), np.asarray(mended, dtype=np.float64), float(questions)
    linear = b * (1 + epsilon) + g * (1 - epsilon) - 2 * m * epsilon
    rate = (linear + np.sqrt(linear**2 + 8 * m * g * epsilon * (1 - epsilon))) / (4 * m)
    variance = m * (2 * np.maximum(rate, 0) + epsilon - epsilon**2)
    return (b - g - m * epsilon) / np.sqrt(variance)


@lru_cache(maxsize=4096)
def most_broken(questions: int, epsilon: float, delta: float) -> Whole:
    """Return, for each number of mended answers from 0, the most broken ones that still certify; −1 where none do.

    The size of this region is at most δ. Its length is `questions` + 1.
    """
    normal = float(norm.ppf(delta))
    low, high = normal - 1.5, normal + 0.5
    for _ in range(STEPS):
        middle = (low + high) / 2
        fits = _size(_region(questions, epsilon, middle), questions, epsilon, FEWER_RATES) <= delta * (1 - RESERVE)
        low, high = (middle, high) if fits else (low, middle)
    for _ in range(STEPS * FEWER_RATES):
        region = _region(questions, epsilon, low)
        if _size(region, questions, epsilon, RATES) <= delta * (1 - RESERVE):
            return region
        low -= STEP_BACK
    return np.full(questions + 1, -1)


def certifies(broken: int, mended: int, questions: int, epsilon: float, delta: float) -> bool:
    """Tell whether a loss of ε or more is refused at level δ."""
    return broken <= int(most_broken(questions, epsilon, delta)[mended])


def certifying_probability(region: Whole, questions: int, broken_rate: float, mended_rate: float) -> float:
    """Return the probability that a region of `most_broken`'s form is met by questions of these rates."""
    middle = questions * mended_rate
    reach = WIDTH * math.sqrt(max(middle * (1 - mended_rate), 1)) + 10
    g = np.arange(max(0, math.floor(middle - reach)), min(questions, math.ceil(middle + reach)) + 1)
    g = g[region[g] >= 0]
    rest, most = questions - g, region[g]
    share = min(1.0, broken_rate / (1 - mended_rate)) if mended_rate < 1 else 0.0
    chance = np.exp(
        gammaln(questions + 1)
        - gammaln(g + 1)
        - gammaln(rest + 1)
        + xlogy(g, mended_rate)
        + xlog1py(rest, -mended_rate)
    )
    below = np.where(most >= rest, 1.0, bdtr(np.minimum(most, np.maximum(rest - 1, 0)), np.maximum(rest, 1), share))
    return float(chance @ below)


def _region(questions: int, epsilon: float, critical: float) -> Whole:
    """Return the most broken answers whose score is at most `critical`, by number of mended ones; −1 where none is."""
    g = np.arange(questions + 1)
    low, high = np.full(questions + 1, -1), questions - g
    while (low < high).any():
        middle = (low + high + 1) // 2
        inside = score(middle, g, questions, epsilon) <= critical
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return low


def _size(region: Whole, questions: int, epsilon: float, count: int) -> float:
    """Return the largest probability of a region over the rates of mended answers, at a loss of ε; `count` are looked at, and
    what lies around the largest."""
    top = (1 - epsilon) / 2
    rates = top * np.linspace(0, 1, count) ** 2

    def probability(rate: float) -> float:
        return certifying_probability(region, questions, min(1.0, rate + epsilon), rate)

    def missed(rate: float) -> float:
        return -probability(rate)

    at = np.array([probability(rate) for rate in rates])
    peak = int(at.argmax())
    around = rates[max(0, peak - 1)], rates[min(count - 1, peak + 1)]
    found = minimize_scalar(missed, bounds=around, method="bounded", options={"maxiter": 12})
    return max(float(at[peak]), -float(found.fun))
