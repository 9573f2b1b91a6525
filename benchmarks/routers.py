"""Which router keeps most promises over several equal engines, in virtual time.

    python benchmarks/routers.py [--requests 2000] [--seeds 8]

Poisson arrivals and lognormal lengths (synthetic), four engines, budgets of 0.5, 1 and 3 seconds in turn. Offered are
shares of the load that four engines serve at once. Step times are those that benchmarks/under_load.py fits on Vidur's
tables. No clock is read: the same seeds give the same figures anywhere. Writes benchmarks/results/routers.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from paceline.schedule import LinearStepTime, PlannerSettings
from paceline.simulate import ROUTERS, LinearCost, RequestColumns, SimulatedEngine, simulate_replicas
from paceline.slo import mean_estimate

RESULTS = Path(__file__).parent / "results" / "routers.json"
FITTED = Path(__file__).parent / "results" / "under_load.json"
ENGINES, BUDGETS_S = 4, (0.5, 1.0, 3.0)
SHARES = (0.6, 0.8, 0.95, 1.1)  # of the load that saturates the engines
PROMPT_TOKENS, OUTPUT_TOKENS = 1200, 60  # medians


def load_of(seed: int, requests: int, rate: float) -> RequestColumns:
    """Return a load with `rate` requests a second."""
    random = np.random.default_rng(seed)
    return RequestColumns(
        arrival_seconds=np.cumsum(random.exponential(1 / rate, requests)),
        prompt_tokens=np.clip(random.lognormal(np.log(PROMPT_TOKENS), 0.8, requests), 16, 16_000).astype(np.int64),
        output_tokens=np.clip(random.lognormal(np.log(OUTPUT_TOKENS), 0.6, requests), 2, 500).astype(np.int64),
        ttft_budget_seconds=np.resize(BUDGETS_S, requests),
    )


def kept(load: RequestColumns, engine: SimulatedEngine, cost: LinearCost, router: str) -> float:
    """Return the share of requests whose first token came within its budget."""
    runs = simulate_replicas(load, engine, cost, replicas=ENGINES, router=router, with_steps=False)
    within = [each.run.first_token_seconds - each.run.load.arrival_seconds <= each.run.load.budgets for each in runs]
    return float(np.concatenate(within).mean())


def saturating_rate(engine: SimulatedEngine, cost: LinearCost, requests: int) -> float:
    """Return the requests a second that one engine finishes when all are there at once, times the engines."""
    load = load_of(0, requests, 1e6)
    runs = simulate_replicas(load, engine, cost, replicas=1, with_steps=False)
    return ENGINES * requests / float(runs[0].run.completion_seconds.max())


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=8)
    given = parser.parse_args()
    step_time = json.loads(FITTED.read_text())["assumed"]["step_time"]
    cost = LinearCost(LinearStepTime(**step_time))
    planner = PlannerSettings(chunk_size=2048, policy="edf")
    engine = SimulatedEngine(rules="paceline", planner=planner, max_num_seqs=128, num_blocks=20_000)
    rate = saturating_rate(engine, cost, given.requests)
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        loads = [load_of(seed, given.requests, share * rate) for seed in range(1, given.seeds + 1)]
        for router in ROUTERS:
            shares = [kept(load, engine, cost, router) for load in loads]
            estimate = mean_estimate(shares)
            interval = estimate.interval()
            assert interval is not None
            rows.append(
                {
                    "load": share,
                    "router": router,
                    "kept": estimate.mean,
                    "low": interval.low,
                    "high": min(1.0, interval.high),
                }
            )
            print(
                f"{share:.0%} {router:22} {estimate.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})", flush=True
            )
    document = {
        **provenance("routers.py"),
        "simulated": True,
        "synthetic": True,
        "engines": ENGINES,
        "budgets_seconds": BUDGETS_S,
        "requests": given.requests,
        "seeds": given.seeds,
        "policy": planner.policy,
        "assumed_step_time": step_time,
        "saturating_requests_per_second": rate,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
