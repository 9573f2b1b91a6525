"""The latency estimator: its network, how it is trained, written and judged.

Not here: calibrated bounds (`paceline.fit.conformal`), and the network at run time (`paceline.estimate`).
"""
