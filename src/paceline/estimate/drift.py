"""Bounds that follow a machine whose speed has changed since it was profiled: online quantile tracking.

All bounds are multiplied by exp(θ). A latency above its bound raises θ by η(1 − α), one below lowers it by ηα, so that in
the long run a share α of latencies exceeds the bound, whatever the sequence: over T requests the share is within
(range of θ + η) / (ηT) of α (Gibbs and Candès, Adaptive Conformal Inference under Distribution Shift, 2021; tracking the
quantile itself: Angelopoulos, Candès and Tibshirani, Conformal PID Control for Time Series Prediction, 2023, section 2.1).
Only whether a bound was exceeded counts, never by how much: one absurd latency moves θ as far as any other miss.
"""

import math

from paceline.estimate.bounds import require_alpha

FALL = 0.0005  # a kept bound lowers all of them by 0.05 %: a detour of 20 % is forgotten after 365 requests


class DriftCorrection:
    """The factor that the bounds of one stream of requests are multiplied by; knows no clock."""

    __slots__ = ("_fall", "_log_factor", "_rise", "factor")

    def __init__(self, alpha: float) -> None:
        require_alpha(alpha)
        self._fall, self._rise = FALL, FALL * (1 - alpha) / alpha
        self._log_factor = 0.0
        self.factor = 1.0

    def observe(self, *, exceeded: bool) -> None:
        """Take note of one latency: whether it was above the bound that it was promised."""
        self._log_factor += self._rise if exceeded else -self._fall
        self.factor = math.exp(self._log_factor)
