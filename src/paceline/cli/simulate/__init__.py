"""`paceline simulate`: its flags, the memory they mean, and how its runs are printed.

Not here: the simulation itself; that is in `paceline.simulate`, and sweeps of it in `paceline.tune`.
"""
