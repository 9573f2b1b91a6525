"""Latency of a request under every configuration, from an artifact: numpy alone, no torch.

Not here: training and calibration (`paceline.fit`), and which configuration to take (`paceline.control`).
"""

from paceline.estimate.description import EstimatorDescription
from paceline.estimate.latency_model import LatencyEstimates, LatencyModel
from paceline.estimate.network import NetworkEstimator

__all__ = ["EstimatorDescription", "LatencyEstimates", "LatencyModel", "NetworkEstimator"]
