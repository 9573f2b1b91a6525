"""The fast engine: the reference's rules over arrays, compiled, with runs of decodes taken in one go; needs numba.

Not here: a rule that the reference engine does not have.
"""
