"""Bounds of what a queue makes of a request, from the requests that came before it: conformal scores in a sliding window.

A score is log(measured / predicted) of a request's time to first token. The bound of a prediction is the prediction times
exp(q) with q the ceil((n + 1)(1 − α))-th smallest of the last n scores of the request's class (split conformal, see
`paceline.estimate.bounds`; the window follows what changes). For a request exchangeable with those of its class's window the
measured time exceeds the bound with probability α at most. A class with too few scores has no bound: nothing is promised.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Hashable

from paceline.errors import InvalidValueError
from paceline.estimate.bounds import RANK_SLACK, SMALLEST_MS, least_requests, require_alpha
from paceline.estimate.promises import shifted_score

DEFAULT_WINDOW = 500
SMALLEST_SECONDS = SMALLEST_MS / 1e3


class OnlineScores:
    """The last `window` scores of each class; knows no clock."""

    def __init__(self, *, alpha: float, window: int = DEFAULT_WINDOW) -> None:
        require_alpha(alpha)
        least = least_requests(alpha, None)
        if window < least:
            raise InvalidValueError(
                "window", window, f"at least {least}, the scores that a bound at alpha {alpha} needs"
            )
        self.alpha, self.window = alpha, window
        self.least = least
        self._arrived: dict[Hashable, deque[float]] = {}
        self._sorted: dict[Hashable, list[float]] = {}

    def count(self, kind: Hashable) -> int:
        """Return how many scores a class has."""
        return len(self._sorted.get(kind, ()))

    def factor(self, kind: Hashable, *, shift: float = 0.0) -> float | None:
        """Return what a prediction is multiplied by to bound the time; None while the class has too few scores.

        `shift` is by how much the level is to be smaller than α: `PromiseAccounts` says so.
        """
        scores = self._sorted.get(kind, ())
        rank = max(1, math.ceil((len(scores) + 1) * (1 - self.alpha) - RANK_SLACK))
        return math.exp(shifted_score(scores, rank, shift)) if rank <= len(scores) else None

    def lower_factor(self, kind: Hashable) -> float | None:
        """Return what a prediction is multiplied by to be surely exceeded, but for a share α; None for too few scores."""
        scores = self._sorted.get(kind, ())
        rank = math.floor((len(scores) + 1) * self.alpha + RANK_SLACK)
        return math.exp(scores[rank - 1]) if rank else None

    def chance(self, kind: Hashable, *, ratio: float) -> float:
        """Return the least chance that a time is at most `ratio` times what is predicted; 1 of a class without scores.

        The conformal one: of n scores those at most it, over n + 1.
        """
        scores = self._sorted.get(kind, ())
        if not scores:
            return 1.0
        return bisect_right(scores, math.log(max(ratio, SMALLEST_SECONDS))) / (len(scores) + 1)

    def observe(self, kind: Hashable, *, measured_seconds: float, predicted_seconds: float) -> None:
        """Take note of a first token; raises InvalidValueError for a time that is none."""
        for name, seconds in (("measured_seconds", measured_seconds), ("predicted_seconds", predicted_seconds)):
            if not 0 <= seconds < math.inf:
                raise InvalidValueError(name, seconds, "a finite number of seconds of at least 0")
        score = math.log(max(measured_seconds, SMALLEST_SECONDS) / max(predicted_seconds, SMALLEST_SECONDS))
        arrived, scores = self._arrived.setdefault(kind, deque()), self._sorted.setdefault(kind, [])
        if len(arrived) == self.window:
            del scores[bisect_left(scores, arrived.popleft())]
        arrived.append(score)
        insort(scores, score)


def budget_class(ttft_budget_seconds: float | None) -> int | None:
    """Return the class of a request under orders by deadline: its budget to a power of 2; None without a budget.

    Under such orders those of tight budgets pass the others, so that each class waits, and errs, in its own way.
    """
    return None if ttft_budget_seconds is None else round(math.log2(ttft_budget_seconds))
