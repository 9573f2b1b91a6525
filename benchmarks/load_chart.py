"""One chart of `under_load.py`: value over load, ours beside the best fixed configuration and the rest, as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 60, 40, 190, 50
COLOURS = ("#0b6e4f", "#333333", "#b5651d", "#2a6fbb", "#8a4fbf", "#c2364b")


def lines(loads: Sequence[Mapping[str, Any]], ours: str) -> dict[str, list[float]]:
    """Return what is drawn, by name: values at each load."""
    largest = "edf high_8_16"

    def values(name: str) -> list[float]:
        return [each["figures"][name]["value"]["mean"] for each in loads]

    return {
        "at arrival, with a price": values(ours),
        "best fixed in hindsight, edf": [each["figures"][each["best_fixed"]]["value"]["mean"] for each in loads],
        "at arrival, price 0, fcfs": values("fcfs, price 0"),
        "estimate, blind to load, edf": values("edf, estimate, blind to load"),
        "whole model, edf": values(largest),
    }


def write_chart(loads: Sequence[Mapping[str, Any]], ours: str, path: Path) -> None:
    """Write the chart."""
    shares = [each["share"] for each in loads]
    x_of = {share: LEFT + (WIDTH - LEFT - RIGHT) * place / (len(shares) - 1) for place, share in enumerate(shares)}
    depth = HEIGHT - TOP - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">Accuracy of answers in time, per request with a budget (simulated)</text>',
    ]
    for tick in range(0, 11, 2):
        y = TOP + depth * (1 - tick / 10)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick / 10:.1f}</text>')
    for share, x in x_of.items():
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{share:.0%}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 10}">load, of the rate at which the whole model keeps its P95</text>')
    ends: list[float] = []
    for (name, values), colour in zip(lines(loads, ours).items(), COLOURS, strict=False):
        points = " ".join(
            f"{x:.1f},{TOP + depth * (1 - value):.1f}" for x, value in zip(x_of.values(), values, strict=True)
        )
        width = 3 if not ends else 1.5
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        y = TOP + depth * (1 - values[-1])
        while any(abs(y - other) < 14 for other in ends):
            y -= 14
        ends.append(y)
        parts.append(f'<text x="{WIDTH - RIGHT + 6}" y="{y + 4:.1f}" fill="{colour}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")
