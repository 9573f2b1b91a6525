"""The learned controller at run time: its artifact, its network and its choice under the estimator's bounds. numpy only.

What it learned is a *chooser* here; *policy* means an order of scheduling everywhere in this package.

Not here: training (`paceline.fit.learned`).
"""
