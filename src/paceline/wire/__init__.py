"""Budgets over HTTP as data: read from bodies and headers, reported in answers, counted in metrics.

Not here: any host's name, a framework, a clock, a decision.
"""
