"""A budget's way through an HTTP server, whichever engine stands behind it: accepted, decided, rewritten, measured,
reported.

Not here: an HTTP framework, an engine, and what fields and headers are called (`paceline.wire`).
"""
