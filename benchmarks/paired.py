"""Comparisons of runs that share their load: means with Student's interval, and geometric means of ratios."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import scipy.stats


def mean_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean with Student's 95 % interval over repetitions; no interval for a single one."""
    if len(values) < 2:
        return {"mean": fmean(values), "ci": None, "n": len(values)}
    reach = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return {"mean": fmean(values), "ci": [fmean(values) - reach, fmean(values) + reach], "n": len(values)}


def paired(own: Sequence[float | None], stock: Sequence[float | None]) -> dict[str, Any] | None:
    """Return the change against the stock run of the same repetition, as the geometric mean of ratios minus 1.

    Ratios are skewed, their logarithms are not: the interval is Student's on logarithms. A pair with a 0 has no ratio and
    is left out; `n` counts the others. None where no pair is left.
    """
    logs = [math.log(one / other) for one, other in zip(own, stock, strict=True) if one and other]
    if not logs:
        return None
    found = mean_with_interval(logs)
    ends = found["ci"]
    return {
        "mean": math.expm1(fmean(logs)),
        "ci": None if ends is None else [math.expm1(end) for end in ends],
        "n": len(logs),
    }
