"""Choosing on few questions and certifying on others: the statistics alone, over numpy and scipy.

Not here: models, files and profiles. Answers come in, verdicts go out (`paceline.fit.certified` asks and keeps them).
"""
