"""The chart of `soak.py`: small charts over one time axis, one below the other, as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP = 760, 110, 70, 150, 40, 34
COLOURS = ("#0b6e4f", "#2a6fbb", "#c2364b")
PERCENTILES = {"median": "p50", "95th percentile": "p95"}
Lines = dict[str, list[float | None]]


def served_panels(windows: Sequence[Mapping[str, Any]]) -> dict[str, Lines]:
    """Return the small charts of a served run, by title: values at each window, by name."""

    def of(name: str, part: str) -> list[float | None]:
        return [None if each[name] is None else each[name][part] for each in windows]

    def answers(status: str) -> list[float | None]:
        return [each["answers"].get(status, 0) / max(1, sum(each["answers"].values())) for each in windows]

    return {
        "resident memory, MiB": {"server": [each["memory_mib"] for each in windows]},
        "open descriptors, threads": {
            "descriptors": [each["descriptors"] for each in windows],
            "threads": [each["threads"] for each in windows],
        },
        "time to first token, ms": {name: of("first_ms", part) for name, part in PERCENTILES.items()},
        "share of answers": {
            "answered": answers("200"),
            "refused, 429": answers("429"),
            "refused, 503": answers("503"),
        },
        "promises kept": {
            "share": [each["kept"] / each["promised"] if each["promised"] else None for each in windows],
        },
    }


def write_chart(document: Mapping[str, Any], path: Path) -> None:
    """Write what there is of a run."""
    parts: list[str] = []
    y = TOP
    if "served" in document and document["served"]["windows"]:
        windows = document["served"]["windows"]
        minutes = [each["from_seconds"] / 60 for each in windows]
        change = next((each["from_seconds"] / 60 for each in windows if each["load"] != windows[0]["load"]), None)
        for title, lines in served_panels(windows).items():
            parts += _panel(title, lines, minutes, y, unit="min", change=change)
            y += HEIGHT + GAP
    if "simulated" in document:
        rows = document["simulated"]["by_hour"]
        shares = [each["kept"] / each["promised"] if each["promised"] else None for each in rows]
        for title, lines in (
            (
                "a day in virtual time: time to first token, ms (synthetic)",
                {name: [each["first_ms"][part] for each in rows] for name, part in PERCENTILES.items()},
            ),
            ("a day in virtual time: promises kept (synthetic)", {"share": shares}),
        ):
            parts += _panel(title, lines, [float(hour) for hour in range(len(rows))], y, unit="h", change=None)
            y += HEIGHT + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11">'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>'
        f'<text x="{LEFT}" y="18" font-size="14">A server for long: 80 % of its capacity, then 130 %</text>'
    )
    path.write_text("\n".join([head, *parts, "</svg>"]) + "\n", encoding="utf-8")


def _panel(
    title: str, lines: Lines, times: Sequence[float], top: float, *, unit: str, change: float | None
) -> list[str]:
    values = [value for line in lines.values() for value in line if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = 0.0 if low > 0 and low < 0.7 * high else low - 0.05 * (high - low or 1.0)
    high += 0.05 * (high - low or 1.0)
    span = (times[-1] - times[0]) or 1.0
    right = WIDTH - RIGHT

    def x_of(at: float) -> float:
        return LEFT + (right - LEFT) * (at - times[0]) / span

    def y_of(value: float) -> float:
        return top + HEIGHT * (1 - (value - low) / (high - low))

    found = [f'<text x="{LEFT}" y="{top - 5:.0f}" font-weight="bold">{title}</text>']
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        found.append(f'<line x1="{LEFT}" x2="{right}" y1="{y_of(value):.1f}" y2="{y_of(value):.1f}" stroke="#ddd"/>')
        found.append(f'<text x="{LEFT - 6}" y="{y_of(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for place in (0, len(times) // 2, len(times) - 1):
        label = f"{times[place]:.0f} {unit}"
        found.append(f'<text x="{x_of(times[place]):.1f}" y="{top + HEIGHT + 13}" text-anchor="middle">{label}</text>')
    if change is not None:
        found.append(
            f'<line x1="{x_of(change):.1f}" x2="{x_of(change):.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="#999" '
            'stroke-dasharray="4 3"/>'
        )
    for place, ((name, line), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        points = " ".join(
            f"{x_of(at):.1f},{y_of(value):.1f}" for at, value in zip(times, line, strict=True) if value is not None
        )
        found.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        found.append(f'<text x="{right + 8}" y="{top + 12 + 15 * place}" fill="{colour}">{name}</text>')
    return found
