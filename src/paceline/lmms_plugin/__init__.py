"""Paceline as a chat model of lmms-eval: any of its tasks under a latency budget. Only `manifest` and `model` name
lmms-eval.

Not here: scoring, which is lmms-eval's, and choosing, which is `paceline.runtime`'s.
"""
