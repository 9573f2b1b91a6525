"""Budgets over HTTP as data: read from bodies and headers, reported in answers, counted in metrics; names no host."""
