"""`paceline tune`: its commands, their flags and the runs they start. No logic: that is in `paceline.tune`."""
