"""How often a sweep recommends a threshold that does nothing, and how often it finds one that helps.

    python benchmarks/threshold_noise.py [--part nothing_helps] [--part one_helps] [--trials N]

Synthetic sweeps. A cell's five metrics share most of their noise, as those of one benchmark run do; every run has a load of
its own. `normal` noise has a standard deviation of 5 %, `student` is 3 % times Student's t of two degrees of freedom (its
variance is infinite), `spikes` adds to 3 % a slowdown of 50 % in the mean to one cell in ten. Rules: `reference`, the smallest
score; `interval`, `paceline tune threshold select`'s own; `bootstrap`, runs drawn with replacement, a one-sided 95 % limit
for the largest deviation of all thresholds, which was not taken. Beside equal thresholds: one twice as slow among them
(`harmful`), and every second three times as noisy as the baseline (`noisier`). `covered` is the share of sweeps in which
every interval holds its threshold's true score. Writes benchmarks/results/threshold_noise.json.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from provenance import provenance

from paceline.slo import Proportion
from paceline.tune.select import SCORED, ScoreWeights, SweepRun, ThresholdChoice, choose_threshold

RESULTS = Path(__file__).parent / "results" / "threshold_noise.json"
Floats = NDArray[np.float64]
OTHERS, RUNS = (1, 6, 30), (4, 5, 8, 12)
EFFECTS = (0.02, 0.05, 0.1, 0.2)
OF_THE_CELL = 0.7  # of a metric's variance is shared with the cell's others
STEP = 10
DRAWS = 1000
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda random, shape: random.normal(0, 0.05, shape),
    "student": lambda random, shape: 0.03 * random.standard_t(2, shape),
    "spikes": lambda random, shape: (
        random.normal(0, 0.03, shape) + (random.random(shape) < 0.1) * random.exponential(0.5, shape)
    ),
}


def sweep_logs(random: np.random.Generator, noise: str, runs: int, others: int) -> Floats:
    """Return the logs of a sweep's metrics, (run, threshold, metric), the baseline first; nothing differs."""
    of_cell = NOISE[noise](random, (runs, others + 1, 1))
    of_metric = NOISE[noise](random, (runs, others + 1, len(SCORED)))
    of_run = random.normal(0, 0.3, (runs, 1, len(SCORED)))
    return of_run + np.sqrt(OF_THE_CELL) * of_cell + np.sqrt(1 - OF_THE_CELL) * of_metric


def sweep_of(logs: Floats) -> list[SweepRun]:
    """Return logs as a sweep's runs."""
    return [
        SweepRun(
            name=f"{run:03d}",
            levels={
                STEP * place: dict(zip(SCORED, np.exp(cell).tolist(), strict=True)) for place, cell in enumerate(each)
            },
        )
        for run, each in enumerate(logs)
    ]


def by_bootstrap(logs: Floats, random: np.random.Generator) -> int:
    """Return what a bootstrap over runs recommends: the smallest score whose upper limit is below the baseline's."""
    scores_RT = ScoreWeights().score(np.exp(logs[:, 1:] - logs[:, :1])) - 1
    runs = len(scores_RT)
    drawn_SR = random.multinomial(runs, [1 / runs] * runs, size=DRAWS) / runs
    mean_T = scores_RT.mean(axis=0)
    reach = np.quantile((mean_T - drawn_SR @ scores_RT).max(axis=1), 0.95, method="higher") * np.sqrt(runs / (runs - 1))
    best = int(mean_T.argmin())
    return STEP * (best + 1) if mean_T[best] + reach < 0 else 0


def recommended(logs: Floats, random: np.random.Generator) -> tuple[dict[str, int], ThresholdChoice]:
    """Return each rule's recommendation, and the choice by interval."""
    runs = sweep_of(logs)
    interval = choose_threshold(runs, baseline=0, weights=ScoreWeights())
    reference = choose_threshold(runs, baseline=0, weights=ScoreWeights(), rule="reference")
    chosen = {"reference": reference.recommended, "bootstrap": by_bootstrap(logs, random)}
    return {**chosen, "interval": interval.recommended}, interval


def changed(logs: Floats, case: str) -> Floats:
    """Return a sweep of noise alone as one of a case."""
    logs = logs.copy()
    if case == "harmful":
        logs[:, -1] += np.log(2)
    if case == "noisier":
        of_run = logs.mean(axis=1, keepdims=True)
        logs[:, 1::2] = (of_run + 3 * (logs - of_run))[:, 1::2]
    return logs


def cell(
    trials: int, noise: str, runs: int, others: int, *, case: str = "equal", effect: float = 0.0
) -> dict[str, Any]:
    """Return how often each rule leaves the baseline, and takes threshold 10, which is better by `effect`."""
    random = np.random.default_rng([runs, others, round(1000 * effect), *noise.encode(), *case.encode()])
    names = ("reference", "bootstrap", "interval")
    left: dict[str, int] = dict.fromkeys(names, 0)
    found, covered = left.copy(), 0
    truth = {STEP * place: 1.0 for place in range(1, others + 1)} | {STEP: 1 - effect}
    truth |= {STEP * others: 2.0} if case == "harmful" else {}
    for _ in range(trials):
        logs = changed(sweep_logs(random, noise, runs, others), case)
        logs[:, 1] += np.log(1 - effect)
        chosen, interval = recommended(logs, random)
        for rule, threshold in chosen.items():
            left[rule] += threshold != 0
            found[rule] += threshold == STEP
        covered += all(
            each.interval.low <= truth[each.threshold] <= each.interval.high
            for each in interval.scores
            if each.interval
        )
    return {
        "noise": noise,
        "case": case,
        "runs": runs,
        "thresholds_beside_0": others,
        "effect": effect,
        "trials": trials,
        "non_zero": {rule: share(count, trials) for rule, count in left.items()},
        **({"right": {rule: share(count, trials) for rule, count in found.items()}} if effect else {}),
        "covered": share(covered, trials),
    }


def share(count: int, trials: int) -> dict[str, float]:
    """Return a share with its exact 95 % interval."""
    found = Proportion(successes=count, count=trials)
    return {"share": found.share, "low": found.interval().low, "high": found.interval().high}


def show(rows: Sequence[dict[str, Any]], key: str) -> None:
    """Print one line a condition."""
    for row in rows:
        shares = "  ".join(
            f"{rule} {each['share']:.3f} ({each['low']:.3f} to {each['high']:.3f})" for rule, each in row[key].items()
        )
        condition = (
            f"{row['noise']:>8} {row['case']:>8} {row['runs']:>3} runs {row['thresholds_beside_0']:>3} thresholds"
        )
        print(f"{condition} effect {row['effect']:.2f}  {shares}  covered {row['covered']['share']:.3f}", flush=True)


def nothing_helps(trials: int) -> list[dict[str, Any]]:
    """Return how often each rule leaves the baseline where no threshold helps."""
    print("share of sweeps that recommend another threshold than 0, where none helps")
    conditions = [(noise, runs, others, "equal") for noise in NOISE for others in OTHERS for runs in RUNS]
    conditions += [("normal", runs, 6, case) for case in ("harmful", "noisier") for runs in (4, 5, 8)]
    rows: list[dict[str, Any]] = []
    for noise, runs, others, case in conditions:
        rows.append(cell(trials, noise, runs, others, case=case))
        show(rows[-1:], "non_zero")
    return rows


def one_helps(trials: int) -> list[dict[str, Any]]:
    """Return how often each rule takes the one threshold that helps."""
    print("share of sweeps that recommend the one threshold that helps")
    conditions = [("normal", runs, 6, "equal") for runs in RUNS]
    others = (("student", 6, "equal"), ("spikes", 6, "equal"), ("normal", 30, "equal"), ("normal", 6, "harmful"))
    conditions += [(noise, runs, count, case) for noise, count, case in others for runs in (5, 8)]
    rows: list[dict[str, Any]] = []
    for noise, runs, count, case in conditions:
        for effect in EFFECTS:
            rows.append(cell(trials, noise, runs, count, case=case, effect=effect))
            show(rows[-1:], "right")
    return rows


PARTS: dict[str, tuple[Callable[[int], list[dict[str, Any]]], int]] = {
    "nothing_helps": (nothing_helps, 1000),
    "one_helps": (one_helps, 300),
}


def main() -> None:
    """Run the parts asked for, print and write the figures; those of a part that is not run stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--trials", type=int)
    arguments = parser.parse_args()
    document: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"synthetic": True}
    for part in arguments.part or PARTS:
        run, trials = PARTS[part]
        document[part] = run(arguments.trials or trials)
        document.pop(f"{part}_command", None)  # of a file that an older version wrote
        document[f"{part}_provenance"] = provenance("threshold_noise.py")
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
