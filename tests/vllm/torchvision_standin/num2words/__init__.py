"""A stand-in for num2words in tests: transformers' SmolVLM processor asks that it is there, and calls it for videos alone."""

__version__ = "0.0.0+standin"


def num2words(number):
    raise NotImplementedError(f"the tests' stand-in for num2words writes no number, {number} was asked")
