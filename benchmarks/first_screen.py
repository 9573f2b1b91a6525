"""What the first screen of the site shows: accuracy kept at a budget, by controller, and a real command with its time.

    paceline profile digits --samples 300 --max-new-tokens 8 --out build/first_screen   # OMP_NUM_THREADS=1; 20 idle minutes
    python benchmarks/first_screen.py build/first_screen --demo demo-out [--folds 5] [--parts chart terminal]

Every question of the profile judges once: in each of the folds an estimator is trained on some questions, its bounds are
calibrated on others, and the rest judge (`table` is of the first two parts). An answer counts where it is right *and* its
first token came within the budget. `best fixed` is the configuration that is best in hindsight at each budget, on these very
questions; `table` takes the most accurate mean that fits; `paceline` is the estimator with its bound. Then runs `paceline run`
once in a process of its own, with what `paceline demo` left in `--demo`; the machine should be idle. Writes
benchmarks/results/first_screen.json, of which a part that is not asked for stays; `python website/recorded.py` draws it.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from provenance import provenance

from paceline.analyze import default_budgets, latency_of
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.evaluate.choices import choices_of, outcomes_of
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds, split_for
from paceline.fit.estimator.settings import FAST
from paceline.fit.estimator.training import train_estimator
from paceline.profiles import Profile, SampleParts, Split, read_profile
from paceline.profiles.requests import MeasuredRequests, measured_requests
from paceline.records import LatencyKind
from paceline.slo import mean_estimate

RESULTS = Path(__file__).parent / "results" / "first_screen.json"
KIND: LatencyKind = "ttft"
NAME = ("dataset", "sample_id")

Floats = NDArray[np.float64]


def folds_of(samples: pl.DataFrame, folds: int, split: Split) -> Iterator[SampleParts]:
    """Yield the parts of each fold: every question judges in one, and calibrates in some others.

    A question's place follows from its name, as in any split: fold `k` judges those from `k / folds` on, the calibrating ones
    come next in the circle.
    """
    names = samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique(maintain_order=True)
    places = [split.place_of("/".join(name)) for name in names.iter_rows()]
    keyed = samples.with_columns(name=pl.col("dataset").cast(pl.String)).join(
        names.with_columns(place=pl.Series(places)), left_on=["name", "sample_id"], right_on=list(NAME)
    )
    for fold in range(folds):
        turned = (pl.col("place") - fold / folds) % 1.0
        judging, calibrating = turned < 1 / folds, turned < 1 / folds + split.calibration_share
        parts = (keyed.filter(each).drop("name", "place") for each in (~calibrating, calibrating & ~judging, judging))
        yield SampleParts(**dict(zip(("fit", "calibration", "test"), parts, strict=True)))


def judged(profile: Profile, folds: int) -> dict[str, Any]:
    """Return accuracy of answers in time at every budget, by controller, each with its 95 % interval."""
    count = profile.samples.select(*NAME).unique().height
    split = split_for(count, alpha=DEFAULT_ALPHA)
    budgets_ms = default_budgets(profile.samples, KIND).budgets_ms
    right_in_time: dict[str, list[Floats]] = {"paceline": [], "table": []}
    promised: list[NDArray[np.bool_]] = []
    kept: list[NDArray[np.bool_]] = []
    every: list[Floats] = []
    for parts in folds_of(profile.samples, folds, split):
        requests = complete_requests(parts.test)
        trained = train_estimator(parts.fit, split=split, settings=FAST, provenance=profile.provenance)
        bounds = calibrate_bounds(trained.network, parts)
        controllers = {
            "paceline": estimator_candidates(trained.network, bounds, latency_kind=KIND)["bound"],
            "table": table_candidates(profile, parts, latency_kind=KIND)["table"],
        }
        for name, controller in controllers.items():
            choices = choices_of(name, controller, requests, budgets_ms)
            outcomes = outcomes_of(choices, requests, budgets_ms)
            right_in_time[name].append(outcomes.accuracy_BR * outcomes.kept_BR)
            if name == "paceline":
                promised.append(choices.promised_BR)
                kept.append(outcomes.kept_BR & choices.promised_BR)
        every.append(requests.accuracy_RC * (requests.latency_ms_RC <= np.asarray(budgets_ms)[:, None, None]))
    rows = {name: _rows(np.concatenate(found, axis=1)) for name, found in right_in_time.items()}
    in_time_BRC = np.concatenate(every, axis=1)
    best_B = in_time_BRC.mean(axis=1).argmax(axis=1).tolist()
    best = _rows(np.stack([in_time_BRC[place, :, column] for place, column in enumerate(best_B)]))
    configs = complete_requests(profile.samples).configs
    rows["best fixed"] = [{**row, "config": configs[column].key} for row, column in zip(best, best_B, strict=True)]
    return {
        "requests": in_time_BRC.shape[1],
        "configurations": len(configs),
        "folds": folds,
        "latency_kind": KIND,
        "budgets_ms": list(budgets_ms),
        "rows": rows,
        "promised": [int(each) for each in np.concatenate(promised, axis=1).sum(axis=1)],
        "promises_kept": [int(each) for each in np.concatenate(kept, axis=1).sum(axis=1)],
        "provenance": [
            {
                "model": run.model,
                "device": run.device,
                "created": run.created,
                "commit": run.commit,
                "versions": run.versions,
            }
            for run in profile.provenance
        ],
    }


def complete_requests(samples: pl.DataFrame) -> MeasuredRequests:
    """Return the requests that were measured under every configuration."""
    requests = measured_requests(samples, latency_of(KIND))
    return requests.only(requests.complete)


def _rows(found_BR: Floats) -> list[dict[str, Any]]:
    return [_row(each) for each in found_BR.tolist()]


def _row(values: Sequence[float]) -> dict[str, Any]:
    estimate = mean_estimate(values)
    interval = estimate.interval()
    assert interval is not None
    return {"mean": estimate.mean, "low": max(0.0, interval.low), "high": min(1.0, interval.high)}


def terminal(demo: Path, budget_ms: float) -> dict[str, Any]:
    """Run one command in a process of its own and return what it printed, and how long it took."""
    words = ["paceline", "run", "digits", "--controller", str(demo / "estimator"), "--image", str(demo / "picture.png")]
    words += ["--prompt", "Read the digits.", "--budget", f"{budget_ms:g}"]
    load_average, begun = os.getloadavg()[0], time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "paceline.cli.main", *words[1:]], capture_output=True, text=True, check=True
    )
    said = shlex.join(words).replace(str(demo), "demo-out")
    printed = "\n".join(line.strip() for line in done.stdout.strip().splitlines())
    return {"command": said, "output": printed, "seconds": time.perf_counter() - begun, "load_average": load_average}


def main() -> None:
    """Judge, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--demo", type=Path, default=Path("demo-out"), help="what a finished `paceline demo` left")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=("chart", "terminal"), default=["chart", "terminal"])
    given = parser.parse_args()
    document: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    told = provenance("first_screen.py")
    if "chart" in given.parts:
        document = {**told, **judged(read_profile(given.profile), given.folds), "terminal": document.get("terminal")}
    if "terminal" in given.parts:
        middle = document["budgets_ms"][len(document["budgets_ms"]) // 2]
        document["terminal"] = {**told, **terminal(given.demo, round(middle))}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    tell(document)


def tell(found: dict[str, Any]) -> None:
    """Print a line a budget."""
    for place, budget_ms in enumerate(found["budgets_ms"]):
        cells = (f"{name} {rows[place]['mean']:.3f}" for name, rows in found["rows"].items())
        kept = f"{found['promises_kept'][place]} of {found['promised'][place]} promises kept"
        print(f"{budget_ms:8.1f} ms: {', '.join(cells)}; {kept}")


if __name__ == "__main__":
    main()
