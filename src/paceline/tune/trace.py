"""Request traces: one request a line or object, with its arrival, prompt tokens and output tokens (docs/traces.md).

CSV (header first) and JSONL are read alike; columns are known by several names, so that published traces need no
conversion. Arrivals count from the first request. Lines out of order are sorted: servers log when a request ends.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import cast

from paceline.errors import RequestFileError
from paceline.json_document import parsed_json
from paceline.schedule.trace_request import TraceRequest
from paceline.tune.workload import LARGEST_SECONDS, MOST_TOKENS, Workload

# field: names of its column, compared without case, blanks, dashes and underscores
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "arrival": ("arrival", "arrival_seconds", "arrival_time", "arrived_at", "timestamp", "time", "start_time"),
    "prompt_tokens": (
        "prompt_tokens",
        "context_tokens",
        "input_tokens",
        "num_prefill_tokens",
        "prefill_tokens",
        "request_tokens",
        "input_length",
        "prompt_len",
    ),
    "output_tokens": (
        "output_tokens",
        "generated_tokens",
        "completion_tokens",
        "num_decode_tokens",
        "decode_tokens",
        "response_tokens",
        "output_length",
        "output_len",
    ),
    "request_id": ("request_id", "id"),
    "ttft_budget_ms": ("ttft_budget_ms", "budget_ms"),
}
REQUIRED = ("arrival", "prompt_tokens", "output_tokens")
JSON_SUFFIXES = (".jsonl", ".ndjson")
DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?")
SMALLEST_SECONDS = 1e-12  # below it a float is exact enough
MENDING = "mend the line or leave it out of the trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One line of the file: the cells that are filled by field, and each field's own column name there."""

    path: Path
    number: int
    cells: Mapping[str, object]
    columns: Mapping[str, str]

    def fault(self, field: str, problem: str, *, expected: str) -> RequestFileError:
        return _fault(self.path, self.number, problem, expected=expected, column=self.columns.get(field, field))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One request as it stands in the file; arrivals are exact, for a float of 1.7e9 s holds no 0.1 µs."""

    row: _Row
    arrival: Fraction
    is_date: bool
    prompt_tokens: int
    output_tokens: int
    request_id: str | None
    ttft_budget_ms: float | None


def read_trace(path: Path | str) -> Workload:
    """Return the requests of a trace, by arrival; raises RequestFileError naming the line and column at fault."""
    path = Path(path)
    content = _content(path)
    rows = _json_rows if path.suffix.lower() in JSON_SUFFIXES else _csv_rows
    lines = [_line(row) for row in rows(path, content)]
    if not lines:
        raise RequestFileError(path, "holds no request", expected="at least one", mend="name another trace")
    _require_one_clock(lines)
    _require_distinct_ids(lines)
    return Workload(
        requests=_requests(lines),
        source=path.name,
        synthetic=False,
        settings={"sha256": hashlib.sha256(content.encode()).hexdigest()},
    )


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = f"cannot be read ({error})"
        expected, mend = "a CSV or JSONL file in UTF-8", "name a trace (docs/traces.md)"
        raise RequestFileError(path, reason, expected=expected, mend=mend) from error


def _csv_rows(path: Path, content: str) -> Iterator[_Row]:
    rows = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        columns = _columns(path, list(rows.fieldnames or ()), line=1)
        for row in rows:
            if None in row:
                raise _fault(path, rows.line_num, "has more cells than the header", expected="a cell a column")
            cells = {field: row[column] for field, column in columns.items() if row[column]}
            yield _Row(path=path, number=rows.line_num, cells=cells, columns=columns)
    except csv.Error as error:
        line = max(rows.line_num, 1)
        raise _fault(path, line, f"or the one after it is no CSV ({error})", expected="one request a line") from error


def _json_rows(path: Path, content: str) -> Iterator[_Row]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            parsed: object = parsed_json(line)
        except ValueError as error:
            raise _fault(path, number, f"is not JSON ({error})", expected="one JSON object a line") from error
        if not isinstance(parsed, dict):
            raise _fault(path, number, "is JSON, but no object", expected="one JSON object a line")
        record = cast("dict[str, object]", parsed)
        columns = _columns(path, list(record), line=number)
        cells = {field: record[column] for field, column in columns.items() if record[column] is not None}
        yield _Row(path=path, number=number, cells=cells, columns=columns)


def _columns(path: Path, names: list[str], *, line: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, synonyms in COLUMNS.items():
        known = {_plain(synonym) for synonym in synonyms}
        matching = [name for name in names if _plain(name) in known]
        if len(matching) > 1:
            problem = f"columns {' and '.join(map(repr, matching))} both say {field}"
            raise RequestFileError(path, problem, expected="one of them", mend="rename or drop the other", line=line)
        if not matching and field in REQUIRED:
            raise RequestFileError(
                path,
                "is missing",
                expected=f"one of {', '.join(synonyms)}",
                mend="rename the trace's own column (docs/traces.md)",
                line=line,
                column=field,
            )
        found.update(dict.fromkeys([field], matching[0]) if matching else {})
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _line(row: _Row) -> _Line:
    for field in REQUIRED:
        if field not in row.cells:
            raise row.fault(field, "is empty", expected="a value")
    arrival, is_date = _arrival(row)
    request_id = row.cells.get("request_id")
    return _Line(
        row=row,
        arrival=arrival,
        is_date=is_date,
        prompt_tokens=_count(row, "prompt_tokens"),
        output_tokens=_count(row, "output_tokens"),
        request_id=None if request_id is None else str(request_id),
        ttft_budget_ms=_budget_ms(row),
    )


def _arrival(row: _Row) -> tuple[Fraction, bool]:
    """Return exact seconds, and whether they come from a date and time, with a fraction of any length."""
    value = row.cells["arrival"]
    text = str(value).strip()
    seconds = _finite(value)
    if seconds is not None and 0 <= seconds <= LARGEST_SECONDS:
        # of an exponent beyond all sense a fraction would have as many digits
        return Fraction(text if seconds >= SMALLEST_SECONDS else seconds), False
    matched = DATE_TIME.fullmatch(text)
    try:
        if matched is not None:
            whole = datetime.fromisoformat(matched[1] + (matched[3] or ""))
            zoned = whole if whole.tzinfo else whole.replace(tzinfo=UTC)
            return Fraction(int(zoned.timestamp())) + Fraction(matched[2] or 0), True
    except (ValueError, OverflowError):
        pass  # 2023-13-45 looks like a date and is none
    expected = "seconds of at least 0, or a date and time such as 2023-11-16 18:15:46.6805900"
    raise row.fault("arrival", f"is {value!r}", expected=expected)


def _count(row: _Row, field: str) -> int:
    value = row.cells[field]
    counted = _finite(value)
    if counted is None or not 1 <= counted <= MOST_TOKENS or counted != int(counted):
        raise row.fault(field, f"is {value!r}", expected=f"a whole number from 1 to {MOST_TOKENS:,}")
    return int(counted)


def _budget_ms(row: _Row) -> float | None:
    value = row.cells.get("ttft_budget_ms")
    if value is None:
        return None
    budget_ms = _finite(value)
    if budget_ms is None or budget_ms <= 0:
        raise row.fault("ttft_budget_ms", f"is {value!r}", expected="milliseconds above 0")
    return budget_ms


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _require_one_clock(lines: list[_Line]) -> None:
    first = lines[0]
    other = next((line for line in lines if line.is_date != first.is_date), None)
    if other is not None:
        expected = f"{'a date and time' if first.is_date else 'seconds'}, as on line {first.row.number}"
        raise other.row.fault("arrival", "is of another form", expected=expected)


def _require_distinct_ids(lines: list[_Line]) -> None:
    seen: dict[str, int] = {}
    if all(line.request_id is None for line in lines):
        return
    for line in lines:
        if line.request_id is None:
            raise line.row.fault("request_id", "is empty", expected="an id, as other lines have")
        if line.request_id in seen:
            problem = f"{line.request_id!r} stands on line {seen[line.request_id]} too"
            raise line.row.fault("request_id", problem, expected="each request once")
        seen[line.request_id] = line.row.number


def _requests(lines: list[_Line]) -> tuple[TraceRequest, ...]:
    ordered = sorted(lines, key=lambda line: line.arrival)  # stable: equal arrivals keep the file's order
    return tuple(
        TraceRequest(
            request_id=str(index) if line.request_id is None else line.request_id,
            arrival_seconds=float(line.arrival - ordered[0].arrival),
            prompt_tokens=line.prompt_tokens,
            output_tokens=line.output_tokens,
            ttft_budget_ms=line.ttft_budget_ms,
        )
        for index, line in enumerate(ordered)
    )


def _fault(path: Path, line: int, problem: str, *, expected: str, column: str | None = None) -> RequestFileError:
    return RequestFileError(path, problem, expected=expected, mend=MENDING, line=line, column=column)
