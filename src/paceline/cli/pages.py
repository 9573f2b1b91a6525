"""The page that there is of a path: a controller's, a run's timeline, or a profile's report."""

from pathlib import Path

from paceline.report.controller import controller_page, is_controller
from paceline.report.page import read_for_report, report_page
from paceline.report.timeline import timeline_page
from paceline.schedule.step_log import read_step_log
from paceline.tune.run_files import STEPS, is_run, read_document, read_requests


def page_of(path: Path) -> str:
    """Return the page's HTML; raises what reading the path raises where it cannot be trusted."""
    if is_controller(path):
        return controller_page(path)
    if is_run(path):
        requests, steps = read_requests(path), read_step_log(path / STEPS)
        return timeline_page(requests, steps, title=path.resolve().name, document=read_document(path))
    return report_page(read_for_report(path))
