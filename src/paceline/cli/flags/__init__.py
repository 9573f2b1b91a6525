"""Flags and arguments that several commands share, and how lists of them are read.

Not here: flags of one command, which stand beside it.
"""
