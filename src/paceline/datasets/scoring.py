"""Scorers: a prediction and its references become an accuracy between 0 and 1. Each has an id that is stored with it."""

from collections.abc import Callable

from paceline.datasets.question import VisualQuestion
from paceline.errors import UnknownChoiceError


def exact_match(prediction: str, references: tuple[str, ...]) -> float:
    """Return 1 when the prediction is one of the references, case and runs of blanks aside."""
    said = " ".join(prediction.lower().split())
    return float(any(said == " ".join(reference.lower().split()) for reference in references))


SCORERS: dict[str, Callable[[str, tuple[str, ...]], float]] = {"exact_match/1": exact_match}
SCORER_OF = {"digits_read": "exact_match/1", "digits_count": "exact_match/1", "digits_exist": "exact_match/1"}


def score(question: VisualQuestion, prediction: str) -> float:
    """Return the accuracy of a prediction by its dataset's own scorer."""
    if question.dataset not in SCORER_OF:
        raise UnknownChoiceError("dataset", question.dataset, tuple(SCORER_OF))
    return SCORERS[SCORER_OF[question.dataset]](prediction, question.references)
