"""TallyQA: exact counts, with the official reading of a text as a number (manoja328/tallyqacode at c266303b)."""

import math
from collections.abc import Sequence

from paceline.datasets.scorers.vqa import vqa_normalised


def official_count(text: str) -> int | None:
    """Return the number that the official script reads: digits alone are a number, any other text is 0.

    None for a text of digits that no number can be made of, such as a superscript two: there the script itself fails.
    """
    if not text.isdigit():
        return 0
    try:
        return int(text)
    except ValueError:
        return None


def exact_count(prediction: str, *, answer: int) -> float:
    """Return 1 where the count read from the text equals `answer`, else 0; any text without digits counts as 0."""
    return float(official_count(prediction) == answer)


def exact_count_normalised(prediction: str, *, answer: int) -> float:
    """Return 1 where the text, normalised as VQA answers are, is the number `answer`: `three` and `3.` count, as no other.

    Not the official rule, which was written for models that put out whole numbers.
    """
    return float(vqa_normalised(prediction) == str(answer))


def counting_split(*, data_source: str | None, is_simple: bool | None) -> str | None:
    """Return `complex` for questions written for it, `simple` for simple ones of other sources; some are in neither.

    Where the source of a question is not known, the split by `is_simple` alone is all that can be said.
    """
    if data_source == "amt":
        return "complex"
    if is_simple:
        return "simple"
    return "complex" if data_source is None and is_simple is False else None


def root_mean_square_error(counts: Sequence[int], answers: Sequence[int]) -> float:
    """Return the root of the mean squared difference between counts read and true ones; both of the same length, not 0."""
    return math.sqrt(math.fsum((said - true) ** 2 for said, true in zip(counts, answers, strict=True)) / len(answers))
