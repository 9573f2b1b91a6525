"""The table of docs/security.md: what became of the damaged inputs, from what `make damaged` wrote.

python tests/faults/damaged_table.py --write
"""

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "damaged.json", ROOT / "docs" / "security.md"
BEGIN, END = "<!-- damaged: written by tests/faults/damaged_table.py -->", "<!-- damaged: end -->"


def table() -> str:
    found = json.loads(RESULTS.read_text())
    assert not found["complaints"], "a table is made of a run without complaints"
    lines = ["format | inputs | a sentence | the value that it says", "---|---|---|---"]
    for name, counts in found["counts"].items():
        sentences, values = counts.get("a sentence", 0), counts.get("a value", 0)
        lines.append(f"{name} | {sentences + values:,} | {sentences:,} | {values:,}")
    total = sum(sum(each.values()) for each in found["counts"].values())
    sentences = sum(each.get("a sentence", 0) for each in found["counts"].values())
    lines.append(f"**all** | **{total:,}** | **{sentences:,}** | **{total - sentences:,}**")
    return "\n".join(lines)


def page_with(page: str, written: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{written}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page_with(PAGE.read_text(), table()))
    else:
        print(table())


if __name__ == "__main__":
    main()
