"""`paceline estimator`: its commands, and how they print.

Not here: training or judging; that is in `paceline.fit.estimator`.
"""
