"""Paired bootstrap: what the mean of a figure over requests might have been with other requests.

The draws are the same for every figure of equally many requests, so figures of one evaluation stay paired. Requests that
share a picture are drawn together.

Legend of array suffixes: R requests, G pictures, K figures, S resamples.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.slo import Interval

RESAMPLES = 1000
SEED = 3407


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The mean difference of two controllers over the same requests, with a 95 % interval that resamples their pictures."""

    difference: float
    interval: Interval


def paired_difference(
    difference_R: NDArray[np.float64], pictures: Sequence[Hashable] | None = None
) -> PairedDifference:
    """Return the mean of a difference a request, with its interval."""
    means_S = resampled_means(difference_R[:, None], pictures)[:, 0]
    return PairedDifference(difference=float(difference_R.mean()), interval=middle_of(means_S))


def resampled_means(values_RK: NDArray[np.float64], pictures: Sequence[Hashable] | None = None) -> NDArray[np.float64]:
    """Return the means of every figure over 1,000 resamples of the requests, as (resample, figure).

    With `pictures`, one a request, pictures are resampled with all of their requests.
    """
    random = np.random.default_rng(SEED)
    sums_GK, sizes_G = _by_picture(values_RK, pictures)
    count = len(sums_GK)
    drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)]
    return np.array([times_G @ sums_GK / (times_G @ sizes_G) for times_G in drawn])


def _by_picture(
    values_RK: NDArray[np.float64], pictures: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums and the number of requests of each picture; requests themselves where none is shared."""
    if pictures is None or len(set(pictures)) == len(values_RK):
        return values_RK, np.ones(len(values_RK))
    place_of = {picture: place for place, picture in enumerate(dict.fromkeys(pictures))}
    place_R = np.array([place_of[picture] for picture in pictures])
    sums_GK = np.zeros((len(place_of), values_RK.shape[1]))
    np.add.at(sums_GK, place_R, values_RK)
    return sums_GK, np.bincount(place_R, minlength=len(place_of)).astype(np.float64)


def middle_of(values_S: NDArray[np.float64]) -> Interval:
    """Return the ends of the middle 95 % of the resamples."""
    low, high = np.percentile(values_S, [2.5, 97.5])
    return Interval(low=float(low), high=float(high))
