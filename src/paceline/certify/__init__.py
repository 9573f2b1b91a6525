"""Choosing on few questions and certifying on others: the statistics alone, over numpy and scipy.

Answers come in, verdicts go out; which model gave them, and where they are kept, is known elsewhere (`paceline.fit.certified`).
"""
