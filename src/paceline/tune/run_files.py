"""A run's directory: settings, every request's times, the step log and the metric files, all of it or nothing."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import msgspec

from paceline.errors import PacelineError, RequestFileError
from paceline.json_document import parsed_json
from paceline.profiles.atomic import new_directory
from paceline.schedule.json_lines import parsed_lines
from paceline.schedule.request_times import REQUEST_METRICS, RequestTimes
from paceline.tune.environment import machine
from paceline.tune.host import ReplayResult
from paceline.tune.metrics_csv import PLOTS, write_metric

RUN_SCHEMA_VERSION = 1
DOCUMENT, REQUESTS, STEPS = "run.json", "requests.jsonl", "steps.jsonl"
REQUEST_LINES = msgspec.json.Decoder(RequestTimes)


def write_run(
    path: Path,
    result: ReplayResult,
    document: Mapping[str, object],
    *,
    metric_folders: Sequence[Path] = (PLOTS,),
    more_of: Callable[[RequestTimes], Mapping[str, object]] = lambda _request: {},
) -> None:
    """Write a run into a new directory; raises OutputPathError, and leaves nothing behind, when that cannot be done.

    `metric_folders`, within the run, say where the metric files stand; `more_of` gives further fields of a request's line.
    """
    with new_directory(path) as folder:
        described = {"schema_version": RUN_SCHEMA_VERSION, **document, "machine": machine()}
        (folder / DOCUMENT).write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")
        lines = [msgspec.json.encode({**asdict(request), **more_of(request)}).decode() for request in result.requests]
        (folder / REQUESTS).write_text("".join(f"{line}\n" for line in lines))
        (folder / STEPS).write_text("".join(f"{step.line()}\n" for step in result.steps))
        for metric, values in request_metrics(result.requests).items():
            for inside in metric_folders:
                write_metric(folder / inside / f"{metric}.csv", metric, values)


def request_metrics(requests: Sequence[RequestTimes]) -> dict[str, dict[str, float]]:
    """Return each metric by request id; a request to which it does not apply (no decode token) is not in it."""
    metrics: dict[str, dict[str, float]] = {}
    for name, of in REQUEST_METRICS.items():
        values = {request.request_id: of(request) for request in requests}
        metrics[name] = {request_id: value for request_id, value in values.items() if value is not None}
    return metrics


def read_requests(run: Path) -> tuple[RequestTimes, ...]:
    """Return the times of a run's requests; torn lines are left out and counted in a PacelineWarning.

    Raises RequestFileError with the line that cannot be trusted, a request that stands twice among them.
    """
    path = run / REQUESTS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({error})"
        raise RequestFileError(path, reason, expected="a run's requests", mend="name a run directory") from error
    seen: set[str] = set()

    def parsed(line: str, number: int) -> RequestTimes:
        try:
            times = REQUEST_LINES.decode(line)
        except (msgspec.MsgspecError, RecursionError, PacelineError) as error:
            raise RequestFileError(
                path, str(error), expected="one request's times a line", mend="run it again", line=number
            ) from error
        if times.request_id in seen:
            reason = f"{times.request_id!r} stands twice"
            raise RequestFileError(
                path, reason, expected="each request once", mend="give each run a log of its own", line=number
            )
        seen.add(times.request_id)
        return times

    return tuple(parsed_lines(text, path, parsed))


def is_run(path: Path) -> bool:
    """Whether a directory holds a run: its document and its requests."""
    return (path / DOCUMENT).is_file() and (path / REQUESTS).is_file()


def read_document(run: Path) -> dict[str, object]:
    """Return a run's description of itself; raises RequestFileError where it cannot be read as an object."""
    path = run / DOCUMENT
    try:
        document = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({error})"
        raise RequestFileError(path, reason, expected="a run's description", mend="name a run directory") from error
    if not isinstance(document, dict):
        reason = f"holds {document!r:.60}"
        raise RequestFileError(path, reason, expected="an object", mend="name a run directory")
    return cast("dict[str, object]", document)
