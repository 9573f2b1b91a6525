"""Routers over the fast engine: which engine serves each request, for thousands of them."""

import math

import numpy as np

from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.fast import state as at
from paceline.simulate.fast.engine import cost_of, error_of, numbers_of
from paceline.simulate.fast.fleet import (
    BY_QUEUE,
    BY_TTFT,
    Fleet,
    admit_one,
    new_fleet,
    route_all,
    route_one,
    with_longer_queues,
)
from paceline.simulate.fast.receiving import fill, write_one
from paceline.simulate.load import Integers, RequestColumns
from paceline.simulate.step_work import StepCost

ROUTERS = {"least_outstanding": BY_QUEUE, "least_predicted_ttft": BY_TTFT}


class FastRouter:
    """Equal engines that serve what they are given, so that the next request finds them as they then are."""

    def __init__(
        self, engine: SimulatedEngine, cost: StepCost, *, router: str, replicas: int, size: int, has_factors: bool
    ) -> None:
        self._engine, self._cost, self._router = engine, cost, ROUTERS[router]
        self._rules, self._numbers = numbers_of(engine), cost_of(cost)._replace(has_factors=has_factors)
        self._records = at.new_records(wanted=False, steps=0, entries=0)
        self._fleet = new_fleet(
            size,
            engines=replicas,
            usable_blocks=engine.usable_blocks,
            most=min(engine.max_num_seqs, size),
            block_size=engine.block_size,
        )

    def assigned(self, load: RequestColumns) -> Integers:
        """Return the engine of every request of a load; raises StepTimeError for a step that has no time."""
        fill(self._fleet.requests, load)
        engine_of = np.zeros(len(load), dtype=np.int64)
        request = 0
        while request < len(load):
            fault, engine, request = route_all(
                self._fleet, self._rules, self._numbers, self._records, self._router, request, engine_of
            )
            self._make_room(fault, engine)
        return engine_of

    def route(
        self,
        index: int,
        arrival_seconds: float,
        prompt_tokens: int,
        prefill_factor: float,
        ttft_budget_seconds: float = math.inf,
    ) -> int:
        """Return the engine for the request with that index, which is not given to it yet; raises StepTimeError."""
        write_one(self._fleet.requests, index, arrival_seconds, prompt_tokens, 1, prefill_factor, ttft_budget_seconds)
        fault, engine = route_one(self._fleet, self._rules, self._numbers, self._records, self._router, index)
        self._make_room(fault, engine)
        return engine

    def give(self, engine: int, index: int, row: tuple[float, int, int, float, float]) -> None:
        """Let the request with that index, a row of a load, arrive at an engine."""
        write_one(self._fleet.requests, index, *row)
        while (fault := admit_one(self._fleet, self._rules, self._numbers, engine, index)) != at.FINISHED:
            self._make_room(fault, engine)

    def _make_room(self, fault: int, engine: int) -> None:
        if fault == at.QUEUE_FULL:
            self._fleet = with_longer_queues(self._fleet)
        elif fault != at.FINISHED:
            raise error_of(fault, _state(self._fleet, engine), self._engine, self._cost)


def _state(fleet: Fleet, engine: int) -> at.State:
    return at.State(
        now=fleet.now[engine : engine + 1],
        requests=fleet.requests,
        heap=fleet.heap[engine],
        phase=fleet.phase[engine],
        order=fleet.order[engine],
        ends=fleet.ends[engine],
        partials=fleet.partials[engine],
        chunks=fleet.chunks[engine],
        candidates=fleet.candidates[engine],
    )
