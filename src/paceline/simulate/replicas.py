"""Several engines behind a router: who serves which request, decided when it arrives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.load import Integers, RequestColumns
from paceline.simulate.result import SimulatedRun
from paceline.simulate.simulation import FAST, PausableRun, opened_simulation, simulate
from paceline.simulate.step_work import StepCost

ROUND_ROBIN, LEAST_OUTSTANDING = "round_robin", "least_outstanding"


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
) -> list[ReplicaRun]:
    """Serve a load by so many equal engines; one that gets no request is left out.

    `round_robin` takes turns. `least_outstanding` chooses the engine with the fewest requests in its waiting queue, the
    first among equals, as Vidur does.
    Raises what `simulate` raises, and UnknownChoiceError for a router that does not exist.
    """
    if replicas < 1:
        raise InvalidValueError("replicas", replicas, "at least 1")
    if router not in ROUTERS:
        raise UnknownChoiceError("router", router, tuple(ROUTERS))

    def served(part: RequestColumns) -> SimulatedRun:
        return simulate(part, engine, cost, computed_by=computed_by, with_steps=with_steps)

    if replicas == 1:
        return [ReplicaRun(requests=np.arange(len(load)), run=served(load))]

    def opened() -> PausableRun:
        return opened_simulation(engine, cost, size=len(load), computed_by=computed_by, with_steps=with_steps)

    return ROUTERS[router](load, replicas, served, opened)


def _round_robin(
    load: RequestColumns,
    replicas: int,
    served: Callable[[RequestColumns], SimulatedRun],
    _opened: Callable[[], PausableRun],
) -> list[ReplicaRun]:
    parts = [np.arange(first, len(load), replicas) for first in range(min(replicas, len(load)))]
    return [ReplicaRun(requests=part, run=served(load.part(part))) for part in parts]


def _least_outstanding(
    load: RequestColumns,
    replicas: int,
    _served: Callable[[RequestColumns], SimulatedRun],
    opened: Callable[[], PausableRun],
) -> list[ReplicaRun]:
    simulations = [opened() for _ in range(replicas)]
    parts: list[list[int]] = [[] for _ in range(replicas)]
    for index, (arrival, prompt, output) in enumerate(load.rows()):
        for simulation in simulations:
            simulation.advance_before(arrival)
        chosen = min(range(replicas), key=lambda replica: simulations[replica].waiting)
        simulations[chosen].receive(arrival, prompt, output)
        parts[chosen].append(index)
    return [
        ReplicaRun(requests=np.array(part, dtype=np.int64), run=simulation.finish())
        for part, simulation in zip(parts, simulations, strict=True)
        if part
    ]


ROUTERS = {ROUND_ROBIN: _round_robin, LEAST_OUTSTANDING: _least_outstanding}
