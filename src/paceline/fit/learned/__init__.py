"""Learned controllers trained on a profile: the data, two learners and the artifact.

Not here: running a model, and the choice at run time (`paceline.control.learned`).
"""
