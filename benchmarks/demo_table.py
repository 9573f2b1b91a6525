"""What the demonstration found, as the guide's table shows it.

    paceline demo --out demo-out
    python benchmarks/demo_table.py demo-out

Writes benchmarks/results/demo.json: accuracy and the share of budgets kept, by budget, of the estimator's bound and of the lookup
table, with what the demonstration's profile says about device, versions and commit; `python website/recorded.py` draws it.
"""

import argparse
import json
from pathlib import Path

from paceline.profiles import read_profile

RESULTS = Path(__file__).parent / "results" / "demo.json"


def main() -> None:
    """Read a demonstration's folder and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    given = parser.parse_args()
    found = json.loads((given.demo / "summary.json").read_text())
    (measured,) = read_profile(given.demo / "profile").provenance
    document = {
        "command": "paceline demo",
        "commit": measured.commit,
        "device": measured.device,
        "versions": dict(measured.versions),
        "latency_kind": found["latency_kind"],
        "alpha": found["alpha"],
        "samples": found["profile"]["n"],
        "bound": found["by_budget"],
        "table": found["table"]["by_budget"],
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
