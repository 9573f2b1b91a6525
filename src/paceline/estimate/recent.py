"""Bounds from the requests that a server has answered itself: split-conformal quantiles over a window of the last ones.

A score is log(measured / predicted), of whatever predicted it: a controller's own bound, a table's mean. So an artifact that
was measured elsewhere (another host, another load) serves as soon as enough requests were answered here, and a slower machine
is followed as the window fills with its requests. Exchangeability holds as far as the requests of the window are alike.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable
from functools import lru_cache

from paceline.errors import InvalidValueError
from paceline.estimate.bounds import DEFAULT_CONFIDENCE, SMALLEST_MS, least_requests, require_alpha
from paceline.estimate.promises import shifted_score
from paceline.slo import tolerance_rank

WINDOW = 500  # requests: the rank is then the 483rd for α 0.05 and confidence 0.9


class RecentScores:
    """The scores of the last requests; factors that turn a prediction into what bounds it. None before there are enough.

    Above `upper` a latency lies with probability α at most, with `confidence` over the window that was drawn; below `lower`
    with α at most, on average over windows.
    """

    def __init__(self, alpha: float, *, confidence: float = DEFAULT_CONFIDENCE, window: int = WINDOW) -> None:
        require_alpha(alpha)
        self.alpha, self.confidence, self.needed = alpha, confidence, least_requests(alpha, confidence)
        if window < self.needed:
            raise InvalidValueError("window", window, f"at least {self.needed} requests, which α {alpha:g} needs")
        self._last: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._last)

    def observe(self, measured_ms: float, predicted_ms: float) -> None:
        """Take note of what a request took, beside what was predicted of it."""
        if not (0 <= measured_ms < math.inf and 0 <= predicted_ms < math.inf):
            raise InvalidValueError(
                "latency", (measured_ms, predicted_ms), "two finite numbers of milliseconds, none below 0"
            )
        score = math.log(max(measured_ms, SMALLEST_MS) / max(predicted_ms, SMALLEST_MS))
        if len(self._last) == self._last.maxlen:
            del self._sorted[bisect_left(self._sorted, self._last[0])]
        self._last.append(score)
        insort(self._sorted, score)

    @property
    def upper(self) -> float | None:
        """What a prediction is multiplied by to be its bound."""
        return self.upper_at(0.0)

    def upper_at(self, shift: float) -> float | None:
        """Return what a prediction is multiplied by to be its bound at a level smaller by `shift`: `PromiseAccounts` says so."""
        rank = _upper_rank(len(self._last), self.alpha, self.confidence)
        return None if rank is None else math.exp(shifted_score(self._sorted, rank, shift))

    @property
    def lower(self) -> float | None:
        """What a prediction is multiplied by to be surely exceeded."""
        rank = math.floor((len(self._last) + 1) * self.alpha)
        return math.exp(self._sorted[rank - 1]) if rank else None

    @property
    def median(self) -> float:
        """What a prediction is multiplied by to be typical; 1 without any request."""
        return math.exp(self._sorted[len(self._sorted) // 2]) if self._sorted else 1.0


class ClassedScores:
    """Scores by class of request, and within it by what was predicted; those of the class, or of all, stand in for too few.

    A class is what a prediction may err by in its own way, and so is its size: measured in another host, a short request lacks
    what every request costs there, and disturbances add milliseconds; a long one hardly notices either. Then one factor is
    too small for what is short, which is what tight budgets lead to. Sizes are half octaves of the prediction. Mondrian
    conformal prediction (Vovk, Gammerman and Shafer, 2005, section 4.5).
    """

    def __init__(self, alpha: float) -> None:
        self.alpha, self.pooled = alpha, RecentScores(alpha)
        self._classes: dict[Hashable, RecentScores] = {}

    def observe(self, name: Hashable, measured_ms: float, predicted_ms: float) -> None:
        """Take note of what a request of a class took, beside what was predicted of it."""
        self.pooled.observe(measured_ms, predicted_ms)
        for own in (name, (name, size_class(predicted_ms))):
            self._classes.setdefault(own, RecentScores(self.alpha)).observe(measured_ms, predicted_ms)

    def of(self, name: Hashable, predicted_ms: float) -> RecentScores:
        """Return the scores of predictions of this size in a class where they bound, else its own, else those of all."""
        for own in ((name, size_class(predicted_ms)), name):
            found = self._classes.get(own)
            if found is not None and found.upper is not None:
                return found
        return self.pooled


def size_class(predicted_ms: float) -> int:
    """Return which half octave a number of milliseconds is in."""
    return round(2 * math.log2(max(predicted_ms, SMALLEST_MS)))


@lru_cache(maxsize=4096)
def _upper_rank(count: int, alpha: float, confidence: float) -> int | None:
    return tolerance_rank(count, 1 - alpha, confidence) if count else None
