"""Judge estimators of both settings, and the baselines, on held-out samples of a profile, over several splits.

    python benchmarks/estimator_accuracy.py PROFILE [--seeds 3407 1 2 3 4] [--settings fast reference]

Writes benchmarks/results/estimator_accuracy.json. For every seed the profile is parted anew by sample; everything is fitted
on the fit part and judged on the test part. Differences are paired by row, intervals (95 %) count samples.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import provenance

from paceline.fit.estimator.evaluation import evaluate_estimator, evaluation_document
from paceline.fit.estimator.rows import ESTIMATOR_COLUMNS
from paceline.fit.estimator.settings import SETTINGS
from paceline.fit.estimator.training import train_estimator
from paceline.profiles import Profile, Split, read_profile, split_samples

RESULTS = Path(__file__).parent / "results" / "estimator_accuracy.json"
HEADS = ("prefill", "decode")


def judged(profile: Profile, seed: int, name: str) -> dict[str, Any]:
    """Train with named settings on one split and return its evaluation, with the seconds that training took."""
    split = Split(seed=seed)
    parts = split_samples(profile.samples, split)
    start = time.perf_counter()
    trained = train_estimator(parts.fit, split=split, settings=replace(SETTINGS[name], seed=seed))
    seconds = time.perf_counter() - start
    document = evaluation_document(evaluate_estimator(trained.network, parts))
    steps = trained.epochs * int(str(trained.description.training["steps_an_epoch"]))
    return {"seed": seed, "seconds": seconds, "steps": steps, **document}


def report(name: str, runs: list[dict[str, Any]]) -> None:
    """Print the mean over splits of each error, of estimator and baselines, and how often the estimator is better."""
    print(f"settings {name}: {runs[0]['n']:,} held-out rows, {len(runs)} splits")
    columns = {"estimator": runs, **{each: [run["baselines"][each] for run in runs] for each in runs[0]["baselines"]}}
    for row, found in columns.items():
        print(f"  {row:<18}" + "  ".join(_head_words(found, head) for head in HEADS if found[0][head]))
    for each in runs[0]["baselines"]:
        for head in HEADS:
            gains = [run["baselines"][each]["estimator_minus_baseline"].get(head) for run in runs]
            if all(gains):
                means = [gain["mae_ms"] for gain in gains]
                sure = sum(gain["ci"][1] < 0 for gain in gains)
                worse = sum(gain["ci"][0] > 0 for gain in gains)
                print(
                    f"  {head} MAE − {each}: {statistics.mean(means):+.3f} ms ({min(means):+.3f} … {max(means):+.3f}); "
                    f"surely better in {sure}, surely worse in {worse} of {len(runs)} splits"
                )


def _head_words(found: list[dict[str, Any]], head: str) -> str:
    mae, rmse, relative = (
        statistics.mean(each[head][name] for each in found) for name in ("mae_ms", "rmse_ms", "relative_error")
    )
    return f"{head} MAE {mae:.3f} RMSE {rmse:.3f} ms, {100 * relative:.2f} %"


def main() -> None:
    """Judge every setting on every split, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3407, 1, 2, 3, 4])
    parser.add_argument("--settings", nargs="+", default=["fast", "reference"], choices=list(SETTINGS))
    arguments = parser.parse_args()
    profile = read_profile(arguments.profile, columns=ESTIMATOR_COLUMNS)
    settings: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.settings:
        settings[name] = [judged(profile, seed, name) for seed in arguments.seeds]
        report(name, settings[name])
    document = {
        **provenance("estimator_accuracy.py"),
        "devices": sorted({run.device for run in profile.provenance}),
        "models": sorted({run.model for run in profile.provenance}),
        "samples": len(profile.samples),
        "questions": profile.samples["sample_id"].n_unique(),
        "settings": settings,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
