"""The command line: parse, call one function, print. One file a command group.

Not here: anything that decides, measures or computes; a second caller would have to import it from below.
"""
