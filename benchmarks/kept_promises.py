"""Whether promises are kept as often as they say, where a machine is steady, slower or under twice its load.

    python benchmarks/kept_promises.py [--seeds 10] [--requests 6000]

Writes benchmarks/results/kept_promises.json. Synthetic, no clock: requests come one at a time under five budgets, 18
configurations each err by a bias of their own (6 %, standard deviation), every request is disturbed by milliseconds, some by
many, and the most accurate configuration whose bound fits the budget is taken, as `paceline.serving.desk` takes it alone. The
bounds are `ClassedScores`; beside them stand those that `PromiseAccounts` widen. Of all windows of 1,000 promises in a row the
worst counts.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from provenance import provenance

from paceline.estimate.promises import PromiseAccounts
from paceline.estimate.recent import ClassedScores, size_class

RESULTS = Path(__file__).parent / "results" / "kept_promises.json"
ALPHA, WINDOW, SEED = 0.05, 1000, 20_000
TIERS, EXPERTS, BLOCKS = ("low", "medium", "high"), (2, 8), (8, 12, 16)
TOKENS = {"low": 64, "medium": 200, "high": 500}
CONFIGS = [(tier, top_k, blocks) for tier in TIERS for top_k in EXPERTS for blocks in BLOCKS]
BASE_MS = np.array([10 + 0.006 * TOKENS[tier] * (8 + blocks * (1 + 0.08 * top_k)) for tier, top_k, blocks in CONFIGS])
ACCURACY = np.array(
    [0.5 + 0.15 * TIERS.index(tier) + 0.05 * (top_k == 8) + 0.01 * blocks for tier, top_k, blocks in CONFIGS]
)
BUDGETS_MS = np.geomspace(1.35 * BASE_MS.min(), 1.4 * BASE_MS.max(), 5)

# how much slower the machine is at a request, by its place from 0 to 1
MACHINES: dict[str, Callable[[float], float]] = {
    "steady": lambda _: 1.0,
    "20 % slower from the middle on": lambda place: 1.2 if place >= 0.5 else 1.0,
    "20 % slower and back, six times": lambda place: 1.2 if int(12 * place) % 2 else 1.0,
    "slower and slower, 20 % at the end": lambda place: 1 + 0.2 * place,
    "twice the time from the middle on": lambda place: 2.0 if place >= 0.5 else 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Which promises were kept, in their order, the budget of each, and the accuracy of what came in time, of all requests."""

    kept: NDArray[np.bool_]
    budget: NDArray[np.int64]
    requests: int
    worth: float

    @property
    def worst_window(self) -> float:
        """The smallest share kept of so many promises in a row; of all where there are fewer."""
        return worst_window(self.kept)

    @property
    def worst_budget(self) -> float:
        """The smallest share kept of a budget's promises, where a window of them was given."""
        each = [self.kept[self.budget == budget] for budget in range(len(BUDGETS_MS))]
        return min(float(kept.mean()) for kept in each if len(kept) >= WINDOW / 5)


def worst_window(kept: NDArray[np.bool_]) -> float:
    """Return the smallest share kept of WINDOW promises in a row."""
    sums = np.concatenate([[0], np.cumsum(kept)])
    width = min(WINDOW, len(kept))
    return float((sums[width:] - sums[:-width]).min()) / width


def served(seed: int, slower: Callable[[float], float], *, adapts: bool, requests: int) -> Kept:
    """Serve requests one after the other; the same seed disturbs them alike, whether or not promises are counted."""
    random = np.random.default_rng(seed)
    bias_C = np.exp(random.normal(0, 0.06, len(CONFIGS)))
    scores, accounts = ClassedScores(ALPHA), PromiseAccounts(ALPHA)
    kept: list[bool] = []
    budgets: list[int] = []
    worth = 0.0
    for number in range(requests):
        predicted_C = BASE_MS * random.lognormal(0, 0.25)
        place, noise = int(random.integers(len(BUDGETS_MS))), random.lognormal(0, 0.08)
        disturbed_ms = random.exponential(4.0) + (random.exponential(60.0) if random.random() < 0.03 else 0.0)
        budget_ms = float(BUDGETS_MS[place])
        name = size_class(budget_ms)
        shift = accounts.shift(name) if adapts else 0.0
        fits = fitting(scores, predicted_C, budget_ms, shift)
        taken = max(fits, key=ACCURACY.__getitem__) if fits else int(np.argmin(predicted_C))
        measured_ms = slower(number / requests) * (predicted_C[taken] * bias_C[taken] * noise + disturbed_ms)
        if fits:
            kept.append(measured_ms <= budget_ms)
            budgets.append(place)
            accounts.observe(name, kept=kept[-1])
        elif shift and fitting(scores, predicted_C, budget_ms, 0.0):
            accounts.withheld(name)
        scores.observe(CONFIGS[taken][0], measured_ms, float(predicted_C[taken]))
        worth += float(ACCURACY[taken]) * (measured_ms <= budget_ms)
    return Kept(kept=np.array(kept), budget=np.array(budgets), requests=requests, worth=worth / requests)


def fitting(scores: ClassedScores, predicted_C: NDArray[np.float64], budget_ms: float, shift: float) -> list[int]:
    """Return the configurations whose bound fits a budget; none before there are enough scores."""
    found: list[int] = []
    for place, ms in enumerate(predicted_C.tolist()):
        factor = scores.of(CONFIGS[place][0], ms).upper_at(shift)
        if factor is not None and factor * ms <= budget_ms:
            found.append(place)
    return found


def told(runs: Sequence[Kept]) -> dict[str, float]:
    """Return the means over seeds, and the worst of all."""
    return {
        "kept": statistics.fmean(float(run.kept.mean()) for run in runs),
        "worst_window": statistics.fmean(run.worst_window for run in runs),
        "worst_window_of_all": min(run.worst_window for run in runs),
        "seeds_below": sum(run.worst_window < 1 - ALPHA for run in runs),
        "worst_budget": statistics.fmean(run.worst_budget for run in runs),
        "promised": statistics.fmean(len(run.kept) / run.requests for run in runs),
        "accuracy_in_time": statistics.fmean(run.worth for run in runs),
    }


def main() -> None:
    """Serve every machine with and without accounts, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=6000)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for machine, slower in MACHINES.items():
        ways: dict[str, list[Kept]] = {}
        for adapts, way in ((False, "scores alone"), (True, "promises counted")):
            ways[way] = [
                served(SEED + seed, slower, adapts=adapts, requests=given.requests) for seed in range(given.seeds)
            ]
        pairs = zip(*ways.values(), strict=True)
        costs = [100 * (before.worth - after.worth) for before, after in pairs]
        error = statistics.stdev(costs) / math.sqrt(len(costs)) if len(costs) > 1 else math.nan
        found[machine] = {
            **{way: told(runs) for way, runs in ways.items()},
            "points_given_up": {"mean": statistics.fmean(costs), "standard_error": error},
        }
        print(machine, json.dumps(found[machine], indent=1), flush=True)
    document = {
        **provenance("kept_promises.py"),
        "synthetic": True,
        "alpha": ALPHA,
        "window": WINDOW,
        "seeds": given.seeds,
        "requests": given.requests,
        "machines": found,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
