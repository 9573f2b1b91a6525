"""The page of a run: who waits, what a step computes, who runs and what memory they hold, over time."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.report.charts import timeline_chart
from paceline.report.parts import (
    Head,
    chart_scripts,
    filled,
    framed,
    numbers_table,
    origin_list,
    plain_facts,
    write_page,
)
from paceline.schedule.request_times import RequestTimes
from paceline.schedule.step_log import StepRecord
from paceline.slo import percentile

SPANS = 400  # of the run's time, a column of the charts each: the page stays small, however many steps there are
NUMBERED_SPANS = 25

Floats = NDArray[np.float64]
Row = dict[str, float]
TIMELINE: Mapping[str, tuple[str, str]] = {
    "waiting": ("requests waiting", "var(--caution)"),
    "prefill_tokens": ("prompt tokens", "var(--prefill)"),
    "decode_tokens": ("decodes", "var(--decode)"),
    "running": ("requests running", "var(--high)"),
    "used_blocks": ("blocks held", "var(--medium)"),
}


def write_timeline(
    requests: Sequence[RequestTimes],
    steps: Sequence[StepRecord],
    out: Path | str,
    *,
    title: str,
    document: Mapping[str, Any],
) -> int:
    """Write the page of a run and return its size in bytes; raises OutputPathError.

    `document` is the run's own description, shown as it is; where it has `engine.num_blocks`, they are drawn across.
    """
    return write_page(Path(out), timeline_page(requests, steps, title=title, document=document))


def timeline_page(
    requests: Sequence[RequestTimes], steps: Sequence[StepRecord], *, title: str, document: Mapping[str, Any]
) -> str:
    """Return the page's HTML; nothing in it is loaded from elsewhere."""
    rows = timeline_rows(requests, steps)
    has_blocks = "used_blocks" in rows[0]
    cells = {
        "blocks": _BLOCKS if has_blocks else "<p>This log does not say how many blocks were held.</p>",
        "note": escape(_note(rows, len(steps))),
        "numbers": _numbers(rows),
        "provenance": origin_list(_flat(document)),
    }
    head = Head(
        kind=f"Paceline: {'Simulated run' if document.get('simulated') else 'Run'}",
        heading=title,
        about="timeline",
        summary=_summary(requests, steps, document),
    )
    charts = _charts(has_blocks=has_blocks, document=document)
    return framed(head, filled("timeline.html", cells), chart_scripts({"rows": rows, "charts": charts}))


def timeline_rows(requests: Sequence[RequestTimes], steps: Sequence[StepRecord], *, spans: int = SPANS) -> list[Row]:
    """Return means over equal spans of the run's time, from its first arrival to its last step's end.

    What a step holds counts as long as it executes, and as nothing while the engine is idle; steps of several engines
    add up. Tokens are those of a step: their mean over the time in which some step executes.
    """
    origin = min(request.arrival_seconds for request in requests)
    starts = np.array([step.started_seconds for step in steps]) - origin
    ends = starts + np.array([step.execute_ms for step in steps]) / 1e3
    edges = np.linspace(0.0, max(float(ends.max()), 1e-9), spans + 1)

    def mean(values: Sequence[float]) -> Floats:
        return _integral(starts, ends, np.array(values, dtype=np.float64), edges) / np.diff(edges)

    busy = mean([1.0] * len(steps))
    tokens_of = np.maximum(busy, 1e-300)
    columns = {
        "seconds": edges[:-1],
        "busy": busy,
        "waiting": mean([step.waiting for step in steps]),
        "prefill_tokens": mean([step.load.prefill_tokens for step in steps]) / tokens_of,
        "decode_tokens": mean([step.decode_tokens for step in steps]) / tokens_of,
        "running": mean([step.running for step in steps]),
    }
    if all(step.used_blocks is not None for step in steps):
        columns["used_blocks"] = mean([step.used_blocks or 0 for step in steps])
    names = list(columns)
    return [
        {name: round(value, 4) for name, value in zip(names, values, strict=True)}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]


def _integral(starts: Floats, ends: Floats, values: Floats, edges: Floats) -> Floats:
    """Return, for each span between edges, the integral of a sum of levels that each hold from start to end."""
    times = np.concatenate([starts, ends])
    changes = np.concatenate([values, -values])
    order = np.argsort(times, kind="stable")
    times, levels = times[order], np.cumsum(changes[order])
    areas = np.concatenate(([0.0], np.cumsum(levels[:-1] * np.diff(times))))
    return np.diff(np.interp(edges, times, areas))


_BLOCKS = '<div class="chart" data-chart="used_blocks"></div>'


def _charts(*, has_blocks: bool, document: Mapping[str, Any]) -> dict[str, Any]:
    def chart(title: str, *names: str, across: tuple[str, float] | None = None) -> dict[str, Any]:
        return timeline_chart({name: TIMELINE[name] for name in names}, title, across=across)

    charts = {
        "waiting": chart("requests", "waiting"),
        "tokens": chart("tokens a step", "prefill_tokens", "decode_tokens"),
        "running": chart("requests", "running"),
    }
    engine = document.get("engine")
    blocks = engine.get("num_blocks") if isinstance(engine, dict) else None
    if has_blocks:
        charts["used_blocks"] = chart("blocks", "used_blocks", across=("all blocks", blocks) if blocks else None)
    return charts


def _summary(requests: Sequence[RequestTimes], steps: Sequence[StepRecord], document: Mapping[str, Any]) -> str:
    ttfts = [request.ttft_ms for request in requests]
    tpots = [request.tpot_ms for request in requests if request.tpot_ms is not None]
    seconds = max(request.completion_seconds for request in requests) - min(
        request.arrival_seconds for request in requests
    )
    facts = {
        "requests": f"{len(requests):,}",
        "steps": f"{len(steps):,}",
        "duration": f"{seconds:,.1f} s",
        "TTFT P50, P95": f"{percentile(ttfts, 50):,.1f}, {percentile(ttfts, 95):,.1f} ms",
        "TPOT P50, P95": f"{percentile(tpots, 50):,.1f}, {percentile(tpots, 95):,.1f} ms" if tpots else "none",
        "preemptions": f"{sum(request.preemptions for request in requests):,}",
    }
    virtual = "Simulated: in virtual time, no model ran"
    return plain_facts(facts, mark=virtual if document.get("simulated") else None)


def _note(rows: Sequence[Row], steps: int) -> str:
    busy = sum(row["busy"] for row in rows) / len(rows)
    return (
        f"{steps:,} steps in {len(rows)} spans of {rows[1]['seconds'] - rows[0]['seconds']:.3g} s; each column is the mean "
        f"of its span. Steps executed in {busy:.0%} of the time (of several engines, added up)."
    )


def _numbers(rows: Sequence[Row]) -> str:
    names = [
        name for name in ("waiting", "prefill_tokens", "decode_tokens", "running", "used_blocks") if name in rows[0]
    ]
    shown = rows[:: max(1, len(rows) // NUMBERED_SPANS)]
    return numbers_table(
        ("seconds", "busy", *(TIMELINE[name][0] for name in names)),
        [(f"{row['seconds']:.2f}", f"{row['busy']:.0%}", *(f"{row[name]:,.1f}" for name in names)) for row in shown],
    )


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the leaves of a description by dotted name."""
    facts: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            facts |= _flat(value, f"{prefix}{name}.")
        else:
            facts[f"{prefix}{name}"] = str(value)
    return facts
