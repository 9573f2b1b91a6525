"""Train an estimator on a synthetic profile of the reference run's size: default settings against the reference ones.

    python benchmarks/estimator_training.py [--samples 1638588] [--kinds crops distinct] [--settings fast reference]

Writes benchmarks/results/estimator_training.json: seconds, held-out errors, and the paired difference of |error| with a 95 %
interval over samples. The data are synthetic (benchmarks/estimator_profiles.py); `truth` is the error of the noise-free
latency itself, which nothing can beat. Times hold on an idle machine only. The reference settings take some 15 minutes a
profile of full size on two cores.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from estimator_profiles import REFERENCE_SAMPLES, generated, true_ms
from numpy.typing import NDArray
from provenance import provenance

from paceline.fit.estimator.evaluation import sample_mean
from paceline.fit.estimator.rows import LatencyRows, decode_definition_of, latency_rows
from paceline.fit.estimator.settings import SETTINGS
from paceline.fit.estimator.training import train_estimator
from paceline.profiles import SampleParts, Split, split_samples

RESULTS = Path(__file__).parent / "results" / "estimator_training.json"

Floats = NDArray[np.float64]


def trained(parts: SampleParts, rows: LatencyRows, name: str) -> tuple[float, Floats]:
    """Return the seconds that training took, and the milliseconds predicted for the held-out rows."""
    start = time.perf_counter()
    network = train_estimator(parts.fit, split=Split(), settings=SETTINGS[name]).network
    seconds = time.perf_counter() - start
    return seconds, np.column_stack(network.estimate_rows(rows.features_NF))


def truth(rows: LatencyRows) -> Floats:
    """Return the noise-free latencies of the held-out rows."""
    vision, text = rows.features_NF[:, 0], rows.features_NF[:, 1]
    columns = np.empty_like(rows.measured_ms_NK)
    for knobs in np.unique(rows.features_NF[:, 3:], axis=0):
        chosen = (rows.features_NF[:, 3:] == knobs).all(axis=1)
        found = true_ms(vision[chosen], text[chosen], int(knobs[0]), int(knobs[1]))
        columns[chosen] = np.column_stack(found)
    return columns


def errors(rows: LatencyRows, predicted_NK: Floats) -> dict[str, dict[str, float]]:
    """Return MAE, RMSE and mean relative error of both latencies."""
    found: dict[str, dict[str, float]] = {}
    for head, name in enumerate(("prefill", "decode")):
        known = rows.weight_NK[:, head] > 0
        error, measured = (predicted_NK - rows.measured_ms_NK)[known, head], rows.measured_ms_NK[known, head]
        found[name] = {
            "mae_ms": float(np.abs(error).mean()),
            "rmse_ms": float(np.sqrt((error**2).mean())),
            "relative_error": float((np.abs(error) / measured).mean()),
        }
    return found


def compared(kind: str, total: int, settings: list[str]) -> dict[str, Any]:
    """Train with each of the settings on one profile, print and return the figures."""
    parts = split_samples(generated(kind, total), Split())
    rows = latency_rows(parts.test, decode_definition_of(parts.fit))
    sample_N = parts.test["sample_id"].cast(pl.Int64).to_numpy()
    figures: dict[str, Any] = {"fit_rows": parts.fit.height, "test_rows": parts.test.height}
    figures["truth"] = errors(rows, truth(rows))
    predicted: dict[str, Floats] = {}
    for name in settings:
        seconds, predicted[name] = trained(parts, rows, name)
        figures[name] = {"seconds": seconds, **errors(rows, predicted[name])}
        report(kind, name, figures[name], figures["truth"])
    if len(settings) == 2:
        first, second = (np.abs(predicted[name] - rows.measured_ms_NK) for name in settings)
        for head, name in enumerate(("prefill", "decode")):
            known = rows.weight_NK[:, head] > 0
            mean, interval = sample_mean((first - second)[known, head], sample_N[known])
            assert interval is not None
            figures[f"{name}_mae_difference_ms"] = [mean, interval.low, interval.high]
            print(
                f"{kind}: {name} MAE {settings[0]} − {settings[1]}: {mean:+.4f} ms ({interval.low:+.4f} … {interval.high:+.4f})"
            )
    return figures


def report(kind: str, name: str, figures: dict[str, Any], best: dict[str, Any]) -> None:
    """Print one line: seconds and errors, with the noise-free errors beside them."""
    shown = ", ".join(
        f"{head} MAE {figures[head]['mae_ms']:.3f} ms (truth {best[head]['mae_ms']:.3f}), "
        f"{100 * figures[head]['relative_error']:.2f} %"
        for head in ("prefill", "decode")
    )
    print(f"{kind}, {name}: {figures['seconds']:.1f} s; {shown}", flush=True)


def main() -> None:
    """Train, compare, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=REFERENCE_SAMPLES)
    parser.add_argument("--kinds", nargs="+", default=["crops", "distinct"])
    parser.add_argument("--settings", nargs="+", default=["fast", "reference"], choices=list(SETTINGS))
    arguments = parser.parse_args()
    document = {
        **provenance("estimator_training.py"),
        "data": "synthetic: 27 configurations, noise of 4 % a row and 2 % a sample",
        "samples": arguments.samples,
        "kinds": {kind: compared(kind, arguments.samples, arguments.settings) for kind in arguments.kinds},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
