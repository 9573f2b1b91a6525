"""Controllers judged on held-out profile samples; no model runs."""

from paceline.evaluate.document import evaluation_document
from paceline.evaluate.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate", "evaluation_document"]
