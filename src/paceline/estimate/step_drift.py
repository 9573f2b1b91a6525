"""How much slower or faster a machine runs than its step-time model says, seen early: from steps, not from first tokens."""

import math

from paceline.errors import InvalidValueError

DEFAULT_WEIGHT = 0.05  # of a step: after 45 steps nine tenths of a change are seen
# a step of ten times its length is a hiccup, not a machine of another speed
SMALLEST_RATIO, LARGEST_RATIO = 0.1, 10.0


class StepDrift:
    """A moving average of measured over predicted step times, which predictions are multiplied by; knows no clock."""

    __slots__ = ("_weight", "factor")

    def __init__(self, weight: float = DEFAULT_WEIGHT) -> None:
        if not 0 < weight <= 1:
            raise InvalidValueError("weight", weight, "a share above 0 and at most 1")
        self._weight = weight
        self.factor = 1.0

    def observe(self, *, measured_seconds: float, predicted_seconds: float) -> None:
        """Take note of a step; one that was predicted to take no time says nothing. Raises InvalidValueError for no time."""
        if not 0 <= measured_seconds < math.inf:
            raise InvalidValueError("measured_seconds", measured_seconds, "a finite number of seconds of at least 0")
        if predicted_seconds > 0:
            ratio = min(max(measured_seconds / predicted_seconds, SMALLEST_RATIO), LARGEST_RATIO)
            self.factor += self._weight * (ratio - self.factor)
