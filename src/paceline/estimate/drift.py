"""Bounds that follow a machine whose speed has changed since it was profiled: online quantile tracking.

All bounds are multiplied by exp(θ). A latency above its bound raises θ by η(1 − α), one below lowers it by ηα, so that in
the long run a share α of latencies exceeds the bound, whatever the sequence: over T requests the share is within
(range of θ + η) / (ηT) of α (Gibbs and Candès, Adaptive Conformal Inference under Distribution Shift, 2021; tracking the
quantile itself: Angelopoulos, Candès and Tibshirani, Conformal PID Control for Time Series Prediction, 2023, section 2.1).
Only whether a bound was exceeded counts, never by how much: one absurd latency moves θ as far as any other miss.

What is refused is never measured. A request that nothing fits only because of θ > 0 lowers it by FALL, as a kept bound does
(docs/decisions/010-drift.md).
"""

import math
import threading

from paceline.estimate.bounds import require_alpha

FALL = 0.0005  # a kept bound lowers all of them by 0.05 %: a detour of 20 % is forgotten after 365 requests
LARGEST_RISE = 0.05  # α below 0.01 would otherwise let a single miss multiply every bound by exp(FALL / α)
# A machine 4 times as slow as its profile is to be profiled anew. Downwards an error breaks promises, and false times of
# 0 ms lead there: from half, 73 misses restore the bounds at α = 0.05.
SMALLEST_FACTOR, LARGEST_FACTOR = 0.5, 4.0
_LOWEST, _HIGHEST = math.log(SMALLEST_FACTOR), math.log(LARGEST_FACTOR)


class DriftCorrection:
    """The factor that the bounds of one stream of requests are multiplied by; knows no clock, safe to share by threads."""

    __slots__ = ("_fall", "_lock", "_log_factor", "_rise", "factor")

    def __init__(self, alpha: float) -> None:
        require_alpha(alpha)
        self._rise = min(FALL * (1 - alpha) / alpha, LARGEST_RISE)
        self._fall = self._rise * alpha / (1 - alpha)
        self._lock = threading.Lock()
        self._log_factor = 0.0
        self.factor = 1.0

    def observe(self, *, exceeded: bool) -> None:
        """Take note of one latency: whether it was above the bound that it was promised."""
        with self._lock:
            self._move_to(self._log_factor + (self._rise if exceeded else -self._fall))

    def refuse(self) -> None:
        """Take note of a request that was refused only because the factor is above 1; lowers it, never below 1."""
        with self._lock:
            if self._log_factor > 0:
                self._move_to(max(self._log_factor - FALL, 0.0))

    def _move_to(self, log_factor: float) -> None:
        self._log_factor = min(max(log_factor, _LOWEST), _HIGHEST)
        self.factor = math.exp(self._log_factor)
