"""What pages show of recorded results: the first screen's chart, words, terminal, tables of a few.

    python website/recorded.py

Writes docs/first_screen.svg, and in pages what stands between two marks, such as `<!-- terminal -->` and `<!-- end of
terminal -->`.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from paceline.slo import Proportion

ROOT = Path(__file__).parents[1]
FOLD = "\\\n"  # a command goes on in the next line
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "first_screen.svg"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 330, 44, 70, 16, 56
LETTER = 7.2  # pixels of width, about, that a letter takes
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
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="14">',
        "<title>Accuracy of answers in time against the budget</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="16">Answers right and in time, of {found["requests"]:,} questions held out</text>',
        f'<text x="{LEFT}" y="37" fill="#59616d">embedded model, {escape(device)}; bands are 95 % intervals</text>',
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
    across_words = float(LEFT)
    for name, (colour, width, words) in LINES.items():
        rows = found["rows"][name]
        line = [(x(b), y(row["mean"])) for b, row in zip(budgets, rows, strict=True)]
        parts.append(f'<polyline points="{_points(line)}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        parts.append(f'<text x="{across_words:.0f}" y="58" fill="{colour}">{escape(words)}</text>')
        across_words += LETTER * len(words) + 20
    return "\n".join([*parts, "</svg>"]) + "\n"


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in places)


def first_screen(found: Mapping[str, Any]) -> str:
    """Return in words what the chart shows: means over the budgets, who is ahead where, and promises kept."""
    rows, budgets = found["rows"], found["budgets_ms"]
    means = {name: [row["mean"] for row in rows[name]] for name in LINES}
    over_all = {name: sum(each) / len(each) for name, each in means.items()}
    promises = Proportion(successes=sum(found["promises_kept"]), count=sum(found["promised"]))
    table, best = (_ahead(means[name], means["paceline"], budgets) for name in ("table", "best fixed"))
    return (
        f"{found['requests']:,} questions under {found['configurations']} configurations, each question held out once. Over the "
        f"{len(budgets)} budgets {over_all['paceline']:.3f} of answers are right and in time with Paceline, "
        f"{over_all['table']:.3f} with a table of means, {over_all['best fixed']:.3f} with the best fixed setting. The table is "
        f"ahead of Paceline {table}. The best fixed setting is chosen in hindsight, on these very questions, anew for each "
        f"budget; it is ahead {best}, for Paceline has to promise before it knows. Of {promises.count:,} promises "
        f"{promises.share:.3f} were kept; 0.95 are asked."
    )


def _ahead(one: Sequence[float], other: Sequence[float], budgets_ms: Sequence[float]) -> str:
    by = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    places = [place for place, each in enumerate(by) if each > 0]
    if not places:
        return "at none of them"
    most = max(places, key=lambda place: by[place])
    return f"at {len(places)} of them, by {by[most]:.3f} at most ({budgets_ms[most]:g} ms)"


def terminal(found: Mapping[str, Any]) -> str:
    """Return the recorded command as a block, with what it printed and how long it took."""
    said = found["terminal"]
    lines = [
        "<!-- not run: recorded by benchmarks/first_screen.py -->",
        "```console",
        f"$ {said['command'].replace(' --image', f' {FOLD}    --image')}",
        said["output"],
    ]
    load = said.get("load_average")
    beside = "on a machine that others kept busy" if load is None else f"at a load average of {load:.1f} before"
    return "\n".join(
        [*lines, "```", "", f"That took {said['seconds']:.1f} s, libraries and model loaded anew, {beside}."]
    )


def routers(found: Mapping[str, Any]) -> str:
    """Return the table of routers: a row a load, a column a router."""
    names = list(dict.fromkeys(row["router"] for row in found["rows"]))
    lines = [f"| load | {' | '.join(f'`{name}`' for name in names)} |", "|---|" + "---|" * len(names)]
    for load in dict.fromkeys(row["load"] for row in found["rows"]):
        cells = [
            f"{row['kept']:.3f} ({row['low']:.3f}–{row['high']:.3f})"
            for name in names
            for row in found["rows"]
            if (row["load"], row["router"]) == (load, name)
        ]
        lines.append(f"| {load:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def planted_faults(found: Mapping[str, Any]) -> str:
    """Return in words how many planted faults simulated worlds find, and why they miss the others."""
    missed = "; ".join(f"{row['name']} ({row['reason']})" for row in found["rows"] if row["by"] is None)
    return (
        f"Of {found['mutants']} the first {found['seeds']} worlds find {found['found']} "
        f"(`benchmarks/results/simtest_mutants.json`). Not found: {missed}."
    )


def estimator(found: Mapping[str, Any]) -> str:
    """Return the table of estimator and baselines: mean errors over splits, and how much more each of the baselines errs."""
    runs = found["settings"]["fast"]
    rows = {"estimator": runs, **{name: [run["baselines"][name] for run in runs] for name in runs[0]["baselines"]}}
    lines = [
        "| | prefill MAE ms | relative | above the estimator's | decode MAE ms a token | relative | above the estimator's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in rows.items():
        cells: list[str] = []
        for head in ("prefill", "decode"):
            mae, relative = (sum(run[head][what] for run in each) / len(each) for what in ("mae_ms", "relative_error"))
            cells += [f"{mae:.2f}", f"{relative:.1%}"]
            by = [-run["estimator_minus_baseline"][head]["mae_ms"] for run in each if "estimator_minus_baseline" in run]
            cells.append(f"{sum(by) / len(by):.3f} ({min(by):.3f} to {max(by):.3f})" if by else "")
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def demo(found: Mapping[str, Any]) -> str:
    """Return the table of the demonstration: a row a budget, accuracy and budgets kept by the bound and by the table."""
    lines = ["| budget | accuracy: bound | table | kept: bound | table | nothing fits |", "|---|---|---|---|---|---|"]
    for bound, table in zip(found["bound"], found["table"], strict=True):
        cells = [
            f"{row[what]:.2f} ({row[f'{what}_ci'][0]:.2f}–{row[f'{what}_ci'][1]:.2f})"
            for what in ("accuracy", "adherence")
            for row in (bound, table)
        ]
        lines.append(f"| {bound['budget_ms']:g} | {' | '.join(cells)} | {bound['none_fits']} of {bound['n']} |")
    return "\n".join(lines)


def recorded(name: str) -> dict[str, Any]:
    """Return the results of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def parts() -> list[tuple[Path, str, str]]:
    """Return page, mark and part of everything that stands in a page between marks."""
    shown = recorded("first_screen")
    return [
        (ROOT / "docs" / "index.md", "first screen", first_screen(shown)),
        (ROOT / "docs" / "index.md", "terminal", terminal(shown)),
        (ROOT / "benchmarks" / "README.md", "first screen", first_screen(shown)),
        (ROOT / "benchmarks" / "README.md", "estimator", estimator(recorded("estimator_accuracy"))),
        (ROOT / "docs" / "guide.md", "demo", demo(recorded("demo"))),
        (ROOT / "docs" / "server.md", "planted faults", planted_faults(recorded("simtest_mutants"))),
        (ROOT / "docs" / "deployment" / "replicas.md", "routers", routers(recorded("routers"))),
    ]


def page(text: str, mark: str, part: str) -> str:
    """Return a page with a part between its marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = text.split(begin)
    return "\n".join([before + begin, "", part, "", end + rest.split(end)[1]])


def main() -> None:
    """Write picture and pages."""
    PICTURE.write_text(picture(recorded("first_screen")))
    for path, mark, part in parts():
        path.write_text(page(path.read_text(), mark, part))


if __name__ == "__main__":
    main()
