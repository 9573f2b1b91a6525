"""One function over two engines: the same load under the same rules gives the same steps, whichever computes them."""

from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.simulate.choosing import Choices, ChoosingRun
from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.load import RequestColumns
from paceline.simulate.reference import Simulation, simulate_reference
from paceline.simulate.replayed import ReplayedCost
from paceline.simulate.result import SimulatedRun
from paceline.simulate.step_work import StepCost

FAST, REFERENCE = "fast", "reference"
ENGINES = (FAST, REFERENCE)


class PausableRun(ChoosingRun, Protocol):
    """A run that is given its requests in the order of arrival, and can be asked between them."""

    @property
    def waiting(self) -> int:
        """Requests that were received and are not admitted yet."""
        ...

    def finish(self) -> SimulatedRun:
        """Serve all that was received and return the run."""
        ...


def simulate(
    load: RequestColumns,
    engine: SimulatedEngine,
    cost: StepCost,
    *,
    computed_by: str = FAST,
    with_steps: bool = True,
    choices: Choices | None = None,
) -> SimulatedRun:
    """Serve a load in virtual time; return every request's times, and every step unless these are not wanted.

    Deterministic to the bit: the clock moves by what `cost` says of each step and by nothing else. `fast` and
    `reference` give the same steps; execution times, sums in another order, differ by less than 1e-9 of a run's time.
    Raises InvalidValueError for a request that can never be admitted, StepTimeError for work that `cost` knows no time
    for, MissingExtraError where numba is not installed for `fast`.

    With `choices` each request is served as the candidate that the chooser names when it arrives, in the state that the
    engine is then in; the load's own prompts are not looked at.
    """
    if choices is not None:
        return _simulate_choosing(load, engine, cost, choices, computed_by=computed_by, with_steps=with_steps)
    require_factors_count(load, cost, None)
    if _is_reference(computed_by):
        return simulate_reference(load, engine, cost)
    return cast("SimulatedRun", _fast_engine().simulate_fast(load, engine, cost, with_steps=with_steps))


def opened_simulation(
    engine: SimulatedEngine, cost: StepCost, *, size: int, computed_by: str = FAST, with_steps: bool = True
) -> PausableRun:
    """Return a run of which no request was received yet, with room for `size` at first; raises as `simulate` does.

    A fast run that is asked for what it executed has to record its steps.
    """
    if _is_reference(computed_by):
        return Simulation(engine, cost)
    return cast("PausableRun", _fast_engine().FastSimulation(engine, cost, size=size, with_steps=with_steps))


def opened_router(
    engine: SimulatedEngine, cost: StepCost, *, router: str, replicas: int, size: int, has_factors: bool
) -> Any:
    """Return a `FastRouter` over so many idle engines, for `size` requests in all; raises MissingExtraError without numba."""
    routing = import_module("paceline.simulate.fast.routing")  # here for the same reason as the fast engine
    return routing.FastRouter(engine, cost, router=router, replicas=replicas, size=size, has_factors=has_factors)


def require_factors_count(load: RequestColumns, cost: StepCost, choices: Choices | None) -> None:
    """Raise InvalidValueError for candidates, or factors, under steps whose times do not depend on them."""
    if isinstance(cost, ReplayedCost) and (choices is not None or load.prefill_factor is not None):
        expected = "none with a replayed log, whose steps take as long as they took; fit a model with `paceline tune step-time`"
        raise InvalidValueError("candidates or prefill_factor", "given", expected)


def _simulate_choosing(
    load: RequestColumns,
    engine: SimulatedEngine,
    cost: StepCost,
    choices: Choices,
    *,
    computed_by: str,
    with_steps: bool,
) -> SimulatedRun:
    choices.require(load)
    require_factors_count(load, cost, choices)
    run = opened_simulation(engine, cost, size=len(load), computed_by=computed_by)
    chosen = [choices.receive(run, index, index, row) for index, row in enumerate(load.rows())]
    served = run.finish()
    return replace(served, chosen=np.array(chosen, dtype=np.int64), steps=served.steps if with_steps else None)


def _is_reference(computed_by: str) -> bool:
    if computed_by not in ENGINES:
        raise UnknownChoiceError("engine", computed_by, ENGINES)
    return computed_by == REFERENCE


def _fast_engine() -> Any:
    return import_module("paceline.simulate.fast.engine")  # here, because numba is an extra and takes time to import
