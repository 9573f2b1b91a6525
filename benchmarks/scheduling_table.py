"""Print what each scheduling setting pays and costs, one line a setting, from results/simulated_scheduling.json.

    python benchmarks/scheduling_table.py [--blocks 30209]

A cell is the change against stock vLLM in percent, of the median and the P99 of the time to first token, of the P99 of the
time a token, and of goodput; · where the 95 % interval includes no change, or the change is below half a percent.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "simulated_scheduling.json"
FIGURES = ("TTFT P50", "TTFT P99", "TPOT P99", "goodput")
LEAST_CHANGE = 0.005


def change(ratio: dict[str, float]) -> str:
    """Return a ratio as a change in percent, a dot where it is none."""
    if ratio["low"] <= 1 <= ratio["high"] or abs(ratio["ratio"] - 1) < LEAST_CHANGE:
        return "·"
    return f"{100 * (ratio['ratio'] - 1):+.0f}".replace("-", "−")


def table(document: dict[str, Any], blocks: int) -> list[str]:
    """Return the lines of a Markdown table: settings by loads."""
    loads = [load for load in document["loads"] if load["blocks"] == blocks]
    lines = [
        "| setting | " + " | ".join(f"{load['share']:.0%} of capacity" for load in loads) + " |",
        "|---" * (1 + len(loads)) + "|",
    ]
    for place, row in enumerate(loads[0]["rows"]):
        if "ratios" in row:
            cells = [" ".join(change(load["rows"][place]["ratios"][figure]) for figure in FIGURES) for load in loads]
            lines.append(f"| {row['setting']} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=30_209)
    arguments = parser.parse_args()
    lines = table(json.loads(RESULTS.read_text()), arguments.blocks)
    sys.stdout.write("\n".join([f"Changes in percent: {', '.join(FIGURES)}.", "", *lines]) + "\n")


if __name__ == "__main__":
    main()
