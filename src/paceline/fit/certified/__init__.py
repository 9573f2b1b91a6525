"""A profile of few answers: choose on some questions, certify on others, write a table with its certificate.

Not here: the statistics, which are pure and in `paceline.certify`.
"""

from paceline.fit.certified.plan import CertifyPlan
from paceline.fit.certified.run import CertifiedRun, run_certified

__all__ = ["CertifiedRun", "CertifyPlan", "run_certified"]
