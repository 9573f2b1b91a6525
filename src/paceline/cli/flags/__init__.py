"""Flags and arguments that several commands share, and how lists of them are read."""
