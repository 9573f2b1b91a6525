"""`paceline controller`: its commands, and how they print. No logic: that is in `paceline.fit.learned`."""
