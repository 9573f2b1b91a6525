"""What a model family does differently, a few declared lines each; everything else is found by structure.

Not here: code of one family that others could need, and families that cannot be steered otherwise than by a sentence
(`refused`).
"""
