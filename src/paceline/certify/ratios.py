"""Latencies as paired ratios to the full configuration: what a busy machine does to one request it does to its neighbours.

Legend of array suffixes: M questions, C configurations.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from paceline.errors import InvalidValueError

Floats = NDArray[np.float64]

BOUND_POINT = 0.99
BOUND_SLACK = 1.1
EXCEEDED = 0.05


def paired_latencies(latencies_MC: Floats, full: int) -> Floats:
    """Return the milliseconds of every configuration: the geometric mean of its ratios to the full configuration on the same
    question, times the full configuration's mean.

    `latencies_MC` (question, configuration) are milliseconds above 0 of the same questions; raises InvalidValueError.
    """
    latencies_MC = np.asarray(latencies_MC, dtype=np.float64)
    if not len(latencies_MC) or not (latencies_MC > 0).all():
        raise InvalidValueError(
            "latencies", "none, or one that is not above 0", "milliseconds of at least one question"
        )
    logs_MC = np.log(latencies_MC)
    return np.exp((logs_MC - logs_MC[:, [full]]).mean(axis=0)) * latencies_MC[:, full].mean()


def latency_bounds(latencies_MC: Floats) -> Floats:
    """Return the bound that each configuration is to be certified for: its mean times the 99 % point, over all
    configurations together, of latencies relative to their configuration's mean, and a tenth more.

    The tail of one configuration alone is a few requests; the 95 % point would be too low two times in five.
    """
    latencies_MC = np.asarray(latencies_MC, dtype=np.float64)
    means_C = latencies_MC.mean(axis=0)
    return means_C * float(np.quantile(latencies_MC / means_C, BOUND_POINT)) * BOUND_SLACK


def bound_kept(exceeded: int, requests: int, delta: float, *, share: float = EXCEEDED) -> bool:
    """Tell whether it is refused at level δ that a bound is exceeded by `share` of requests or more: an exact binomial test."""
    return requests > 0 and bool(binom.cdf(exceeded, requests, share) <= delta)


def fewest_requests(delta: float, *, share: float = EXCEEDED) -> int:
    """Return the requests that a bound needs at least, none of which may exceed it: ln δ / ln(1 − share)."""
    return int(np.ceil(np.log(delta) / np.log1p(-share) - 1e-9))
