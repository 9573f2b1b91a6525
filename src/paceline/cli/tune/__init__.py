"""`paceline tune`: its commands, their flags and the runs they start.

Not here: what a run recommends; that is in `paceline.tune`.
"""
