"""The chart and the terminal of the first screen, from benchmarks/results/first_screen.json.

    python website/first_screen.py

Writes docs/first_screen.svg, and what stands in docs/index.md between the marks `<!-- terminal -->` and `<!-- end of
terminal -->`.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "first_screen.json"
PICTURE, PAGE = ROOT / "docs" / "first_screen.svg", ROOT / "docs" / "index.md"
BEGIN, END = "<!-- terminal -->", "<!-- end of terminal -->"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 360, 60, 44, 190, 52
LINES = {  # colour, width, words
    "paceline": ("#0b6e4f", 3, "paceline"),
    "best fixed": ("#5b6472", 1.5, "best fixed setting, in hindsight"),
    "table": ("#d14a00", 1.5, "table of means"),
}


def picture(found: Mapping[str, Any]) -> str:
    """Return the chart as SVG: a line and its 95 % band a controller."""
    budgets: Sequence[float] = found["budgets_ms"]
    low, high = budgets[0], budgets[-1]
    depth, across = HEIGHT - TOP - BOTTOM, WIDTH - LEFT - RIGHT

    def x(budget_ms: float) -> float:
        return LEFT + across * (budget_ms - low) / (high - low)

    def y(share: float) -> float:
        return TOP + depth * (1 - share)

    device = ", ".join(dict.fromkeys(each["device"] for each in found["provenance"]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        "<title>Accuracy of answers in time against the budget</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">Answers right and in time, of {found["requests"]} held-out questions</text>',
        f'<text x="{LEFT}" y="34" fill="#59616d">embedded model, {escape(device)}; bands are 95 % intervals</text>',
    ]
    for tick in range(0, 11, 2):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick / 10):.1f}" y2="{y(tick / 10):.1f}" stroke="#dfe3e8"/>'
            f'<text x="{LEFT - 8}" y="{y(tick / 10) + 4:.1f}" text-anchor="end">{tick / 10:.1f}</text>'
        )
    for budget_ms in budgets[::3]:
        parts.append(
            f'<text x="{x(budget_ms):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{budget_ms:.0f}</text>'
        )
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 10}">budget of the time to first token, in milliseconds</text>')
    for name, (colour, _, _) in LINES.items():
        rows = found["rows"][name]
        edge = [(x(b), y(row["high"])) for b, row in zip(budgets, rows, strict=True)]
        edge += [(x(b), y(row["low"])) for b, row in zip(reversed(budgets), reversed(rows), strict=True)]
        parts.append(f'<polygon points="{_points(edge)}" fill="{colour}" fill-opacity="0.1"/>')
    ends: list[float] = []
    for name, (colour, width, words) in LINES.items():
        rows = found["rows"][name]
        line = [(x(b), y(row["mean"])) for b, row in zip(budgets, rows, strict=True)]
        parts.append(f'<polyline points="{_points(line)}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        place = line[-1][1] + 4
        while any(abs(place - other) < 15 for other in ends):
            place += 15
        ends.append(place)
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{place:.1f}" fill="{colour}">{escape(words)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in places)


def terminal(found: Mapping[str, Any]) -> str:
    """Return the recorded command as a block, with what it printed and how long it took."""
    said = found["terminal"]
    lines = [
        "<!-- not run: recorded by benchmarks/first_screen.py -->",
        "```console",
        f"$ {said['command']}",
        said["output"],
    ]
    return "\n".join([*lines, "```", "", f"That took {said['seconds']:.1f} s, loading the model included."])


def page(text: str, found: Mapping[str, Any]) -> str:
    """Return the page with the recorded command between its marks."""
    before, rest = text.split(BEGIN)
    return "\n".join([before + BEGIN, "", terminal(found), "", END + rest.split(END)[1]])


def main() -> None:
    """Write picture and page."""
    found = json.loads(RESULTS.read_text())
    PICTURE.write_text(picture(found))
    PAGE.write_text(page(PAGE.read_text(), found))


if __name__ == "__main__":
    main()
