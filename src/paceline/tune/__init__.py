"""Choosing scheduler parameters: benchmark runs over a host, and what they recommend.

Not here: the schedulers themselves, and reading vLLM's own objects.
"""

from paceline.tune.aging import AgingWeights, aging_weights
from paceline.tune.select import ScoreWeights, ThresholdChoice, select_threshold
from paceline.tune.trace import read_trace

__all__ = [
    "AgingWeights",
    "ScoreWeights",
    "ThresholdChoice",
    "aging_weights",
    "read_trace",
    "select_threshold",
]
