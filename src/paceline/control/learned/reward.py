"""What a configuration is worth to a request under a budget: its accuracy, less what its latency costs."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paceline.errors import InvalidValueError

STEEPNESS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """Weights of the terms accuracy, σ(10(latency / budget − 1)) and (max(0, latency − budget) / budget)²; 0 drops one.

    The two latency terms are costs: a soft step at the budget, and what is beyond it.
    """

    accuracy_weight: float = 1.0
    latency_weight: float = 0.5
    overshoot_weight: float = 10.0

    def __post_init__(self) -> None:
        for name in ("accuracy_weight", "latency_weight", "overshoot_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InvalidValueError(name, value, "a number of at least 0; 0 drops the term")

    def of(self, accuracy: ArrayLike, latency_ms: ArrayLike, budget_ms: ArrayLike) -> NDArray[np.float64]:
        """Return the reward; the three broadcast against one another."""
        share = np.asarray(latency_ms, dtype=np.float64) / np.asarray(budget_ms, dtype=np.float64)
        step = 0.5 * (1 + np.tanh(STEEPNESS / 2 * (share - 1)))  # σ(x), which does not overflow
        overshoot = np.maximum(share - 1, 0.0) ** 2
        gained = self.accuracy_weight * np.asarray(accuracy, dtype=np.float64)
        return gained - self.latency_weight * step - self.overshoot_weight * overshoot
