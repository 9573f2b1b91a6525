"""One function over two engines: the same load under the same rules gives the same steps, whichever computes them."""

from importlib import import_module
from typing import cast

from paceline.errors import UnknownChoiceError
from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.load import RequestColumns
from paceline.simulate.reference import simulate_reference
from paceline.simulate.result import SimulatedRun
from paceline.simulate.step_work import StepCost

FAST, REFERENCE = "fast", "reference"
ENGINES = (FAST, REFERENCE)


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
    if computed_by not in ENGINES:
        raise UnknownChoiceError("engine", computed_by, ENGINES)
    if computed_by == REFERENCE:
        return simulate_reference(load, engine, cost)
    fast = import_module("paceline.simulate.fast.engine")  # here, because numba is an extra and takes time to import
    return cast("SimulatedRun", fast.simulate_fast(load, engine, cost, with_steps=with_steps))
