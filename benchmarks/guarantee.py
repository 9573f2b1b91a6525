"""Whether bounds keep their promise, and what it costs: many splits of one profile, ten budgets each.

    python benchmarks/guarantee.py PROFILE [--seeds 40] [--network-seeds 3] [--latency prefill] [--alpha 0.05]

For every seed the samples are parted anew: a latency model is fitted on one part, bounds are calibrated on another, and
controllers are judged on the third. `linear` is a least-squares line a configuration, cheap enough for many seeds;
`network` is the estimator that `paceline estimator train` trains. The parts of different seeds overlap, for there is one
profile: the spread over seeds is that of splitting, not of measuring anew. Latencies are slowed down by 20 % in the midst
of a stream of held-out requests to see how fast the drift correction makes up for it. Writes
benchmarks/results/guarantee.json.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from provenance import provenance

from paceline.analyze import default_budgets, latency_of
from paceline.control.estimated import BoundController
from paceline.errors import PacelineWarning
from paceline.estimate.latency_model import LatencyEstimates, LatencyModel
from paceline.evaluate import Evaluation, evaluate
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds
from paceline.fit.estimator.training import train_estimator
from paceline.profiles import CONFIGURATION, Profile, SampleParts, Split, read_profile, split_samples
from paceline.profiles.requests import measured_requests
from paceline.records import KnobConfig, LatencyKind, RequestFeatures

RESULTS = Path(__file__).parent / "results" / "guarantee.json"
JUDGED = ("bound", "point", "table", "dataset_tables", "table_equal_adherence", "oracle")
SLOWER = 1.2
PHASE = 1500
SETTLED = 500
RIDGE = 1e-3


class LinearModel:
    """Prefill by least squares on image and text tokens, a line a configuration; decode by its mean."""

    def __init__(self, fit: pl.DataFrame) -> None:
        lines: dict[KnobConfig, tuple[float, ...]] = {}
        for (tier, top_k, blocks), rows in fit.with_columns(pl.col("tier").cast(pl.String)).group_by(CONFIGURATION):
            knobs: dict[str, Any] = {"tier": tier, "top_k": top_k, "num_active_blocks": blocks}
            lines[KnobConfig(**knobs)] = _line(rows)
        self.configs = tuple(sorted(lines, key=lambda config: config.size))
        self._lines_CW = np.array([lines[config] for config in self.configs])

    def estimate(self, features: RequestFeatures) -> LatencyEstimates:
        """Return the latencies of every configuration; nothing is ever outside."""
        vision_C = np.array([features.vision_tokens[config.tier] for config in self.configs], dtype=float)
        base_C, per_image_token_C, per_text_token_C, decode_C = self._lines_CW.T
        prefill_C = base_C + per_image_token_C * vision_C + per_text_token_C * features.text_tokens
        return LatencyEstimates(prefill_ms_C=prefill_C, decode_per_token_ms_C=decode_C, outside=())


def _line(rows: pl.DataFrame) -> tuple[float, ...]:
    columns = (pl.lit(1.0).alias("one"), "actual_vision_tokens", "actual_text_tokens")
    inputs_NI = rows.select(columns).to_numpy().astype(float)
    measured_N = rows.select(latency_of("prefill")).to_series().to_numpy()
    products_II = inputs_NI.T @ inputs_NI + np.diag([0.0, RIDGE, RIDGE])
    decode = rows["T_decode_per_token"].mean()
    return *np.linalg.solve(products_II, inputs_NI.T @ measured_N).tolist(), float(cast(float, decode or 0.0))


def network(profile: Profile, parts: SampleParts, split: Split) -> LatencyModel:
    """Train the network on the fit part."""
    return train_estimator(parts.fit, split=split, provenance=profile.provenance).network


def linear(profile: Profile, parts: SampleParts, split: Split) -> LatencyModel:
    """Fit the lines on the fit part."""
    del profile, split
    return LinearModel(parts.fit)


MODELS: dict[str, Callable[[Profile, SampleParts, Split], LatencyModel]] = {"linear": linear, "network": network}


def judged(
    profile: Profile, seed: int, name: str, alpha: float, kind: LatencyKind
) -> tuple[Evaluation, dict[str, list[bool]]]:
    """Return the evaluation of one split, and what the drift correction made of a slowdown on its held-out requests."""
    split = Split(seed=seed)
    parts = split_samples(profile.samples, split)
    model = MODELS[name](profile, parts, split)
    bounds = calibrate_bounds(model, parts)
    budgets_ms = default_budgets(parts.fit, kind).budgets_ms
    controllers = {
        **table_candidates(profile, parts, latency_kind=kind),
        **estimator_candidates(model, bounds, alpha=alpha, latency_kind=kind),
    }
    evaluation = evaluate(parts.test, controllers, budgets_ms=budgets_ms, latency_kind=kind, alpha=alpha)
    streams = {
        corrected: _stream(
            BoundController(model=model, bounds=bounds, alpha=alpha, latency_kind=kind),
            parts,
            budgets_ms,
            corrected,
            seed,
        )
        for corrected in ("corrected", "uncorrected")
    }
    return evaluation, streams


def _stream(
    controller: BoundController, parts: SampleParts, budgets_ms: Sequence[float], corrected: str, seed: int
) -> list[bool]:
    """Return, request by request, whether the bound was kept: at first as profiled, then slower, then as profiled."""
    requests = measured_requests(parts.test, latency_of(controller.latency_kind))
    requests = requests.only(requests.complete)
    column = {config: place for place, config in enumerate(requests.configs)}
    random = np.random.default_rng(seed)
    kept: list[bool] = []
    for step in range(3 * PHASE):
        row = int(random.integers(len(requests.names)))
        # ample budgets: a slowed-down machine must still have something that fits
        budget_ms = SLOWER * float(random.choice(np.asarray(budgets_ms)))
        decision = controller.predict(budget_ms, features=requests.features[row])
        speed = SLOWER if PHASE <= step < 2 * PHASE else 1.0
        measured_ms = speed * float(requests.latency_ms_RC[row, column[decision.config]])
        kept.append(measured_ms <= cast(float, decision.bound_ms))
        if corrected == "corrected":
            controller.observe(decision, measured_ms)
    return kept


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, smallest, 5th and 95th percentile and largest over seeds."""
    p5, p95 = np.percentile(values, [5, 95]).tolist()
    return {"mean": float(np.mean(values)), "min": min(values), "p5": p5, "p95": p95, "max": max(values)}


def by_budget(evaluations: Sequence[Evaluation], name: str) -> list[dict[str, Any]]:
    """Return one controller's adherence and accuracy over seeds, a row a budget, where some configuration can keep it."""
    rows: list[dict[str, Any]] = []
    for place in range(len(evaluations[0].budgets_ms)):
        possible = [each for each in evaluations if each.within_possible[place]]
        figures = [each.controllers[name][place] for each in possible]
        if figures:
            rows.append(
                {
                    "mean_budget_ms": float(np.mean([each.budget_ms for each in figures])),
                    "seeds_possible": len(figures),
                    "adherence": spread([each.adherence.share for each in figures]),
                    "accuracy": spread([each.accuracy.mean for each in figures]),
                    "none_fit": sum(each.none_fit for each in figures) / sum(each.adherence.count for each in figures),
                }
            )
    return rows


def over_all(evaluations: Sequence[Evaluation], name: str) -> dict[str, Any]:
    """Return one controller over all seeds and possible budgets, and how often it is shown to fall short."""
    alpha = evaluations[0].alpha
    figures = [
        row
        for each in evaluations
        for row, possible in zip(each.controllers[name], each.within_possible, strict=True)
        if possible
    ]
    return {
        "adherence": spread([row.adherence.share for row in figures]),
        "accuracy": float(np.mean([row.accuracy.mean for row in figures])),
        "rows": len(figures),
        "rows_below_promise": sum(row.adherence.share < 1 - alpha for row in figures),
        "rows_whose_interval_is_below_promise": sum(row.adherence.interval().high < 1 - alpha for row in figures),
    }


def given_up(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return the accuracy that the bound gives up against the table scaled to its adherence, a value a seed."""
    prices = [each.scaled_table.overall for each in evaluations if each.scaled_table is not None]
    known = [price for price in prices if price is not None]
    return {
        **spread([price.difference for price in known]),
        "seeds": len(known),
        "seeds_above_2_points": sum(price.difference > 0.02 for price in known),
    }


def drift(streams: Sequence[dict[str, list[bool]]]) -> dict[str, dict[str, float]]:
    """Return the share of kept bounds in each phase, settled and not, with the correction and without."""
    phases = {"before": 0, "slower": PHASE, "recovered": 2 * PHASE}
    found: dict[str, dict[str, float]] = {}
    for corrected in streams[0]:
        kept_ST = np.array([each[corrected] for each in streams])
        for phase, start in phases.items():
            settled = kept_ST[:, start + SETTLED : start + PHASE].mean()
            found.setdefault(corrected, {})[f"{phase}, first {SETTLED}"] = float(
                kept_ST[:, start : start + SETTLED].mean()
            )
            found[corrected][f"{phase}, settled"] = float(settled)
    return found


def show(name: str, document: dict[str, Any], alpha: float) -> None:
    """Print the figures of one latency model."""
    print(f"\n{name}: {document['seeds']} seeds, {document['seconds']:.0f} s")
    for controller, figures in document["controllers"].items():
        kept = figures["adherence"]
        print(
            f"{controller:>22}  kept {kept['mean']:.4f} (p5 {kept['p5']:.3f}, min {kept['min']:.3f})  accuracy "
            f"{figures['accuracy']:.4f}  {figures['rows_below_promise']} of {figures['rows']} rows below {1 - alpha:g}, "
            f"{figures['rows_whose_interval_is_below_promise']} with their whole interval"
        )
    print("bound, mean over seeds at each budget (of the seeds where some configuration can keep it):")
    for row in document["budgets"]["bound"]:
        kept = row["adherence"]
        print(
            f"  {row['mean_budget_ms']:8.2f} ms  kept {kept['mean']:.4f} (p5 {kept['p5']:.3f}, min {kept['min']:.3f})  "
            f"accuracy {row['accuracy']['mean']:.4f}  none fits {row['none_fit']:.3f}  {row['seeds_possible']} seeds"
        )
    price = document["given_up"]
    print(
        f"given up against the table at equal adherence: {100 * price['mean']:+.2f} points (p5 {100 * price['p5']:+.2f}, "
        f"p95 {100 * price['p95']:+.2f}, max {100 * price['max']:+.2f}; above 2 points: {price['seeds_above_2_points']})"
    )
    for corrected, shares in document["drift"].items():
        print(f"20 % slower, {corrected}: " + "  ".join(f"{phase} {share:.3f}" for phase, share in shares.items()))


def main() -> None:
    """Judge every seed, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--network-seeds", type=int, default=3)
    parser.add_argument("--latency", default="prefill")
    parser.add_argument("--alpha", type=float, default=0.05)
    arguments = parser.parse_args()
    profile = read_profile(arguments.profile)
    models: dict[str, Any] = {}
    for name, count in (("linear", arguments.seeds), ("network", arguments.network_seeds)):
        if count:
            models[name] = _measured(profile, name, count, arguments.alpha, arguments.latency)
            show(name, models[name], arguments.alpha)
    document = {
        **provenance("guarantee.py"),
        "profiled_on": sorted({run.device for run in profile.provenance}),
        "requests": profile.samples.select("dataset", "sample_id").n_unique(),
        "latency_kind": arguments.latency,
        "alpha": arguments.alpha,
        "models": models,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


def _measured(profile: Profile, name: str, count: int, alpha: float, kind: LatencyKind) -> dict[str, Any]:
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)  # what nothing fits is counted
        found = [judged(profile, seed, name, alpha, kind) for seed in range(count)]
    evaluations = [evaluation for evaluation, _ in found]
    return {
        "seeds": count,
        "seconds": time.perf_counter() - started,
        "controllers": {each: over_all(evaluations, each) for each in JUDGED},
        "budgets": {each: by_budget(evaluations, each) for each in JUDGED},
        "given_up": given_up(evaluations),
        "drift": drift([streams for _, streams in found]),
    }


if __name__ == "__main__":
    main()
