"""How much of the distance from table to oracle a learned controller recovers: five splits, and question sets held out whole.

    python benchmarks/learned_controller.py PROFILE [--seeds 5] [--first-seed 10] [--only seeds|sets]

For every seed the samples are parted anew: an estimator and both learners are trained on one part, bounds calibrated on
another, and all controllers judged on the third at ten budgets. For every question set, everything is trained on the other
sets and judged on that one, once as controllers are (requests beyond training are left to the controller with bounds) and once
trusted with them (`…_trusted`). Each learner is trained twice: for the whole reward (`supervised`, `grpo`), and for accuracy
alone, its latency terms off (`supervised_accuracy`, `grpo_accuracy`). The parts of different
seeds overlap, for there is one profile: the spread over seeds is that of splitting. Writes
benchmarks/results/learned_controller.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from provenance import provenance

from paceline.analyze import dataset_names, default_budgets
from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.control.learned.controller import LearnedController
from paceline.control.learned.reward import Reward
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.evaluate import Evaluation, evaluate, evaluation_document
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.estimator.artifact import train_artifact
from paceline.fit.learned.artifact import CHOOSER_COLUMNS, ControllerSettings, WrittenController, train_controller
from paceline.fit.learned.data import chooser_parts
from paceline.fit.learned.grpo import GrpoLearner
from paceline.fit.learned.settings import ADVANTAGE_SCALES, GrpoSettings
from paceline.fit.learned.training import train_chooser
from paceline.profiles import Profile, Split, read_profile
from paceline.profiles.request_features import request_vectors

BY_SET = ("bound", "supervised_accuracy")
RESULTS = Path(__file__).parent / "results" / "learned_controller.json"
ACCURACY_ALONE = Reward(latency_weight=0.0, overshoot_weight=0.0)
TRAINED = {
    "supervised": ("supervised", Reward()),
    "supervised_accuracy": ("supervised", ACCURACY_ALONE),
    "grpo": ("grpo", Reward()),
    "grpo_accuracy": ("grpo", ACCURACY_ALONE),
}
SHOWN = (
    "table",
    "bound",
    *TRAINED,
    *(f"{name}_trusted" for name in TRAINED),
    "oracle_within_bound",
    "oracle",
)


def main() -> None:
    """Judge, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("profile", type=Path)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--first-seed", type=int, default=10)
    arguments.add_argument("--only", choices=("seeds", "sets"))
    asked = arguments.parse_args()
    profile = read_profile(asked.profile, columns=CHOOSER_COLUMNS)
    found: dict[str, Any] = {"profile": _described(profile), "seeds": [], "sets": []}
    if asked.only != "sets":
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            found["seeds"].append({"seed": seed, **_judged_split(profile, seed)})
            _print_case(f"seed {seed}", found["seeds"][-1])
    if asked.only != "seeds":
        for name in dataset_names(profile.samples):
            found["sets"].append({"held_out": name, **_judged_set(profile, name)})
            _print_case(f"held out {name}", found["sets"][-1])
    for which in ("seeds", "sets"):
        if found[which]:
            _print_over(which, found[which])
    RESULTS.write_text(json.dumps(provenance("learned_controller.py") | found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


def _described(profile: Profile) -> dict[str, Any]:
    run = profile.provenance[0]
    return {
        "model": run.model,
        "device": run.device,
        "samples": profile.samples.height,
        "requests": profile.samples.select("dataset", "sample_id").n_unique(),
        "torch_threads": run.settings.get("torch_threads"),
    }


def _judged_split(profile: Profile, seed: int) -> dict[str, Any]:
    split = Split(seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        written = train_artifact(profile, Path(folder) / "estimator", split=split)
        scales = _advantage_scales(profile, Path(folder) / "estimator", written.parts.fit, seed)
        return {**_judged(profile, Path(folder), written.parts.test, seed), "advantage_scales": scales}


def _advantage_scales(profile: Profile, estimator: Path, fit: pl.DataFrame, seed: int) -> dict[str, Any]:
    """Return what GRPO makes of the whole reward with advantages over the spread of the batch, and of the group."""
    parts = chooser_parts(
        fit,
        source=profile.source,
        model=NetworkEstimator.load(estimator),
        bounds=load_bounds(estimator),
        latency_kind="prefill",
        alpha=DEFAULT_ALPHA,
        seed=seed,
    )
    found: dict[str, Any] = {}
    for scale in ADVANTAGE_SCALES:
        learner = GrpoLearner(parts, GrpoSettings(advantage_scale=scale, seed=seed), Reward())
        curve = train_chooser(learner, "not kept").learning
        best = max(curve, key=lambda row: row["validation_reward"])
        found[scale] = {"start": curve[0], "best": best, "last": curve[-1]}
    return found


def _judged_set(profile: Profile, held_out: str) -> dict[str, Any]:
    is_held = pl.col("dataset").cast(pl.String) == held_out
    others = replace(profile, samples=profile.samples.filter(~is_held))
    with tempfile.TemporaryDirectory() as folder:
        train_artifact(others, Path(folder) / "estimator")
        return _judged(others, Path(folder), profile.samples.filter(is_held), 0, trusted_too=True)


def _judged(
    profile: Profile, folder: Path, test: pl.DataFrame, seed: int, *, trusted_too: bool = False
) -> dict[str, Any]:
    """Train both learners beside the estimator in `folder` and judge everything on `test`."""
    estimator = folder / "estimator"
    written = {
        name: train_controller(
            profile,
            estimator,
            folder / name,
            settings=ControllerSettings(learner=learner, reward=reward, latency_kind="prefill", seed=seed),
        )
        for name, (learner, reward) in TRAINED.items()
    }
    parts = next(iter(written.values())).parts
    controllers: dict[str, Controller] = {
        **{name: each for name, each in table_candidates(profile, parts).items() if not name.startswith("fixed_")},
        **estimator_candidates(NetworkEstimator.load(estimator), load_bounds(estimator)),
        **{name: LearnedController.load(folder / name) for name in TRAINED},
    }
    if trusted_too:
        for name in TRAINED:
            controllers[f"{name}_trusted"] = LearnedController.load(folder / name, trust_outside=True)
    evaluation = evaluate(
        test,
        controllers,
        budgets_ms=default_budgets(parts.fit, "prefill").budgets_ms,
        vectors=request_vectors(test, profile.source),
    )
    return {
        "fit_requests": next(iter(written.values())).description.num_requests,
        "judged_requests": evaluation.num_requests,
        "training": {name: _training(each) for name, each in written.items()},
        "summary": {name: _summary(name, evaluation) for name in SHOWN if name in evaluation.controllers},
        "decision_us": {name: asdict(times) for name, times in evaluation.decision_times.items()},
        "evaluation": _short(evaluation_document(evaluation)),
    }


def _short(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the summary tells or nobody reads: every budget's figures stay, knobs by question set for two alone."""
    rows = {
        name: [
            {key: value for key, value in row.items() if not key.startswith("configs") or name in BY_SET}
            for row in each
        ]
        for name, each in document["controllers"].items()
        if name in SHOWN
    }
    return {"budgets": document["budgets"], "controllers": rows}


def _training(written: WrittenController) -> dict[str, float]:
    return {
        "seconds": written.seconds,
        "steps_per_second": written.steps_per_second,
        "rewards_per_second": written.rewards_per_second,
        "model_requests_per_second": written.model_requests_per_second,
        "best_step": max(written.description.learning, key=lambda row: -row["validation_loss"])["step"],
    }


def _summary(name: str, evaluation: Evaluation) -> dict[str, Any]:
    possible = [place for place, within in enumerate(evaluation.within_possible) if within]
    rows = [evaluation.controllers[name][place] for place in possible]
    found: dict[str, Any] = {
        "budgets": len(possible),
        "accuracy": float(np.mean([row.accuracy.mean for row in rows])),
        "adherence": float(np.mean([row.adherence.share for row in rows])),
        "mean_latency_ms": float(np.mean([row.mean_latency_ms for row in rows])),
    }
    found["refused"] = sum(row.refused for row in rows) / sum(row.adherence.count for row in rows)
    learned = evaluation.learned.get(name)
    if name == "bound":
        found["table_equal_adherence to oracle"] = _of_bound(evaluation, possible)
    if learned is None:
        return found
    for each in learned.recovered:
        overall = each.overall
        if overall is not None and overall.share is not None:
            ends = None if overall.interval is None else [overall.interval.low, overall.interval.high]
            found[f"{_word(each.base)} to {each.best}"] = {
                "share": overall.share,
                "interval": ends,
                "gain": overall.gain.difference,
                "gain_interval": [overall.gain.interval.low, overall.gain.interval.high],
                "distance": overall.distance,
            }
    kept = learned.adherence_minus_bound
    if kept is not None:
        found["adherence_minus_bound"] = [kept.difference, kept.interval.low, kept.interval.high]
    return found


def _of_bound(evaluation: Evaluation, possible: Sequence[int]) -> dict[str, Any]:
    """Return what the controller with bounds itself recovers; without learning, there is no more to it than latencies."""
    mean = {
        name: float(np.mean([evaluation.controllers[name][place].accuracy.mean for place in possible]))
        for name in ("bound", "table_equal_adherence", "oracle")
    }
    gain, distance = mean["bound"] - mean["table_equal_adherence"], mean["oracle"] - mean["table_equal_adherence"]
    return {"share": gain / distance, "interval": None, "gain": gain, "distance": distance}


def _word(base: str) -> str:
    return "table_equal_adherence" if base.startswith("table_equal_adherence") else base


def _print_case(title: str, case: dict[str, Any]) -> None:
    print(f"\n{title}: {case['fit_requests']} requests to learn from, {case['judged_requests']} judged")
    for name, row in case["summary"].items():
        print(f"  {name:22s} accuracy {row['accuracy']:.4f}  kept {row['adherence']:.4f}", end="")
        for key, cells in row.items():
            if isinstance(cells, dict):
                ends = cells["interval"]
                told = "" if ends is None else f" ({ends[0]:+.2f} to {ends[1]:+.2f})"
                print(
                    f"  | {key} {cells['share']:+.3f}{told} {100 * cells['gain']:+.2f} of {100 * cells['distance']:.2f}",
                    end="",
                )
        print(flush=True)
    for scale, rows in case.get("advantage_scales", {}).items():
        told = (
            f"{at} {rows[at]['validation_reward']:.4f}, accuracy {rows[at]['validation_accuracy']:.4f}" for at in rows
        )
        print(f"  advantages over the {scale}'s spread, held-back reward: {'; '.join(told)}")
    for name, row in case["training"].items():
        factor = row["rewards_per_second"] / row["model_requests_per_second"]
        print(
            f"  {name:22s} {row['seconds']:.1f} s, {row['steps_per_second']:.0f} steps/s, {row['rewards_per_second']:,.0f} "
            f"rewards/s: {factor:,.0f} times running the model"
        )


def _print_over(title: str, cases: Sequence[dict[str, Any]]) -> None:
    print(f"\nover {len(cases)} {title}: mean (smallest to largest)")
    for name in ("bound", *(each for each in SHOWN if each.split("_")[0] in ("supervised", "grpo"))):
        if name not in cases[0]["summary"]:
            continue
        for key in cases[0]["summary"][name]:
            shares = [cells["share"] for case in cases if isinstance(cells := case["summary"][name].get(key), dict)]
            if shares:
                print(
                    f"  {name:22s} {key:38s} {statistics.fmean(shares):+.3f} ({min(shares):+.3f} to {max(shares):+.3f})"
                )
        if name == "bound":
            continue
        kept = [case["summary"][name]["adherence_minus_bound"][0] for case in cases]
        print(
            f"  {name:22s} adherence minus bound's {statistics.fmean(kept):+.4f} ({min(kept):+.4f} to {max(kept):+.4f})"
        )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.0f} s")
