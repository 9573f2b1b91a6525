"""Several engines behind a router: who serves which request, decided when it arrives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.simulate.choosing import Choices, EngineState
from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.load import Integers, RequestColumns
from paceline.simulate.replayed import ReplayedCost
from paceline.simulate.result import SimulatedRun
from paceline.simulate.routers import ROUND_ROBIN, ROUTERS, RoutedRequest, Router
from paceline.simulate.simulation import (
    FAST,
    PausableRun,
    opened_router,
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
    require_factors_count(load, cost, choices)
    parts = _parts(load, engine, cost, replicas=replicas, router=router, computed_by=computed_by)
    if parts is not None and choices is None:
        return [ReplicaRun(requests=part, run=served(load.part(part), None)) for part in parts if len(part)]
    logged = with_steps or choices is not None
    size = 1 + (len(load) - 1) // replicas  # those of the fast engine make room where an engine gets more
    runs = [
        opened_simulation(engine, cost, size=size, computed_by=computed_by, with_steps=logged) for _ in range(replicas)
    ]
    desk: _Desk = _SlowDesk(runs, engine, cost, ROUTERS[router])
    if _has_compiled_router(cost, router, computed_by):
        desk = opened_router(engine, cost, router=router, replicas=replicas, size=len(load), has_factors=True)
    finished = _routed(load, runs, desk, choices)
    return finished if with_steps else [replace(each, run=replace(each.run, steps=None)) for each in finished]


def _parts(
    load: RequestColumns, engine: SimulatedEngine, cost: StepCost, *, replicas: int, router: str, computed_by: str
) -> list[Integers] | None:
    """Return the requests of each engine where they can be told without an engine's run being kept; None elsewhere."""
    if router == ROUND_ROBIN:
        return [np.arange(first, len(load), replicas) for first in range(min(replicas, len(load)))]
    if not _has_compiled_router(cost, router, computed_by):
        return None
    has_factors = load.prefill_factor is not None
    desk = opened_router(engine, cost, router=router, replicas=replicas, size=len(load), has_factors=has_factors)
    engine_of = desk.assigned(load)
    order = np.argsort(engine_of, kind="stable")
    return np.split(order, np.searchsorted(engine_of[order], np.arange(1, replicas)))


def _has_compiled_router(cost: StepCost, router: str, computed_by: str) -> bool:
    return computed_by == FAST and router != ROUND_ROBIN and not isinstance(cost, ReplayedCost)


class _Desk(Protocol):
    """Who sends requests to engines, and is told where each one went."""

    def route(
        self,
        index: int,
        arrival_seconds: float,
        prompt_tokens: int,
        prefill_factor: float,
        ttft_budget_seconds: float,
    ) -> int: ...

    def give(self, engine: int, index: int, row: tuple[float, int, int, float, float]) -> None: ...


@dataclass(frozen=True, slots=True)
class _SlowDesk:
    """A router that asks every engine's own run."""

    runs: Sequence[PausableRun]
    engine: SimulatedEngine
    cost: StepCost
    router: Router

    def route(
        self,
        index: int,
        arrival_seconds: float,
        prompt_tokens: int,
        prefill_factor: float,
        ttft_budget_seconds: float,
    ) -> int:
        request = RoutedRequest(
            index=index,
            arrival_seconds=arrival_seconds,
            prompt_tokens=prompt_tokens,
            prefill_factor=prefill_factor,
            ttft_budget_seconds=ttft_budget_seconds,
        )
        return self.router(self.runs, self.engine, self.cost, request)

    def give(self, engine: int, index: int, row: tuple[float, int, int, float, float]) -> None:
        """Do nothing: the runs have it."""


@dataclass(frozen=True, slots=True)
class _Receiving:
    """An engine's run, of which the desk is told what it receives."""

    run: PausableRun
    desk: _Desk
    engine: int
    index: int

    def advance_before(self, seconds: float) -> None:
        self.run.advance_before(seconds)

    def state_at(self, seconds: float) -> EngineState:
        return self.run.state_at(seconds)

    def receive(
        self,
        arrival_seconds: float,
        prompt_tokens: int,
        output_tokens: int,
        prefill_factor: float = 1.0,
        ttft_budget_seconds: float = math.inf,
    ) -> None:
        row = (arrival_seconds, prompt_tokens, output_tokens, prefill_factor, ttft_budget_seconds)
        self.run.receive(*row)
        self.desk.give(self.engine, self.index, row)


def _routed(
    load: RequestColumns, runs: Sequence[PausableRun], desk: _Desk, choices: Choices | None
) -> list[ReplicaRun]:
    """Let the requests arrive one by one, each at the engine of the router's choice."""
    parts: list[list[int]] = [[] for _ in runs]
    chosen: list[list[int]] = [[] for _ in runs]
    for index, row in enumerate(load.rows()):
        arrival, prompt, _, factor, budget = row
        if choices is not None:
            prompt, factor = choices.candidates[index][0].prompt_tokens, choices.candidates[index][0].prefill_factor
        replica = desk.route(index, arrival, prompt, factor, budget)
        told = _Receiving(runs[replica], desk, replica, index)
        if choices is None:
            told.receive(*row)
        else:
            chosen[replica].append(choices.receive(told, index, len(parts[replica]), row, engine=replica))
        parts[replica].append(index)
    finished: list[ReplicaRun] = []
    for run, part, own in zip(runs, parts, chosen, strict=True):
        if part:
            served = run.finish() if choices is None else replace(run.finish(), chosen=np.array(own, dtype=np.int64))
            finished.append(ReplicaRun(requests=np.array(part, dtype=np.int64), run=served))
    return finished
