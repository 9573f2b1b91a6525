"""Scorers: a prediction and its question become an accuracy. Each has an id with a version, which stays with every figure."""

from collections.abc import Callable

from paceline.datasets.question import VisualQuestion
from paceline.datasets.scorers.anls import anls
from paceline.datasets.scorers.mmmu import mmmu_choice, mmmu_open, option_letters
from paceline.datasets.scorers.multiple_choice import multiple_choice
from paceline.datasets.scorers.tally import exact_count, exact_count_normalised
from paceline.datasets.scorers.vqa import text_vqa_accuracy, vqa_accuracy, vqa_accuracy_normalised
from paceline.datasets.scorers.whole_set import WHOLE_SET_SCORERS
from paceline.errors import UnknownChoiceError

Rule = Callable[[VisualQuestion, str], float]


def exact_match(prediction: str, references: tuple[str, ...]) -> float:
    """Return 1 when the prediction is one of the references, case and runs of blanks aside."""
    said = " ".join(prediction.lower().split())
    return float(any(said == " ".join(reference.lower().split()) for reference in references))


def _option(question: VisualQuestion, prediction: str) -> float:
    letters = option_letters(len(question.choices))
    return multiple_choice(prediction, answer=letters.index(question.references[0]), num_choices=len(letters))


def _mmmu(question: VisualQuestion, prediction: str) -> float:
    if question.choices:
        return mmmu_choice(prediction, answers=question.references, options=question.choices)
    return mmmu_open(prediction, answers=question.references)


# what judges one answer by itself, in 0 to 1
RULES: dict[str, Rule] = {
    "exact_match/1": lambda question, prediction: exact_match(prediction, question.references),
    "vqa/1": lambda question, prediction: vqa_accuracy(prediction, question.references),
    "vqa_normalised/1": lambda question, prediction: vqa_accuracy_normalised(prediction, question.references),
    "text_vqa/1": lambda question, prediction: text_vqa_accuracy(prediction, question.references),
    "anls/1": lambda question, prediction: anls(prediction, question.references),
    "multiple_choice/1": _option,
    "mmmu/1": _mmmu,
    "tally/1": lambda question, prediction: exact_count(prediction, answer=int(question.references[0])),
    "tally_normalised/1": lambda question, prediction: exact_count_normalised(
        prediction, answer=int(question.references[0])
    ),
}
SCORERS = (*RULES, *WHOLE_SET_SCORERS)


def score(question: VisualQuestion, prediction: str) -> float | None:
    """Return the accuracy of a prediction by the question's scorer.

    None for a scorer that judges a whole set at once (`cider/1`): its figures exist when the set is complete.
    """
    if question.scorer in WHOLE_SET_SCORERS:
        return None
    if question.scorer not in RULES:
        raise UnknownChoiceError("scorer", question.scorer, SCORERS)
    return RULES[question.scorer](question, prediction)
