"""Steps that take longer or shorter than a model says: noise, or a machine that slows down."""

from dataclasses import dataclass

import numpy as np

from paceline.errors import InvalidValueError
from paceline.simulate.load import Floats
from paceline.simulate.step_work import LinearCost, StepWork
from paceline.simulate.tables import VidurTables


@dataclass(frozen=True, slots=True, eq=False)
class VaryingCost:
    """A step-time model whose step i takes `factors[i]` times as long; the last factor holds from there on."""

    cost: LinearCost | VidurTables
    factors: Floats

    def __post_init__(self) -> None:
        if not len(self.factors) or not (np.isfinite(self.factors) & (self.factors > 0)).all():
            raise InvalidValueError("factors", self.factors, "at least one number, all of them finite and above 0")

    @property
    def request_seconds(self) -> float:
        """What the model takes to receive a request, as that says."""
        return self.cost.request_seconds

    def seconds(self, step: int, work: StepWork) -> float:
        """Return the model's time of the work, times the step's factor."""
        return self.cost.seconds(step, work) * float(self.factors[min(step, len(self.factors) - 1)])

    def start_seconds(self, step: int, now_seconds: float) -> float:  # noqa: ARG002
        """Return now."""
        return now_seconds

    def queue_closes_seconds(self, step: int, now_seconds: float) -> float:  # noqa: ARG002
        """Return now."""
        return now_seconds
