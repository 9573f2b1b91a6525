"""The latency estimator: its network, how it is trained, written and judged.

Bounds are calibrated one room further down, in `paceline.fit.conformal`.
"""
