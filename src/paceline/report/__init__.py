"""One self-contained HTML page from a profile, a comparison, an evaluation or a run.

Not here: figures that no page draws; they are computed in `paceline.analyze` and `paceline.evaluate` and told with
their intervals.
"""

from paceline.report.page import write_report

__all__ = ["write_report"]
