"""Molmo and MolmoE, whose code is not part of transformers: crops made here, and what that code lacks put around it.

Not here: anything another family uses.
"""
