"""What the first screen of the site shows: accuracy kept at a budget, by controller, and a real command with its time.

    python benchmarks/first_screen.py demo-out

Takes the directory that `paceline demo` left: its estimator, and the held-out part of its profile, which neither
trained nor calibrated it. An answer counts where it is right *and* its first token came within the budget. `best fixed`
is the configuration that is best in hindsight at each budget, on these very questions; `table` takes the most accurate
mean that fits; `paceline` is the estimator with its bound. Then runs `paceline run` once in a process of its own.
Writes benchmarks/results/first_screen.json; `python website/recorded.py` draws it.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from paceline.analyze import default_budgets, latency_of
from paceline.checkout import own_commit
from paceline.evaluate.choices import choices_of, outcomes_of
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.held_out import judged_with
from paceline.profiles import read_profile
from paceline.profiles.requests import measured_requests
from paceline.records import LatencyKind
from paceline.slo import mean_estimate

RESULTS = Path(__file__).parent / "results" / "first_screen.json"
KIND: LatencyKind = "ttft"


def judged(demo: Path) -> dict[str, Any]:
    """Return accuracy of answers in time at every budget, by controller, each with its 95 % interval."""
    profile = read_profile(demo / "profile")
    found = judged_with(profile, demo / "estimator")
    requests = measured_requests(found.parts.test, latency_of(KIND))
    requests = requests.only(requests.complete)
    budgets_ms = default_budgets(found.parts.fit, KIND).budgets_ms
    controllers = {
        "paceline": estimator_candidates(found.model, found.bounds, latency_kind=KIND)["bound"],
        "table": table_candidates(profile, found.parts, latency_kind=KIND)["table"],
    }
    rows: dict[str, list[dict[str, float | str]]] = {}
    for name, controller in controllers.items():
        outcomes = outcomes_of(choices_of(name, controller, requests, budgets_ms), requests, budgets_ms)
        rows[name] = [_row(each.tolist()) for each in outcomes.accuracy_BR * outcomes.kept_BR]
    in_time_BRC = requests.accuracy_RC * (requests.latency_ms_RC <= np.asarray(budgets_ms)[:, None, None])
    best_B = in_time_BRC.mean(axis=1).argmax(axis=1).tolist()
    rows["best fixed"] = [
        {**_row(in_time_BRC[place, :, column].tolist()), "config": requests.configs[column].key}
        for place, column in enumerate(best_B)
    ]
    return {
        "requests": len(requests.names),
        "latency_kind": KIND,
        "budgets_ms": list(budgets_ms),
        "rows": rows,
        "provenance": [
            {"model": run.model, "device": run.device, "versions": run.versions} for run in profile.provenance
        ],
    }


def _row(values: list[float]) -> dict[str, float | str]:
    estimate = mean_estimate(values)
    interval = estimate.interval()
    assert interval is not None
    return {"mean": estimate.mean, "low": max(0.0, interval.low), "high": min(1.0, interval.high)}


def terminal(demo: Path, budget_ms: float) -> dict[str, Any]:
    """Run one command in a process of its own and return what it printed, and how long it took."""
    words = ["paceline", "run", "digits", "--controller", str(demo / "estimator"), "--image", str(demo / "picture.png")]
    words += ["--prompt", "Read the digits.", "--budget", f"{budget_ms:g}"]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "paceline.cli.main", *words[1:]], capture_output=True, text=True, check=True
    )
    said = shlex.join(words).replace(str(demo), "demo-out")
    printed = "\n".join(line.strip() for line in done.stdout.strip().splitlines())
    return {"command": said, "output": printed, "seconds": time.perf_counter() - begun}


def main() -> None:
    """Judge, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the directory of a finished `paceline demo`")
    demo = parser.parse_args().demo
    found = judged(demo)
    middle = found["budgets_ms"][len(found["budgets_ms"]) // 2]
    document = {
        "command": "python benchmarks/first_screen.py demo-out",
        "commit": own_commit(),
        **found,
        "terminal": terminal(demo, round(middle)),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    for place, budget_ms in enumerate(found["budgets_ms"]):
        cells = (f"{name} {rows[place]['mean']:.3f}" for name, rows in found["rows"].items())
        print(f"{budget_ms:8.1f} ms: {', '.join(cells)}")


if __name__ == "__main__":
    main()
