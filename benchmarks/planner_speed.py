"""Time one planned step at 0, 64, 1,024 and 4,096 waiting requests, for each policy.

    python benchmarks/planner_speed.py [--steps 2000] [--rounds 7]

Writes benchmarks/results/planner_speed.json. The load is synthetic: 64 decoding requests, two partly prefilled ones,
waiting prompts of lognormal length; each step costs what a host pays: the records of the requests that are looked at,
the plan with a time target, and, to hold the queue's length, one request pushed and one popped. Policies and lengths
take turns within a round, so that a slow spell of the machine falls on all alike.
"""

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path
from random import Random

from provenance import provenance

from paceline.schedule import (
    POLICIES,
    DecodeLoad,
    LinearStepTime,
    PlannerSettings,
    PolicyQueue,
    PrefillRequest,
    TraceRequest,
    plan_step,
    request_order,
)

WAITING = (0, 64, 1024, 4096)
DECODES = DecodeLoad(tokens=64, context_tokens=64 * 800)
MODEL = LinearStepTime(
    base_ms=4.0,
    per_decode_token_ms=0.02,
    per_decode_context_token_ms=1e-5,
    per_prefill_token_ms=0.02,
    per_prefill_attention_token_ms=2e-6,
)
RESULTS = Path(__file__).parent / "results" / "planner_speed.json"


def waiting_record(request: TraceRequest) -> PrefillRequest:
    """Return what the planner sees of a waiting request."""
    return PrefillRequest(
        request_id=request.request_id,
        queue_number=int(request.request_id[1:]),
        arrival_seconds=request.arrival_seconds,
        prompt_tokens=request.prompt_tokens,
        remaining_tokens=request.prompt_tokens,
    )


def synthetic_request(number: int, random: Random) -> TraceRequest:
    """Return a request with a prompt of lognormal length, median 400 tokens, and a burst's arrival time."""
    prompt_tokens = max(1, round(random.lognormvariate(6.0, 0.9)))
    return TraceRequest(
        request_id=f"r{number}", arrival_seconds=number / 200, prompt_tokens=prompt_tokens, output_tokens=100
    )


class Bench:
    """One queue of a fixed length under one policy, planned step after step."""

    def __init__(self, policy: str, waiting: int, seed: int) -> None:
        self.settings = PlannerSettings(
            policy=policy, chunk_size=1024, min_chunk_threshold=64, min_chunk_tokens=64, target_time_ms=22.0
        )
        order = request_order(policy, self.settings.weights)
        self.queue: PolicyQueue[TraceRequest] = PolicyQueue(lambda request: order(waiting_record(request)))
        self.random = Random(seed)
        self.number = 0
        for _ in range(waiting):
            self.queue.push(self.next_request())
        self.partial = [waiting_record(self.next_request()) for _ in range(2)]

    def next_request(self) -> TraceRequest:
        """Return the request that arrives next."""
        self.number += 1
        return synthetic_request(self.number, self.random)

    def steps_us(self, count: int) -> list[float]:
        """Plan `count` steps and return the time of each."""
        times_us: list[float] = []
        for _ in range(count):
            arriving = self.next_request()
            start = time.perf_counter_ns()
            if self.queue:
                self.queue.push(arriving)
                self.queue.pop()
            plan_step(
                settings=self.settings,
                decodes=DECODES,
                partial=self.partial,
                waiting=map(waiting_record, self.queue),
                room=190,
                step_time=MODEL,
            )
            times_us.append((time.perf_counter_ns() - start) / 1e3)
        return times_us


def main() -> None:
    """Time the steps, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="steps of each kind in a round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    kinds = list(product(POLICIES, WAITING))
    benches = {kind: Bench(*kind, seed=3407) for kind in kinds}
    times_us: dict[tuple[str, int], list[list[float]]] = {kind: [] for kind in kinds}
    for _ in range(arguments.rounds):
        for kind in kinds:
            times_us[kind].append(benches[kind].steps_us(arguments.steps))
    figures = {f"{policy} {waiting}": figures_of(times_us[policy, waiting]) for policy, waiting in kinds}
    for name, cells in figures.items():
        print(
            f"{name:>11} waiting: median {cells['median_us']:6.1f} µs a step, p95 {cells['p95_us']:6.1f} "
            f"(medians of rounds {cells['lowest_round_us']:.1f} to {cells['highest_round_us']:.1f})"
        )
    document = {
        **provenance("planner_speed.py"),
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "policies": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


def figures_of(rounds_us: list[list[float]]) -> dict[str, float]:
    """Return the median and 95th percentile over all steps, and the range of the rounds' medians."""
    steps_us = [each for round_us in rounds_us for each in round_us]
    medians_us = [statistics.median(round_us) for round_us in rounds_us]
    return {
        "median_us": statistics.median(steps_us),
        "p95_us": statistics.quantiles(steps_us, n=20, method="inclusive")[-1],
        "lowest_round_us": min(medians_us),
        "highest_round_us": max(medians_us),
    }


if __name__ == "__main__":
    main()
