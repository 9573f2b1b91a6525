"""One function over the engines: the same load under the same rules gives the same steps, whichever computes them."""

from collections.abc import Callable

from paceline.errors import UnknownChoiceError
from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.load import RequestColumns
from paceline.simulate.reference import simulate_reference
from paceline.simulate.result import SimulatedRun
from paceline.simulate.step_work import StepCost

REFERENCE = "reference"
ENGINES: dict[str, Callable[[RequestColumns, SimulatedEngine, StepCost], SimulatedRun]] = {
    REFERENCE: simulate_reference,
}


def simulate(
    load: RequestColumns, engine: SimulatedEngine, cost: StepCost, *, computed_by: str = REFERENCE
) -> SimulatedRun:
    """Serve a load in virtual time and return every request's times and every step.

    Deterministic to the bit: the clock moves by what `cost` says of each step and by nothing else. Raises
    InvalidValueError for a request that can never be admitted, StepTimeError for work that `cost` knows no time for.
    """
    if computed_by not in ENGINES:
        raise UnknownChoiceError("engine", computed_by, tuple(ENGINES))
    return ENGINES[computed_by](load, engine, cost)
