"""Engines over the accuracy floor, a line a controller and router, as SVG."""

from collections.abc import Sequence
from html import escape

from paceline.tune.capacity import Need

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 60, 40, 200, 50
COLOURS = ("#0b6e4f", "#b5651d", "#2a6fbb", "#8a4fbf", "#c2364b", "#333333")


def capacity_chart(needs: Sequence[Need]) -> str:
    """Return the chart; plans that nothing suffices for have no point."""
    floors = sorted({need.accuracy_floor for need in needs})
    planned = [need.planned for need in needs if need.planned is not None]
    top = max(planned, default=1)
    x_of = {
        floor: LEFT + (WIDTH - LEFT - RIGHT) * place / max(1, len(floors) - 1) for place, floor in enumerate(floors)
    }
    depth = HEIGHT - TOP - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">Engines that keep the promise (simulated)</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 10}">accuracy floor</text>',
    ]
    for tick in range(5):
        y = TOP + depth * (1 - tick / 4)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{top * tick / 4:g}</text>')
    for floor, x in x_of.items():
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{floor:g}</text>')
    names = dict.fromkeys((need.controller, need.router) for need in needs)
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        points = [
            f"{x_of[need.accuracy_floor]:.1f},{TOP + depth * (1 - need.planned / top):.1f}"
            for need in needs
            if (need.controller, need.router) == name and need.planned is not None
        ]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 16 * number
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{y}" fill="{colour}">{escape(name[0])}, {escape(name[1])}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
