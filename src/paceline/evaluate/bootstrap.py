"""Paired bootstrap: what the mean of a figure over requests might have been with other requests.

The draws are the same for every figure of equally many requests, so figures of one evaluation stay paired.

Legend of array suffixes: R requests, K figures, S resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.slo import Interval

RESAMPLES = 1000
SEED = 3407


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The mean difference of two controllers over the same requests, with a 95 % interval that resamples requests."""

    difference: float
    interval: Interval


def paired_difference(difference_R: NDArray[np.float64]) -> PairedDifference:
    """Return the mean of a difference a request, with its interval."""
    means_S = resampled_means(difference_R[:, None])[:, 0]
    return PairedDifference(difference=float(difference_R.mean()), interval=middle_of(means_S))


def resampled_means(values_RK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of every figure over 1,000 resamples of the requests, as (resample, figure)."""
    random = np.random.default_rng(SEED)
    count = len(values_RK)
    drawn = (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(RESAMPLES))
    return np.array([times_R @ values_RK for times_R in drawn]) / count


def middle_of(values_S: NDArray[np.float64]) -> Interval:
    """Return the ends of the middle 95 % of the resamples."""
    low, high = np.percentile(values_S, [2.5, 97.5])
    return Interval(low=float(low), high=float(high))
