"""The tables of benchmarks/README.md about choices under load, and docs/under_load.svg, from what `under_load.py` wrote.

    python benchmarks/load_table.py [--write]

`--write` puts them between the marks in benchmarks/README.md, in place of what stands there.
"""

import argparse
import io
import json
import math
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from load_chart import write_chart

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- load_table.py: begin -->\n", "<!-- load_table.py: end -->\n"
RESULTS = Path(__file__).parent / "results" / "under_load.json"
CHART = Path(__file__).parents[1] / "docs" / "under_load.svg"
OURS = "recommended"
LOADS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0)
BETWEEN = (0.8, 1.0, 1.2, 1.5, 2.0)
OTHERS = {
    "edf, constant price": "`edf`, constant price",
    "edf, price 0": "`edf`, price 0",
    "fcfs, price 0": "`fcfs`, price 0",
    "edf high_8_16": "whole model, `edf`",
    "edf low_1_8": "fastest configuration, `edf`",
    "edf, table, blind to load": "table, blind to load, `edf`",
    "edf, estimate, blind to load": "estimate of each request, blind to load, `edf`",
    "fcfs, table, blind to load": "table, blind to load, `fcfs`",
}
Row = Mapping[str, Any]


def triple(figures: Row) -> str:
    """Return attainment, accuracy in budget, and value."""
    accuracy = f"{figures['accuracy']['mean']:.2f}" if "accuracy" in figures else "–"
    return f"{figures['attainment']['mean']:.3f} / {accuracy} / {figures['value']['mean']:.3f}"


def ranged(share: Row | None, digits: int = 3) -> str:
    """Return a share with its interval."""
    if share is None:
        return "–"
    return f"{share['share']:.{digits}f} ({share['low']:.{digits}f} to {share['high']:.{digits}f})"


def with_half(cell: Row | None, sign: str = "") -> str:
    """Return a mean with its half width."""
    return "–" if cell is None else f"{cell['mean']:{sign}.3f} ± {cell['half']:.3f}"


def pair(row: Row, name: str) -> str:
    """Return a ratio at equal something, with the fixed configuration compared."""
    if name not in row["pairs"]:
        return "–"
    each = row["pairs"][name]
    theirs = each["theirs"]
    return f"× {each['ratio']:.2f} ({each['against']}: {theirs['attainment']:.2f} / {theirs['accuracy']:.2f})"


def lines(document: Row) -> dict[str, Callable[[Row], str]]:
    """Return the rows of the table, by what stands before them."""

    def kept(row: Row, kind: str = "all", what: str = "kept") -> Row | None:
        return row["promises"][OURS].get(kind, {}).get(what)

    classes = [name for name in document["loads"][0]["promises"][OURS] if name not in ("all", "relegated")]
    found: dict[str, Callable[[Row], str]] = {
        "busy; of it prefilling": lambda row: f"{row['busy']['mean']:.0%}; {row['prefilling']['mean']:.0%}",
        "**at arrival, with a price**": lambda row: (
            f"**{triple(row['figures'][OURS])}** ± {row['figures'][OURS]['value']['half']:.3f}"
        ),
    }
    for name, label in OTHERS.items():
        found[label] = lambda row, name=name: triple(row["figures"][name])
    found |= {
        "best of 27 fixed, `edf`": lambda row: f"{row['best_fixed'][4:]}: {triple(row['figures'][row['best_fixed']])}",
        "ours less the best fixed, value": lambda row: with_half(row["gain_over_best_fixed"], "+"),
        "value ÷ relaxation's": lambda row: with_half(row["of_relaxation"]),
        "value ÷ that of one that knows the answers": lambda row: with_half(row["of_clairvoyant"]),
        "value ÷ search in hindsight": lambda row: with_half(row.get("of_hindsight")),
        "attainment at equal accuracy": lambda row: pair(row, "attainment_at_equal_accuracy"),
        "accuracy at equal attainment": lambda row: pair(row, "accuracy_at_equal_attainment"),
        "TTFT P50 / P95 / P99, × T0": lambda row: " / ".join(
            f"{each / document['t0_seconds']:.1f}" for each in row["figures"][OURS]["ttft_seconds"]
        ),
        "accuracy given up": lambda row: f"{row['figures'][OURS]['accuracy_given_up']['mean']:.3f}",
        "accuracy without a budget; whole model": lambda row: (
            f"{row['figures'][OURS]['accuracy_without_budget']['mean']:.3f}; "
            f"{row['figures']['edf high_8_16']['accuracy_without_budget']['mean']:.3f}"
        ),
        "mean price, a second": lambda row: f"{row['price']['mean']:.2f}",
        "promises kept": lambda row: ranged(kept(row), 4),
        "coverage of bounds (0.90)": lambda row: ranged(kept(row, what="coverage")),
    }
    for name in classes:
        found[f"… budgets {name}: kept; coverage"] = lambda row, name=name: (
            f"{ranged(kept(row, name), 4)}; {ranged(kept(row, name, 'coverage'))}"
        )
    return found


def lowest_coverage(row: Row) -> float:
    """Return the upper end of the interval of coverage, of the class where that is least."""
    classes = [one for name, one in row["promises"][OURS].items() if name not in ("all", "relegated")]
    return min(one["coverage"]["high"] for one in classes if one["coverage"])


def at_equal_accuracy(row: Row) -> float:
    """Return SuperServe's ratio of attainment; without end where nothing fixed is as accurate."""
    return row["pairs"].get("attainment_at_equal_accuracy", {"ratio": math.inf})["ratio"]


GAIN = "value above the best fixed, same order"
ASKED: list[tuple[str, Callable[[Row], float], dict[float, float]]] = [
    ("attainment", lambda row: row["figures"][OURS]["attainment"]["mean"], {1.0: 0.97, 2.0: 0.94}),
    (
        GAIN,
        lambda row: row["gain_over_best_fixed"]["mean"],
        {0.5: 0.0, **dict.fromkeys(BETWEEN, 0.07), 3.0: 0.0, 4.0: 0.0},
    ),
    ("value ÷ relaxation's", lambda row: row["of_relaxation"]["mean"], {0.5: 0.93, 0.8: 0.93, 1.0: 0.93, 2.0: 0.88}),
    ("value ÷ search in hindsight", lambda row: row["of_hindsight"]["mean"], {1.0: 0.98, 2.0: 0.98}),
    ("promises kept", lambda row: row["promises"][OURS]["all"]["kept"]["share"], dict.fromkeys(LOADS, 0.98)),
    ("× attainment at equal accuracy", at_equal_accuracy, dict.fromkeys(LOADS, 1.15)),
    ("coverage of the lowest class, upper end of its interval", lowest_coverage, dict.fromkeys(LOADS, 0.9)),
]


def bars(document: Row) -> list[tuple[str, float, str, float | None]]:
    """Return what is asked: words, the bar, where, and what was measured there; None where that was not run."""
    rows = {row["share"]: row for row in document["loads"]}
    found = [
        (words, bar, f"at {share:.0%}", figure(rows[share]) if share in rows else None)
        for words, figure, by_load in ASKED
        for share, bar in by_load.items()
    ]
    return found + window_bars(document)


def window_bars(document: Row) -> list[tuple[str, float, str, float | None]]:
    """Return what is asked of each window of 1,000 requests through a change, beside the worst window of each change."""
    found: list[tuple[str, float, str, float | None]] = []
    for kind, windows in document.get("disturbances", {}).items():
        whole = [one["shares"]["all"]["kept"]["share"] for one in windows]
        classes = [
            each["kept"]["share"]
            for one in windows
            for name, each in one["shares"].items()
            if name not in ("all", "relegated") and each["kept"]
        ]
        found.append(("promises kept in the worst window", 0.97, f"({kind})", min(whole)))
        found.append(("promises kept by the worst class in its worst window", 0.97, f"({kind})", min(classes)))
    return found


def show_bars(document: Row) -> None:
    """Print what is asked beside what was measured, a line for each kind of bar."""
    print("\n| asked | bar | measured: met | measured: missed | not run |\n|---|---|---|---|---|")
    by_words: dict[tuple[str, float], list[tuple[str, float | None]]] = {}
    for words, bar, load, measured in bars(document):
        by_words.setdefault((words, bar), []).append((load, measured))
    for (words, bar), found in by_words.items():
        cells: dict[str, list[str]] = {"met": [], "missed": [], "not run": []}
        for load, measured in found:
            if measured is None:
                cells["not run"].append(load)
            else:
                cells["met" if measured >= bar else "missed"].append(f"{measured:.3f} {load}")
        print(f"| {words} | ≥ {bar:g} | " + " | ".join("; ".join(each) or "–" for each in cells.values()) + " |")


def others(document: Row) -> None:
    """Print ours and the best fixed configuration under other mixes of budgets and steps."""
    if "others" not in document:
        return
    print(
        "\n| other | load | ours | best fixed, `edf` | difference of value | promises kept |\n|---|---|---|---|---|---|"
    )
    for name, rows in document["others"].items():
        for row in rows:
            best, figures = row["best_fixed"], row["figures"]
            cells = [name, f"{row['share']:.0%}", triple(figures[OURS]), f"{best[4:]}: {triple(figures[best])}"]
            cells += [with_half(row["gain_over_best_fixed"], "+"), ranged(row["promises"][OURS]["all"]["kept"])]
            print("| " + " | ".join(cells) + " |")


def disturbed(document: Row) -> None:
    """Print promises kept and coverage, window by window."""
    if "disturbances_made_with" in document:
        print(f"\nMeasured with {document['disturbances_made_with']}:")
    for kind, windows in document.get("disturbances", {}).items():
        print(f"\nChange at request 2,000: {kind}\n")
        print("| requests | promises kept | coverage | lowest class: kept | coverage |\n|---|---|---|---|---|")
        for each in windows[::2]:
            shares = each["shares"]
            classes = [one for name, one in shares.items() if name not in ("all", "relegated")]
            least = [
                min((one[key] for one in classes if one[key]), key=lambda share: share["share"])
                for key in ("kept", "covered")
            ]
            cells = [ranged(one) for one in (shares["all"]["kept"], shares["all"]["covered"], *least)]
            print(f"| {each['first']:,} to {each['last']:,} | " + " | ".join(cells) + " |")


def tables(document: Row) -> str:
    """Return all tables."""
    loads = document["loads"]
    written = io.StringIO()
    with redirect_stdout(written):
        print(
            "| load | " + " | ".join(f"{row['share']:.0%}" for row in loads) + " |\n" + "|---" * (len(loads) + 1) + "|"
        )
        for name, cell in lines(document).items():
            print(f"| {name} | " + " | ".join(cell(row) for row in loads) + " |")
        show_bars(document)
        others(document)
        disturbed(document)
    return written.getvalue()


def main() -> None:
    """Print or write the tables, and draw the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    arguments = parser.parse_args()
    document = json.loads(RESULTS.read_text())
    document["loads"] = sorted(document["loads"], key=lambda row: row["share"])
    made = tables(document)
    print(made)
    if arguments.write:
        text = README.read_text()
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        README.write_text(text[:begin] + made + text[end:])
    write_chart(document["loads"], OURS, CHART)


if __name__ == "__main__":
    main()
