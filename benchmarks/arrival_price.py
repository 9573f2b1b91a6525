"""What a price by arrivals is worth beside fixed prices a second, over loads, on two models: simulated.

    python benchmarks/arrival_price.py [--trace AzureLLMInferenceTrace_conv.csv] [--seeds 20] [--requests 400] [--workers 2]

Writes benchmarks/results/arrival_price.json. `simulated` is the model of `under_load.py`, on the first half of the trace, which
its own figures are not taken from. `wide` is the model that `vllm_under_load.py` measured in vLLM: its table, step-time model, T0
and rate, with requests drawn for it. Value is accuracy where the budget was kept and 0 where it was missed, per request with a
budget; differences are to the price by arrivals that servers have, on the same stretches, with Student's 95 % half width.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import under_load
from load_scenes import World
from measured_engine import drawn, tuning_of
from provenance import provenance

from paceline.control.work_price import PriceSettings
from paceline.schedule import LoadSettings
from paceline.serving.pricing import PER_ARRIVAL, price_settings
from paceline.tune.price import best_for_all
from paceline.tune.student import t_half_width

RESULTS = Path(__file__).parent / "results"
LOADS = (0.1, 0.3, 0.5, 0.8, 1.2, 1.8, 3.0)
PRICES = (0.0, 0.06, 0.12, PER_ARRIVAL, 0.5, 1.0)
FLOORS_T0 = (0.07, 0.3, 0.6)  # accuracy that T0 of prefill must bring, whoever arrives
KINDS = [("arrivals", each) for each in PRICES] + [("floor", each) for each in FLOORS_T0]
Kind = tuple[str, float]


def priced(kind: Kind, t0_seconds: float) -> PriceSettings:
    """Return the settings of a kind of price."""
    name, value = kind
    if name == "arrivals":
        return price_settings(t0_seconds, per_arrival=value)
    return price_settings(t0_seconds, floor=value / t0_seconds, per_arrival=0.0)


def of_simulated(job: tuple[float, Kind, int], *, campaign: under_load.Campaign) -> float:
    """Return the value of a price on one stretch of the tuning half."""
    load, kind, seed = job
    (found,) = [each for each in campaign.jobs((load,), held_out=False) if each.seed == seed]
    return under_load.valued(found, settings=LoadSettings(price=priced(kind, campaign.t0)))[1]


def of_wide(job: tuple[float, Kind, int], *, measured: Mapping[str, Any], requests: int) -> float:
    """Return the value of a price on one stretch of the model that was measured in vLLM."""
    load, (name, value), seed = job
    tuning = tuning_of(measured, alpha=0.1)
    if name == "floor":
        tuning = replace(tuning, floor=value / (measured["t0_ms"] / 1e3))
    stretch = drawn(measured, load, requests=requests, seed=seed)
    return tuning.chosen(stretch, value if name == "arrivals" else 0.0).value


def compared(values: Mapping[Kind, Sequence[float]]) -> list[dict[str, Any]]:
    """Return means, and differences to the price that servers have."""
    own = values["arrivals", PER_ARRIVAL]
    rows: list[dict[str, Any]] = []
    for (name, value), found in values.items():
        differences = [each - ours for each, ours in zip(found, own, strict=True)]
        rows.append(
            {
                "price": name,
                "of": value,
                "value": mean(found),
                "less_ours": mean(differences),
                "half_width": t_half_width(differences),
            }
        )
    return rows


def show(name: str, loads: Mapping[str, Any]) -> None:
    """Print a table of one model."""
    print(f"\n{name}\n\n| load | " + " | ".join(f"{kind} {value:g}" for kind, value in KINDS) + " | best for all |")
    print("|---" * (len(KINDS) + 2) + "|")
    for load, found in loads.items():
        cells = [f"{row['value']:.3f} ({row['less_ours']:+.3f} ± {row['half_width']:.3f})" for row in found["prices"]]
        print(f"| {float(load):.0%} | " + " | ".join(cells) + f" | {found.get('best_for_all', '–')} |")


def main() -> None:
    """Simulate both models, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS / "arrival_price.json")
    arguments = parser.parse_args()
    world = under_load.WORLD["it"] = World.load(arguments.trace)
    t0 = under_load.alone_t0(world)
    rate = under_load.rate_at_p95(world, t0, chunk_size=under_load.CHUNK)
    campaign = under_load.Campaign(seeds=arguments.seeds, requests=arguments.requests, t0=t0, rate=rate, map=map)
    measured = json.loads((RESULTS / "vllm_under_load.json").read_text())["models"]["wide"]
    models: dict[str, Any] = {"simulated": {}, "wide": {}}
    value_of = {
        "simulated": partial(of_simulated, campaign=campaign),
        "wide": partial(of_wide, measured=measured, requests=arguments.requests),
    }
    with get_context("fork").Pool(arguments.workers) as pool:
        for load, (name, function) in product(LOADS, value_of.items()):
            jobs = [(load, kind, seed) for kind, seed in product(KINDS, range(arguments.seeds))]
            found = iter(pool.map(function, jobs, chunksize=1))
            values = {kind: [next(found) for _ in range(arguments.seeds)] for kind in KINDS}
            models[name][str(load)] = {"prices": compared(values)}
            print(f"{load:.0%} of {name} done", flush=True)
    for load in LOADS:
        stretches = [drawn(measured, load, requests=arguments.requests, seed=seed) for seed in range(arguments.seeds)]
        way, served = best_for_all(tuning_of(measured, alpha=0.1), stretches)
        models["wide"][str(load)]["best_for_all"] = f"{way.config.key}: {mean(each.value for each in served):.3f}"
    for name, loads in models.items():
        show(name, loads)
    document = {
        **provenance("arrival_price.py"),
        "simulated": True,
        "synthetic": arguments.trace is None,
        "default": PER_ARRIVAL,
        "models": models,
    }
    arguments.results.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
