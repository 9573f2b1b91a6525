"""Where a model's stages are, how a knob is applied to it, what a family does differently, and the embedded model.

Not here: clocks, budgets and choices; a model is steered from above.
"""
