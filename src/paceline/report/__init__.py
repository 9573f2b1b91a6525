"""One self-contained HTML page from a profile."""

from paceline.report.page import write_report

__all__ = ["write_report"]
