"""What must hold for every load, on vLLM's own scheduler class with Paceline's plans, over random loads without a model.

    python benchmarks/scheduler_invariants.py [--loads 5000] [--first 0] [--texts 0]

Needs vLLM. A load draws texts and images, arrivals, aborts, a KV cache down to what the longest request needs, encoder
budgets and caches down to the largest image, one or two steps in flight; the settings are drawn too. Held: every request
ends, no two steps in a row are empty while a request could be served, nothing is left behind. Compared: the steps that
fcfs without settings takes with those of vLLM's own scheduler. Writes benchmarks/results/scheduler_invariants.json.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported

from provenance import provenance
from random_loads import Engines, Load, random_load, random_settings, serve
from tiny_llm import write_tiny_llm

from paceline.vllm_plugin import scheduler, stock

RESULTS = Path(__file__).parent / "results" / "scheduler_invariants.json"


def check(load: Load, engines: Engines, totals: Counter[str]) -> list[str]:
    """Serve a load under drawn settings, vLLM's own scheduler and plain fcfs; return what was violated."""
    settings = random_settings(load.number, load.step_tokens)
    drawn = serve(load, engines, scheduler, paceline=settings)
    own = serve(load, engines, stock)
    plain = serve(load, engines, scheduler, paceline={"policy": "fcfs"})
    name = str(settings["policy"])
    totals[f"{name} steps"] += len(drawn.executed)
    totals[f"{name} empty steps"] += drawn.idle
    totals["stock steps"] += len(own.executed)
    totals["plain fcfs steps"] += len(plain.executed)
    totals["plain fcfs equal to stock step by step"] += plain.executed == own.executed
    totals["loads"] += 1
    named = {"drawn": drawn, "plain fcfs": plain, "stock": own}
    return [
        f"load {load.number}, {who} {settings if who == 'drawn' else ''}: {violation}"
        for who, served in named.items()
        for violation in served.violations()
    ]


def main() -> None:
    """Check the loads, print and write what was found; exits with 1 when something was violated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=5000, help="loads with images")
    parser.add_argument("--texts", type=int, default=0, help="loads without images, after them")
    parser.add_argument("--first", type=int, default=0, help="number of the first load")
    arguments = parser.parse_args()
    totals: dict[str, Counter[str]] = {"images": Counter(), "texts": Counter()}
    violations: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        engines = Engines(str(write_tiny_llm(Path(folder), layers=1, hidden=32)))
        for kind, count in (("images", arguments.loads), ("texts", arguments.texts)):
            for number in range(arguments.first, arguments.first + count):
                load = random_load(number, with_images=kind == "images")
                violations += check(load, engines, totals[kind])
    document: dict[str, Any] = {
        **provenance("scheduler_invariants.py"),
        "violations": violations,
        "totals": {kind: dict(sorted(counts.items())) for kind, counts in totals.items() if counts},
    }
    for kind, counts in document["totals"].items():
        print(kind, counts)
        print(
            f"  plain fcfs takes {counts['plain fcfs steps'] / counts['stock steps']:.4f} of the stock scheduler's steps"
        )
    print("\n".join(violations) or "nothing violated")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
