"""Calibrating a server with budgets before anybody else asks it: requests that are alone, and that no cache has answers to.

Not here: how bounds are calibrated (`paceline.serving`); a server is asked, and its page of metrics says how far it is.
"""
