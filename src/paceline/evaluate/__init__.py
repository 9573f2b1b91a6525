"""Controllers judged on held-out profile samples.

Not here: running a model, and fitting anything on the samples that judge.
"""

from paceline.evaluate.document import evaluation_document
from paceline.evaluate.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate", "evaluation_document"]
