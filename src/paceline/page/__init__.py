"""The page that a server shows: ask about a picture, drag the budget, see what was promised and kept. Plain files, no build.

Not here: a decision, an engine, figures of its own; what it shows is what servers say (`paceline.wire`).
"""
