"""One function over two engines: the same load under the same rules gives the same steps, whichever computes them."""

from importlib import import_module
from typing import Any, Protocol, cast

from paceline.errors import UnknownChoiceError
from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.load import RequestColumns
from paceline.simulate.reference import Simulation, simulate_reference
from paceline.simulate.result import SimulatedRun
from paceline.simulate.step_work import StepCost

FAST, REFERENCE = "fast", "reference"
ENGINES = (FAST, REFERENCE)


class PausableRun(Protocol):
    """A run that is given its requests as they arrive."""

    @property
    def waiting(self) -> int:
        """Requests that were received and are not admitted yet."""
        ...

    def receive(self, arrival_seconds: float, prompt_tokens: int, output_tokens: int) -> None:
        """Take note of a request that arrives then, no earlier than those received before."""
        ...

    def advance_before(self, seconds: float) -> None:
        """Form and execute every step that starts before this time."""
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
) -> SimulatedRun:
    """Serve a load in virtual time; return every request's times, and every step unless these are not wanted.

    Deterministic to the bit: the clock moves by what `cost` says of each step and by nothing else. `fast` and
    `reference` give the same steps; execution times, sums in another order, differ by less than 1e-9 of a run's time.
    Raises InvalidValueError for a request that can never be admitted, StepTimeError for work that `cost` knows no time
    for, MissingExtraError where numba is not installed for `fast`.
    """
    if _is_reference(computed_by):
        return simulate_reference(load, engine, cost)
    return cast("SimulatedRun", _fast_engine().simulate_fast(load, engine, cost, with_steps=with_steps))


def opened_simulation(
    engine: SimulatedEngine, cost: StepCost, *, size: int, computed_by: str = FAST, with_steps: bool = True
) -> PausableRun:
    """Return a run for at most `size` requests, of which none was received yet; raises as `simulate` does."""
    if _is_reference(computed_by):
        return Simulation(engine, cost)
    return cast("PausableRun", _fast_engine().FastSimulation(engine, cost, size=size, with_steps=with_steps))


def _is_reference(computed_by: str) -> bool:
    if computed_by not in ENGINES:
        raise UnknownChoiceError("engine", computed_by, ENGINES)
    return computed_by == REFERENCE


def _fast_engine() -> Any:
    return import_module("paceline.simulate.fast.engine")  # here, because numba is an extra and takes time to import
