"""Questions with reference answers, and the scorers that judge a prediction against them."""

from paceline.datasets.digits import DIGIT_SETS, digit_questions
from paceline.datasets.question import VisualQuestion
from paceline.datasets.scoring import SCORER_OF, score

__all__ = ["DIGIT_SETS", "SCORER_OF", "VisualQuestion", "digit_questions", "score"]
