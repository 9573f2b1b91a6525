"""What testing bounds in a fixed sequence keeps and costs, beside taking the best configuration whose own bound fits.

    python benchmarks/sequence_rule.py [PROFILE] [--calibrations 1200] [--scenario even]

All rules choose under the same bounds (tolerance limits of confidence 0.9, α = 0.05), from the same calibrations, at budgets
fixed beforehand. `own`: the most accurate of 27 configurations whose own bound fits. `predicted`: only if the bounds of all that
are predicted to be faster fit too. `sequence`, as `BoundController` has it: only if the bounds of all fit that the fitted
samples, three times as many, made expect a smaller bound of. A calibration breaks the promise at a budget where fewer than
95 % of the requests that something fitted are kept; one that nothing fits promises nothing and breaks nothing.

Synthetic: latencies and accuracies like those of the embedded model's grid, the errors of predictions drawn anew for each
calibration, the share that a choice keeps computed from their distribution, so that nothing is left to held-out samples.
`one`: a single request, its budgets at 25 places; `mixed`: pictures of many sizes, each with predictions of its own.
Scenarios: `even`, every configuration misses alike; `heavy`, by Student's t of three degrees of freedom; `wide fastest`, the
fastest configuration misses three times as widely; `wide fast tier`, all of the low tier twice as widely; `large noisier`, errors
grow with the picture, which nothing that is calibrated over all pictures allows for (its `one` is a large one); `crowded`, all
configurations take nearly the same time, so that many bounds lie about one budget.

With a PROFILE, its requests too: a line a configuration is fitted on two fifths, the rest is parted anew for each calibration,
half to calibrate and half to judge, whose chance is in the figures. Writes benchmarks/results/sequence_rule.json.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from guarantee import LinearModel
from numpy.typing import NDArray
from provenance import provenance
from scipy.stats import norm
from scipy.stats import t as student

from paceline.analyze import default_budgets, latency_of
from paceline.control.ranked_grid import RankedConfigs, RankedTimes
from paceline.estimate.bounds import CalibratedConfig, ConformalScores
from paceline.fit.conformal import calibrated_configs, conformal_scores, expected_factors, predicted_matrix
from paceline.profiles import SampleParts, Split, read_profile, split_samples
from paceline.profiles.requests import measured_requests
from paceline.records import KnobConfig
from paceline.slo import Proportion, mean_estimate

# array suffixes: N calibrating requests, R judged requests, C configurations in order of preference, B budgets, S calibrations
RESULTS = Path(__file__).parent / "results" / "sequence_rule.json"
RULES = ("own", "predicted", "sequence")
FITTED = 3  # requests that fitted the model for each that calibrates
ALPHA, CONFIDENCE = 0.05, 0.9
CALIBRATING, SIZED = (60, 120, 600), ("even", "heavy")
CROWDED = 0.03  # standard deviation of the times, as a share
PICTURES, BUDGETS, PLACES_OF_ONE = 300, 10, 25
LARGE = 1.8  # a size that one picture in fourteen exceeds
FULL_MS, SHARED, SPREAD = 45.0, 0.2, 0.2  # a request's errors are in part the same under every configuration
# what is left of the time, what is lost of the accuracy: benchmarks/results/embedded_model.json, rounded
TIERS = {"low": (0.57, 0.20), "medium": (0.73, 0.04), "high": (1.0, 0.0)}
GROWTH = {"low": 0.3, "medium": 0.7, "high": 1.0}  # of a tier's time with the size of a picture
TOP_KS = {1: (0.76, 0.03), 4: (0.87, 0.003), 8: (1.0, 0.0)}
BLOCKS = {8: (0.64, 0.18), 12: (0.81, 0.03), 16: (1.0, 0.0)}
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """27 configurations, the preferred first: what they take for a picture of size 1, and how that grows."""

    known: tuple[CalibratedConfig, ...]
    ms_C: Floats
    growth_C: Floats

    def predicted(self, sizes_R: Floats) -> Floats:
        """Return the predicted milliseconds of pictures, (request, configuration)."""
        return self.ms_C * (0.4 + 0.6 * sizes_R[:, None] ** self.growth_C)


def synthetic_grid() -> Grid:
    """Return the grid of the embedded model, rounded."""
    cells: list[tuple[CalibratedConfig, float, float]] = []
    for (tier, of_tier), (top_k, of_top_k), (blocks, of_blocks) in product(
        TIERS.items(), TOP_KS.items(), BLOCKS.items()
    ):
        known = CalibratedConfig(
            config=KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks),
            accuracy=0.97 - of_tier[1] - of_top_k[1] - of_blocks[1],
            accuracy_std=0.0,
            num_samples=1,
            expected_output_tokens=1.0,
        )
        cells.append((known, FULL_MS * of_tier[0] * of_top_k[0] * of_blocks[0], GROWTH[tier]))
    cells.sort(key=lambda cell: (-cell[0].accuracy, cell[1]))
    known, ms, growth = zip(*cells, strict=True)
    return Grid(known=known, ms_C=np.array(ms), growth_C=np.array(growth))


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """How predictions miss: the spread of each configuration's errors, their tails, how they grow with the picture."""

    spread_C: Floats
    freedom: float | None = None
    growth: float = 0.0

    def drawn(self, random: np.random.Generator, sizes_N: Floats) -> Floats:
        """Return log(measured / predicted) of requests, (request, configuration)."""
        shape = len(sizes_N), len(self.spread_C)
        standard = np.sqrt(SHARED) * random.normal(size=(shape[0], 1)) + np.sqrt(1 - SHARED) * random.normal(size=shape)
        if self.freedom is not None:  # one divisor a request: each configuration's errors are Student's t
            standard /= np.sqrt(random.chisquare(self.freedom, (shape[0], 1)) / self.freedom)
        return standard * self._spread(sizes_N)

    def kept(self, predicted_RC: Floats, budget_ms: float, sizes_R: Floats) -> Floats:
        """Return the probability that a request stays within a budget, (request, configuration)."""
        distribution = norm if self.freedom is None else student(self.freedom)
        return np.asarray(distribution.cdf(np.log(budget_ms / predicted_RC) / self._spread(sizes_R)))

    def _spread(self, sizes: Floats) -> Floats:
        return self.spread_C * (sizes**self.growth)[:, None]


def scenarios(grid: Grid) -> dict[str, tuple[Grid, Misses]]:
    """Return the scenarios by name."""
    even_C = np.full(len(grid.known), SPREAD)
    fastest_C = np.where(grid.ms_C == grid.ms_C.min(), 3, 1) * SPREAD
    low_C = np.where([each.config.tier == "low" for each in grid.known], 2, 1) * SPREAD
    standing = (grid.ms_C - grid.ms_C.mean()) / grid.ms_C.std()
    crowded = replace(grid, ms_C=grid.ms_C.mean() * (1 + CROWDED * standing), growth_C=np.full(len(even_C), 0.7))
    return {
        "even": (grid, Misses(spread_C=even_C)),
        "heavy": (grid, Misses(spread_C=even_C, freedom=3)),
        "wide fastest": (grid, Misses(spread_C=fastest_C)),
        "wide fast tier": (grid, Misses(spread_C=low_C)),
        "large noisier": (grid, Misses(spread_C=even_C, growth=1.0)),
        "crowded": (crowded, Misses(spread_C=even_C)),
    }


def orders(predicted_RC: Floats, expected_C: Floats) -> dict[str, NDArray[np.intp]]:
    """Return the order in which each rule tests the bounds of each request's configurations."""
    return {
        "predicted": np.argsort(predicted_RC, axis=1, kind="stable"),
        "sequence": np.argsort(predicted_RC * expected_C, axis=1, kind="stable"),
    }


def chosen(bounds_RC: Floats, orders_RC: dict[str, NDArray[np.intp]], budget_ms: float) -> dict[str, NDArray[np.intp]]:
    """Return what each rule takes for each request, the first that fits, and -1 where nothing does."""
    own_RC = bounds_RC <= budget_ms
    fits = {"own": own_RC}
    for rule, order_RC in orders_RC.items():
        fits[rule] = np.empty_like(own_RC)
        passed_RC = np.logical_and.accumulate(np.take_along_axis(own_RC, order_RC, axis=1), axis=1)
        np.put_along_axis(fits[rule], order_RC, passed_RC, axis=1)
    return {rule: np.where(each.any(axis=1), each.argmax(axis=1), -1) for rule, each in fits.items()}


def require_the_product_rule(
    grid: Grid, bounds_RC: Floats, predicted_RC: Floats, orders_RC: dict[str, NDArray[np.intp]], budget_ms: float
) -> None:
    """Fail unless `chosen` takes what BoundController's own code takes."""
    ranked = RankedConfigs(grid.known)
    mine_R = chosen(bounds_RC, orders_RC, budget_ms)["sequence"]
    for row, place in enumerate(mine_R.tolist()):
        times = RankedTimes(
            latencies_C=predicted_RC[row], bounds_C=bounds_RC[row], sequence_C=orders_RC["sequence"][row], outside=()
        )
        its = ranked.fitting(budget_ms, times)
        assert place == (its[0] if len(its) else -1), (row, place, its)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One calibration at one budget by one rule: what is kept of what was decided, and what all requests were given.

    `kept` is None where nothing fitted any request. Where nothing fits, the configuration of the smallest bound answers.
    """

    kept: float | None
    accuracy: float
    none_fit: float


def judged(place_R: NDArray[np.intp], bounds_RC: Floats, kept_RC: Floats, accuracy_RC: Floats) -> Judged:
    """Return what choices come to."""
    decided_R = place_R >= 0
    taken_R = np.where(decided_R, place_R, bounds_RC.argmin(axis=1))[:, None]
    kept_R = np.take_along_axis(kept_RC, taken_R, axis=1)[:, 0]
    return Judged(
        kept=float(kept_R[decided_R].mean()) if decided_R.any() else None,
        accuracy=float(np.take_along_axis(accuracy_RC, taken_R, axis=1).mean()),
        none_fit=float(1 - decided_R.mean()),
    )


Row = dict[str, list[Judged]]  # a rule's verdicts, one a budget


def synthetic_calibrations(
    grid: Grid, misses: Misses, calibrating: int, count: int, kind: str
) -> tuple[list[float], Iterator[Row]]:
    """Return the budgets, and the verdicts of every calibration."""
    random = np.random.default_rng([calibrating, count, *kind.encode()])
    varied = kind == "mixed" or misses.growth > 0
    sizes_R = random.lognormal(0, 0.4, PICTURES) if kind == "mixed" else np.full(1, LARGE if varied else 1.0)
    predicted_RC = grid.predicted(sizes_R)
    wide = np.exp(2.2 * SPREAD)  # from what next to nothing fits to what everything does
    budgets_ms = np.geomspace(
        predicted_RC.min(axis=1).mean() * np.exp(SPREAD),
        predicted_RC.max(axis=1).mean() * wide,
        PLACES_OF_ONE if kind == "one" else BUDGETS,
    ).tolist()
    accuracy_RC = np.broadcast_to([each.accuracy for each in grid.known], predicted_RC.shape)
    kept_B = [misses.kept(predicted_RC, budget_ms, sizes_R) for budget_ms in budgets_ms]

    def scores_of(requests: int) -> ConformalScores:
        sizes_N = random.lognormal(0, 0.4, requests) if varied else np.ones(requests)
        return conformal_scores(np.exp(misses.drawn(random, sizes_N)), np.ones((1, len(grid.known))))

    def rows() -> Iterator[Row]:
        for index in range(count):
            scores = scores_of(calibrating)
            orders_RC = orders(predicted_RC, expected_factors(scores_of(FITTED * calibrating)))
            bounds_RC = predicted_RC * np.exp(scores.quantiles(ALPHA, CONFIDENCE))
            if index < 3:
                require_the_product_rule(grid, bounds_RC, predicted_RC, orders_RC, budgets_ms[index + 4])
            row: Row = {rule: [] for rule in RULES}
            for budget_ms, kept_RC in zip(budgets_ms, kept_B, strict=True):
                for rule, place_R in chosen(bounds_RC, orders_RC, budget_ms).items():
                    row[rule].append(judged(place_R, bounds_RC, kept_RC, accuracy_RC))
            yield row

    return budgets_ms, rows()


def profile_calibrations(path: Path, count: int) -> tuple[list[float], Iterator[Row], int]:
    """Return budgets, the verdicts of every calibration, and how many requests calibrate each."""
    profile = read_profile(path)
    parts = split_samples(profile.samples, Split(seed=7, calibration_share=0.3, test_share=0.3))
    model = LinearModel(parts.fit)
    rest = profile.samples.join(
        parts.fit.select("dataset", "sample_id").unique(), on=["dataset", "sample_id"], how="anti"
    )
    requests = measured_requests(rest, latency_of("prefill"))
    requests = requests.only(requests.complete)
    known = calibrated_configs(model.configs, SampleParts(fit=parts.fit, calibration=parts.fit, test=parts.test))
    order = sorted(range(len(known)), key=lambda place: (-known[place].accuracy, known[place].config.size))
    predicted_RC = predicted_matrix(model, requests.features, "prefill", np.ones(len(known)))[:, order]
    columns = [requests.configs.index(known[place].config) for place in order]
    fitted = measured_requests(parts.fit, latency_of("prefill"))
    fitted_RC = predicted_matrix(model, fitted.features, "prefill", np.ones(len(known)))[:, order]
    expected_C = expected_factors(conformal_scores(fitted.latency_ms_RC[:, columns], fitted_RC))
    latency_RC, accuracy_RC = requests.latency_ms_RC[:, columns], requests.accuracy_RC[:, columns]
    budgets_ms = default_budgets(parts.fit, "prefill").budgets_ms
    random = np.random.default_rng(11)

    def rows() -> Iterator[Row]:
        for _ in range(count):
            shuffled = random.permutation(len(latency_RC))
            calibrating, judging = np.split(shuffled, [len(shuffled) // 2])
            scores = conformal_scores(latency_RC[calibrating], predicted_RC[calibrating])
            bounds_RC = (predicted_RC * np.exp(scores.quantiles(ALPHA, CONFIDENCE)))[judging]
            orders_RC = orders(predicted_RC[judging], expected_C)
            row: Row = {rule: [] for rule in RULES}
            for budget_ms in budgets_ms:
                kept_RC = (latency_RC[judging] <= budget_ms).astype(float)
                for rule, place_R in chosen(bounds_RC, orders_RC, budget_ms).items():
                    row[rule].append(judged(place_R, bounds_RC, kept_RC, accuracy_RC[judging]))
            yield row

    return list(budgets_ms), rows(), len(latency_RC) // 2


def figures(budgets_ms: list[float], rows: list[Row]) -> dict[str, Any]:
    """Return each rule's figures over calibrations, at each budget and over all, and what the sequence costs, paired."""
    found: dict[str, Any] = {"calibrations": len(rows), "budgets_ms": budgets_ms, "rules": {}}
    for rule in RULES:
        by_budget: list[dict[str, Any]] = []
        for place in range(len(budgets_ms)):
            cells = [row[rule][place] for row in rows]
            decided = [each.kept for each in cells if each.kept is not None]
            keeping = Proportion(
                successes=sum(each.kept is None or each.kept >= 1 - ALPHA for each in cells), count=len(cells)
            )
            by_budget.append(
                {
                    "calibrations_that_keep": share(keeping),
                    "of_those_that_decide": share(
                        Proportion(successes=sum(kept >= 1 - ALPHA for kept in decided), count=len(decided))
                    )
                    if decided
                    else None,
                    "kept": float(np.mean(decided)) if decided else None,
                    "accuracy": float(np.mean([each.accuracy for each in cells])),
                    "none_fit": float(np.mean([each.none_fit for each in cells])),
                }
            )
        worst = min(by_budget, key=lambda each: each["calibrations_that_keep"]["share"])
        found["rules"][rule] = {
            "calibrations_that_keep": {
                "mean": float(np.mean([each["calibrations_that_keep"]["share"] for each in by_budget])),
                "worst_budget": worst["calibrations_that_keep"],
                "budgets_below_confidence": sum(
                    each["calibrations_that_keep"]["high"] < CONFIDENCE for each in by_budget
                ),
            },
            "kept": float(np.mean([each["kept"] for each in by_budget if each["kept"] is not None])),
            "accuracy": float(np.mean([each["accuracy"] for each in by_budget])),
            "none_fit": float(np.mean([each["none_fit"] for each in by_budget])),
            "by_budget": by_budget,
        }
    for rule in RULES[1:]:
        found[f"{rule}_minus_own"] = {name: paired(rows, rule, name) for name in ("accuracy", "none_fit")} | {
            "largest_loss_at_a_budget": min(
                after["accuracy"] - before["accuracy"]
                for before, after in zip(*(found["rules"][each]["by_budget"] for each in ("own", rule)), strict=True)
            )
        }
    return found


def paired(rows: list[Row], rule: str, name: str) -> dict[str, float]:
    """Return the mean difference from `own` over calibrations, each over all budgets, with its 95 % interval."""
    before, after = (
        [float(np.mean([getattr(each, name) for each in row[of]])) for row in rows] for of in ("own", rule)
    )
    found = mean_estimate([its - mine for mine, its in zip(before, after, strict=True)])
    interval = found.interval()
    assert interval is not None
    return {"mean": found.mean, "low": interval.low, "high": interval.high}


def share(found: Proportion) -> dict[str, float]:
    """Return a share with its exact 95 % interval."""
    interval = found.interval()
    return {"share": found.share, "low": interval.low, "high": interval.high}


def rounded(value: Any) -> Any:
    """Return a document with its numbers at six decimals."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def show(label: str, document: dict[str, Any]) -> None:
    """Print one condition."""
    print(label)
    for rule, each in document["rules"].items():
        keep = each["calibrations_that_keep"]
        worst = keep["worst_budget"]
        print(
            f"  {rule:>8}  calibrations that keep: mean {keep['mean']:.3f}, worst budget {worst['share']:.3f} "
            f"({worst['low']:.3f} to {worst['high']:.3f}), {keep['budgets_below_confidence']} budgets below 0.9;  kept "
            f"{each['kept']:.4f}  accuracy {each['accuracy']:.4f}  none fits {each['none_fit']:.4f}"
        )
    for rule in RULES[1:]:
        cost = document[f"{rule}_minus_own"]
        accuracy, none_fit = cost["accuracy"], cost["none_fit"]
        print(
            f"  {rule} - own: accuracy {100 * accuracy['mean']:+.2f} points ({100 * accuracy['low']:+.2f} to "
            f"{100 * accuracy['high']:+.2f}), at a budget at most {100 * cost['largest_loss_at_a_budget']:+.2f}; none fits "
            f"{100 * none_fit['mean']:+.2f} ({100 * none_fit['low']:+.2f} to {100 * none_fit['high']:+.2f})",
            flush=True,
        )


def main() -> None:
    """Run every condition, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path, nargs="?")
    parser.add_argument("--calibrations", type=int, default=1200, help="a quarter of it for mixed requests")
    parser.add_argument("--scenario", help="this one alone; the figures of the others stay")
    arguments = parser.parse_args()
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if arguments.scenario and RESULTS.exists() else {}
    conditions: list[dict[str, Any]] = [
        row for row in known.get("synthetic", []) if row["scenario"] != arguments.scenario
    ]
    for name, (its_grid, misses) in scenarios(synthetic_grid()).items():
        if arguments.scenario not in (None, name):
            continue
        for kind in ("one", "mixed"):
            for calibrating in CALIBRATING if name in SIZED else CALIBRATING[1:2]:
                count = arguments.calibrations // (1 if kind == "one" else 4)
                budgets_ms, rows = synthetic_calibrations(its_grid, misses, calibrating, count, kind)
                found = figures(budgets_ms, list(rows))
                conditions.append({"scenario": name, "requests": kind, "calibrating": calibrating, **found})
                show(f"{name}, {kind}, {calibrating} calibrate", found)
    document: dict[str, Any] = known | {
        **provenance("sequence_rule.py"),
        "alpha": ALPHA,
        "confidence": CONFIDENCE,
        "synthetic": conditions,
    }
    if arguments.profile is not None:
        budgets_ms, rows, calibrating = profile_calibrations(arguments.profile, arguments.calibrations)
        document["profile"] = {"calibrating": calibrating, **figures(budgets_ms, list(rows))}
        show(f"profile, {calibrating} calibrate, as many judge", document["profile"])
    RESULTS.write_text(json.dumps(rounded(document)) + "\n")


if __name__ == "__main__":
    main()
