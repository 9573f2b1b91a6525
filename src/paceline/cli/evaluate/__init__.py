"""`paceline evaluate`, and what the commands that judge controllers share.

Not here: what is judged and how; that is in `paceline.evaluate`.
"""
