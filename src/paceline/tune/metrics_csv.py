"""One CSV file a metric of a run: columns `Request Id`, the metric, `cdf`; times are seconds, as SPEC fixes these files."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from paceline.errors import OutputPathError, RequestFileError
from paceline.profiles.atomic import make_directory, write_atomically

REQUEST_ID = "Request Id"
CDF = "cdf"
PLOTS = Path("replica_0") / "plots"
MENDING = "write the run again with `paceline tune replay`, or mend the line"


def write_metric(path: Path, metric: str, values: Mapping[str, float]) -> None:
    """Write one metric of every request, smallest first; `cdf` is the share of requests up to and with the row.

    Raises OutputPathError; the file is written whole or not at all.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow((REQUEST_ID, metric, CDF))
    ordered = sorted(values.items(), key=lambda pair: pair[1])
    for rank, (request_id, value) in enumerate(ordered, start=1):
        rows.writerow((request_id, repr(value), repr(rank / len(ordered))))
    try:
        make_directory(path.parent)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    write_atomically(path, text.getvalue().encode())


def read_metric(path: Path, metric: str) -> dict[str, float]:
    """Return one metric by request id; raises RequestFileError naming the line and column that cannot be trusted.

    The `cdf` column is not looked at: it follows from the others.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _fault(path, f"cannot be read ({error})", expected="a CSV file in UTF-8") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for column in (REQUEST_ID, metric):
        if column not in (rows.fieldnames or ()):
            raise _fault(path, "is missing", expected=f"{REQUEST_ID}, {metric}, {CDF}", line=1, column=column)
    values: dict[str, float] = {}
    try:
        for row in rows:
            _add(values, row, metric, path, rows.line_num)
    except csv.Error as error:
        raise _fault(path, f"is no CSV ({error})", expected="one request a line", line=rows.line_num) from error
    if not values:
        raise _fault(path, "holds no request", expected="at least one", column=metric)
    return values


def metric_path(run: Path, metric: str) -> Path | None:
    """Return where a run keeps a metric: in `replica_0/plots/` or in the run directory itself; None if in neither."""
    candidates = (run / PLOTS / f"{metric}.csv", run / f"{metric}.csv")
    return next((path for path in candidates if path.is_file()), None)


def run_metric(run: Path, metric: str) -> dict[str, float]:
    """Return one metric of a run by request id; raises RequestFileError when the run has no such file."""
    path = metric_path(run, metric)
    if path is None:
        places = f"{run / PLOTS / metric}.csv or {run / metric}.csv"
        raise RequestFileError(
            run, f"has no {metric}.csv", expected=places, mend="name a run directory, or run it again"
        )
    return read_metric(path, metric)


def _add(values: dict[str, float], row: Mapping[str, str | None], metric: str, path: Path, line: int) -> None:
    request_id, text = row[REQUEST_ID], row[metric]
    if not request_id:
        raise _fault(path, "is empty", expected="the request's id", line=line, column=REQUEST_ID)
    if request_id in values:
        raise _fault(path, f"{request_id!r} stands twice", expected="each request once", line=line, column=REQUEST_ID)
    value = _number(text)
    if value is None:
        raise _fault(path, f"is {text!r}", expected="a number of at least 0", line=line, column=metric)
    values[request_id] = value


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _fault(
    path: Path, problem: str, *, expected: str, line: int | None = None, column: str | None = None
) -> RequestFileError:
    return RequestFileError(path, problem, expected=expected, mend=MENDING, line=line, column=column)
