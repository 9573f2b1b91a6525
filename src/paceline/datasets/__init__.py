"""Questions with reference answers, and the scorers that judge a prediction against them.

Names load when they are first used: the scorers alone need neither pictures nor scikit-learn.

Not here: asking a model (`paceline.measure`), and accuracies over many answers (`paceline.accuracy`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paceline.datasets.digits import DIGIT_SETS, digit_questions
    from paceline.datasets.picture_source import DrawnPicture
    from paceline.datasets.question import VisualQuestion
    from paceline.datasets.scoring import SCORERS, score

_HOME = {
    "DIGIT_SETS": "digits",
    "DrawnPicture": "picture_source",
    "SCORERS": "scoring",
    "VisualQuestion": "question",
    "digit_questions": "digits",
    "score": "scoring",
}

__all__ = ["DIGIT_SETS", "SCORERS", "DrawnPicture", "VisualQuestion", "digit_questions", "score"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'paceline.datasets' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"paceline.datasets.{_HOME[name]}"), name)
