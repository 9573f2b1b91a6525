"""Several engines behind a router: who serves which request, decided when it arrives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.simulate.choosing import Choices
from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.load import Integers, RequestColumns
from paceline.simulate.result import SimulatedRun
from paceline.simulate.routers import ROUND_ROBIN, ROUTERS, RoutedRequest
from paceline.simulate.simulation import (
    FAST,
    PausableRun,
    opened_simulation,
    require_factors_count,
    simulate,
)
from paceline.simulate.step_work import StepCost


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplicaRun:
    """What one engine served: the indexes of its requests in the whole load, and its run."""

    requests: Integers
    run: SimulatedRun


def simulate_replicas(
    load: RequestColumns,
    engine: SimulatedEngine,
    cost: StepCost,
    *,
    replicas: int = 1,
    router: str = ROUND_ROBIN,
    computed_by: str = FAST,
    with_steps: bool = True,
    choices: Choices | None = None,
) -> list[ReplicaRun]:
    """Serve a load by so many equal engines; one that gets no request is left out.

    `round_robin` takes turns. `least_outstanding` chooses the engine with the fewest requests in its waiting queue, the
    first among equals, as Vidur does. `least_predicted_ttft` takes the one of which `predicted_ttft_seconds` is least.
    The router comes before the choice among candidates, of which it takes the first; the chooser sees its engine alone.
    Raises what `simulate` raises, and UnknownChoiceError for a router that does not exist.
    """
    if replicas < 1:
        raise InvalidValueError("replicas", replicas, "at least 1")
    if router not in ROUTERS:
        raise UnknownChoiceError("router", router, tuple(ROUTERS))

    def served(part: RequestColumns, choices: Choices | None) -> SimulatedRun:
        return simulate(part, engine, cost, computed_by=computed_by, with_steps=with_steps, choices=choices)

    if replicas == 1:
        return [ReplicaRun(requests=np.arange(len(load)), run=served(load, choices))]
    if router == ROUND_ROBIN and choices is None:
        parts = [np.arange(first, len(load), replicas) for first in range(min(replicas, len(load)))]
        return [ReplicaRun(requests=part, run=served(load.part(part), None)) for part in parts]
    require_factors_count(load, cost, choices)
    logged = with_steps or choices is not None
    runs = [
        opened_simulation(engine, cost, size=len(load), computed_by=computed_by, with_steps=logged)
        for _ in range(replicas)
    ]

    def route(request: RoutedRequest) -> int:
        return ROUTERS[router](runs, engine, cost, request)

    finished = _routed(load, runs, route, choices)
    return finished if with_steps else [replace(each, run=replace(each.run, steps=None)) for each in finished]


def _routed(
    load: RequestColumns,
    runs: Sequence[PausableRun],
    route: Callable[[RoutedRequest], int],
    choices: Choices | None,
) -> list[ReplicaRun]:
    """Let the requests arrive one by one, each at the engine of the router's choice."""
    parts: list[list[int]] = [[] for _ in runs]
    chosen: list[list[int]] = [[] for _ in runs]
    for index, row in enumerate(load.rows()):
        arrival, prompt, _, factor, budget = row
        if choices is not None:
            prompt, factor = choices.candidates[index][0].prompt_tokens, choices.candidates[index][0].prefill_factor
        replica = route(
            RoutedRequest(
                index=index,
                arrival_seconds=arrival,
                prompt_tokens=prompt,
                prefill_factor=factor,
                ttft_budget_seconds=budget,
            )
        )
        if choices is None:
            runs[replica].receive(*row)
        else:
            number = len(parts[replica])
            chosen[replica].append(choices.receive(runs[replica], index, number, row, engine=replica))
        parts[replica].append(index)
    finished: list[ReplicaRun] = []
    for run, part, own in zip(runs, parts, chosen, strict=True):
        if part:
            served = run.finish() if choices is None else replace(run.finish(), chosen=np.array(own, dtype=np.int64))
            finished.append(ReplicaRun(requests=np.array(part, dtype=np.int64), run=served))
    return finished
