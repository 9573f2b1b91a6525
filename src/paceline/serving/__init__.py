"""A budget's way through an HTTP server, whichever engine stands behind it: accepted, decided, rewritten, measured, reported."""
