"""The page of the trend: a table of all watched figures, and of each a chart and what was measured when."""

from collections.abc import Sequence
from html import escape

from trend import History

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 170, 56, 70, 16, 34
OURS, OTHER, LIMIT = "#0b6e4f", "#8a919c", "#d14a00"
MOST_NAMED = 8  # commits under a chart; of more the first and the last alone


def chart(history: History) -> str:
    """Return the figure over its versions as SVG.

    Dots that a line joins were measured as the newest; hollow ones in another way, or before a change was accepted. The
    dashed line is the worst that is let pass.
    """
    watched, versions, verdict = history.watched, history.versions, history.verdict
    limit = verdict.best.value * watched.worst_ratio if verdict.best is not None else None
    values = [each.value for each in versions] + ([limit] if limit is not None else [])
    low, high = min(values), max(values)
    room = (high - low) * 0.1 or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room
    across, depth = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(place: int) -> float:
        return LEFT + across * (place / (len(versions) - 1) if len(versions) > 1 else 0.5)

    def y(value: float) -> float:
        return TOP + depth * (high - value) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(watched.words)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for value in (low + room, high - room):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#dfe3e8"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#59616d">{value:.3g}</text>'
        )
    if limit is not None:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(limit):.1f}" y2="{y(limit):.1f}" stroke="{LIMIT}" '
            f'stroke-dasharray="5 4"/><text x="{WIDTH - RIGHT + 6}" y="{y(limit) + 4:.1f}" fill="{LIMIT}">let pass</text>'
        )
    mine = [place for place, each in enumerate(versions) if each in verdict.compared]
    line = " ".join(f"{x(place):.1f},{y(versions[place].value):.1f}" for place in mine)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{OURS}" stroke-width="2"/>')
    for place, each in enumerate(versions):
        fill, edge = (OURS, OURS) if place in mine else ("white", OTHER)
        parts.append(
            f'<circle cx="{x(place):.1f}" cy="{y(each.value):.1f}" r="4" fill="{fill}" stroke="{edge}">'
            f"<title>{escape(each.commit)}: {each.value:.4g}</title></circle>"
        )
        if len(versions) <= MOST_NAMED or place in (0, len(versions) - 1):
            parts.append(
                f'<text x="{x(place):.1f}" y="{HEIGHT - 12}" text-anchor="middle" fill="#59616d" font-size="11">'
                f"{escape(each.commit)}</text>"
            )
    now = versions[-1]
    parts.append(
        f'<text x="{x(len(versions) - 1) + 8:.1f}" y="{y(now.value) - 6:.1f}" fill="{OURS}">{now.value:.4g}</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def page(found: Sequence[History], short: str | None = None) -> str:
    """Return the page as Markdown; `short` says why the history here is not the whole one."""
    parts = [
        "# Trend",
        "How watched figures moved over the commits that changed them. The newest is compared with the best that was measured "
        "in the same way; `make trend-check` fails where it is worse than is let pass. What makes two measurements comparable "
        "stands with each figure in `website/watched.py`; figures are ratios and shares, never times of one machine.",
    ]
    if short is not None:
        parts.append(f"**Not all of it is here**: {short}.")
    rows = ["| figure | newest | best before | ratio | let pass | |", "|---|---|---|---|---|---|"]
    for each in found:
        watched, verdict = each.watched, each.verdict
        newest = f"{each.versions[-1].value:.4g}" if each.versions else "–"
        best = f"{verdict.best.value:.4g}" if verdict.best is not None else "–"
        ratio = f"{verdict.ratio:.3f}" if verdict.ratio is not None else "–"
        sign = "≥" if watched.better == "higher" else "≤"
        state = verdict.said if verdict.ratio is None else "" if verdict.passes else "**worse than is let pass**"
        rows.append(
            f"| {_begun(watched.words)} | {newest} | {best} | {ratio} | {sign} {watched.worst_ratio:g} | {state} |"
        )
    parts.append("\n".join(rows))
    for each in found:
        parts += _section(each)
    return "\n\n".join(parts) + "\n"


def _section(history: History) -> list[str]:
    watched, versions, verdict = history.watched, history.versions, history.verdict
    parts = [
        f"## {_begun(watched.words)}",
        f"`benchmarks/results/{watched.results}.json`; {watched.better} is better.",
    ]
    if len(versions) > 1:
        parts.append(f"![{_begun(watched.words)}, over commits](trend/{watched.name}.svg)")
    rows = ["| commit | date | figure | |", "|---|---|---|---|"]
    for each in versions:
        told = (
            "the best before" if each == verdict.best else "" if each in verdict.compared else _apart(history, each.way)
        )
        rows.append(f"| `{each.commit}` | {each.date} | {each.value:.4g} | {told} |")
    parts.append("\n".join(rows) if versions else "Not measured yet.")
    parts += [
        f"Accepted: from {each.before:.4g} to {each.after:.4g} by `{each.commit}`. {each.reason}"
        for each in history.accepted
    ]
    return parts


def _apart(history: History, way: Sequence[str]) -> str:
    """Return what was measured otherwise than in the newest version."""
    other = [mine for mine, now in zip(way, history.versions[-1].way, strict=True) if mine != now]
    if not other:
        return "before a change that is accepted"
    return "measured in another way: " + ", ".join(f"`{each}`" if len(each) < 50 else each.split()[0] for each in other)


def _begun(words: str) -> str:
    return words[0].upper() + words[1:]


def pages(found: Sequence[History], short: str | None = None) -> dict[str, str]:
    """Return the page and its charts by path."""
    drawn = {f"trend/{each.watched.name}.svg": chart(each) for each in found if len(each.versions) > 1}
    return {"trend.md": page(found, short), **drawn}
