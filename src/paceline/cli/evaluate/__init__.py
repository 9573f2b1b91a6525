"""`paceline evaluate`, and what the commands that judge controllers share. No logic: that is in `paceline.evaluate`."""
