"""Percentiles, adherence, means and goodput, each with its interval; standard library only, so that it loads online."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, pstdev

from paceline.errors import InvalidValueError

CONFIDENCE = 0.95
EN_DASH = "\u2013"
BISECTION_STEPS = 60  # halves [0, 1] to below the spacing of floats near 1
FRACTION_TOLERANCE = 1e-14
SMALLEST_DENOMINATOR = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f}{EN_DASH}{self.high:.3f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A share of yes among `count` yes-or-no outcomes, such as the requests that kept their budgets."""

    successes: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidValueError("count", self.count, "at least one outcome")
        if not 0 <= self.successes <= self.count:
            raise InvalidValueError("successes", self.successes, f"a whole number from 0 to {self.count}")

    @property
    def share(self) -> float:
        """Successes over count."""
        return self.successes / self.count

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the exact interval of Clopper and Pearson (Biometrika 26, 1934): it covers at least `confidence`."""
        tail = _tail(confidence)
        hits, misses = self.successes, self.count - self.successes
        low = 0.0 if hits == 0 else _root(lambda share: _beta_cdf(share, hits, misses + 1) - tail)
        high = 1.0 if misses == 0 else _root(lambda share: _beta_cdf(share, hits + 1, misses) - (1 - tail))
        return Interval(low=low, high=high)

    def __str__(self) -> str:
        return f"{self.share:.3f} (95 % CI {self.interval()}, n = {self.count:,})"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanEstimate:
    """A mean with the standard deviation (population form, divided by n) and the count behind it.

    `design_effect` is how much larger its variance is than that of independent values: 1 unless values share something, as
    questions share a picture.
    """

    mean: float
    std: float
    count: int
    design_effect: float = 1.0

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Return the normal interval of the mean; None for a single value, which says nothing of spread."""
        if self.count < 2:
            return None
        # std / sqrt(n - 1) is the standard error: the population form lacks the factor sqrt(n / (n - 1))
        reach = _z(confidence) * self.std * math.sqrt(self.design_effect / (self.count - 1))
        return Interval(low=self.mean - reach, high=self.mean + reach)

    def score_interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Return an interval for the mean of scores such as accuracies, honest also where all of them are equal.

        Scores within [0, 1] vary at most as much as yes-or-no outcomes of the same mean, so Wilson's interval covers;
        scores that vary more (CIDEr exceeds 1) get the normal one.
        """
        if 0 <= self.mean <= 1 and self.std**2 <= self.mean * (1 - self.mean) + 1e-9:
            return wilson_interval(self.mean, self.count / self.design_effect, confidence)
        return self.interval(confidence)


def mean_estimate(values: Sequence[float]) -> MeanEstimate:
    """Return mean, spread and count of at least one value."""
    _require_values(values)
    return MeanEstimate(mean=fmean(values), std=pstdev(values), count=len(values))


def clustered_estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> MeanEstimate:
    """Return mean, spread and count of at least one value, with the design effect of values that share a cluster.

    The variance of the mean is that of the clusters' sums of residuals (Liang and Zeger, Biometrika 73, 1986), with the
    factor G / (G - 1) for G clusters, and never less than that of independent values. It is too small for few clusters, below
    about thirty. Where all values are equal, or all are of one cluster, a cluster counts as one value.
    """
    estimate = mean_estimate(values)
    if len(clusters) != len(values):
        raise InvalidValueError("number of clusters", len(clusters), f"one for each of {len(values)} values")
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - estimate.mean
    count, groups = len(values), len(sums)
    if count == groups:
        return estimate
    independent = estimate.std**2 * count / (count - 1)
    if groups < 2 or independent <= 0:
        return replace(estimate, design_effect=count / groups)
    clustered = math.fsum(each * each for each in sums.values()) * groups / (groups - 1) / count
    return replace(estimate, design_effect=max(1.0, clustered / independent))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` (0 to 100) of the values lie, linear between neighbouring values."""
    _require_values(values)
    _require_percent(percent)
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def percentile_interval(values: Sequence[float], percent: float, confidence: float = CONFIDENCE) -> Interval | None:
    """Return two of the values that hold the true percentile between them with at least `confidence`, whatever the
    distribution; None where there are too few values to tell.

    Order statistics: the number of values below the true percentile is binomial (David and Nagaraja, 2003, ch. 7).
    """
    _require_values(values)
    _require_percent(percent)
    ordered, count, share, tail = sorted(values), len(values), percent / 100, _tail(confidence)
    low = _first_rank(count, lambda rank: _binomial_cdf(rank, count, share) > tail)
    high = _first_rank(count, lambda rank: _binomial_cdf(rank, count, share) >= 1 - tail) + 1
    if low < 1 or high > count:
        return None
    return Interval(low=ordered[low - 1], high=ordered[high - 1])


def tolerance_rank(count: int, share: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the smallest rank (from 1) such that at least `share` of the distribution lies at or below the value of
    that rank among `count` drawn ones, with at least `confidence`; None where too few were drawn for any.

    A one-sided tolerance limit (Wilks, Annals of Mathematical Statistics 12, 1941): the value of rank k covers `share`
    unless k or more of the draws fell below the true quantile.
    """
    if not 0 < share < 1:
        raise InvalidValueError("share", share, "a number between 0 and 1, for example 0.95")
    _tail(confidence)
    rank = _first_rank(count, lambda below: _binomial_cdf(below, count, share) >= confidence) + 1
    return rank if rank <= count else None


def wilson_interval(share: float, count: float, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's interval (JASA 22, 1927) for a share of `count` outcomes: close to exact, and quick to compute."""
    z = _z(confidence)
    shrink = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(low=max(0.0, centre - reach), high=min(1.0, centre + reach))


def adherence(latencies_ms: Sequence[float], budgets_ms: Sequence[float]) -> Proportion:
    """Return the share of requests whose latency is within their own budget."""
    _require_values(latencies_ms)
    return Proportion(successes=_kept(latencies_ms, budgets_ms), count=len(latencies_ms))


def goodput_per_second(latencies_ms: Sequence[float], budgets_ms: Sequence[float], *, duration_seconds: float) -> float:
    """Return the requests within their budgets for each second of a run that took `duration_seconds`."""
    if not (math.isfinite(duration_seconds) and duration_seconds > 0):
        raise InvalidValueError("duration", duration_seconds, "a number of seconds above 0")
    return _kept(latencies_ms, budgets_ms) / duration_seconds


def _kept(latencies_ms: Sequence[float], budgets_ms: Sequence[float]) -> int:
    if len(latencies_ms) != len(budgets_ms):
        raise InvalidValueError("number of budgets", len(budgets_ms), f"one for each of {len(latencies_ms)} latencies")
    return sum(latency <= budget for latency, budget in zip(latencies_ms, budgets_ms, strict=True))


def _require_values(values: Sequence[float]) -> None:
    if len(values) == 0:
        raise InvalidValueError("values", [], "at least one value")


def _require_percent(percent: float) -> None:
    if not 0 <= percent <= 100:
        raise InvalidValueError("percent", percent, "a number from 0 to 100")


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise InvalidValueError("confidence", confidence, "a number between 0 and 1, for example 0.95")
    return (1 - confidence) / 2


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(1 - _tail(confidence))


def _first_rank(count: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest rank in 0..count for which a condition that stays true once true holds."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _binomial_cdf(hits: int, count: int, share: float) -> float:
    return 1.0 if hits >= count else 1 - _beta_cdf(share, hits + 1, count - hits)


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below this point only
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) from the front (Lentz's method)."""
    numerator, denominator, value, step = 1.0, 0.0, 1.0, 1
    while True:
        term = _fraction_term(x, a, b, step)
        denominator = 1 / _away_from_zero(1 + term * denominator)
        numerator = _away_from_zero(1 + term / numerator)
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < FRACTION_TOLERANCE:
            return 1 / value
        step += 1


def _fraction_term(x: float, a: float, b: float, step: int) -> float:
    half = step // 2
    below = (a + step - 1) * (a + step)
    return (half * (b - half) if step % 2 == 0 else -(a + half) * (a + b + half)) * x / below


def _away_from_zero(value: float) -> float:
    return value if abs(value) > SMALLEST_DENOMINATOR else SMALLEST_DENOMINATOR
