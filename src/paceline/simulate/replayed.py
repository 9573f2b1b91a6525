"""Steps that last as long as those of a recorded run did: what is left to differ is the scheduling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.errors import InvalidValueError, StepLogError, StepTimeError
from paceline.schedule.step_log import StepRecord
from paceline.simulate.load import Floats
from paceline.simulate.step_work import StepWork


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplayedCost:
    """The k-th step takes the seconds of the log's k-th, and starts no earlier than that did.

    `closed_seconds` says when its scheduling began: who arrived later was not in it. These and `started_seconds` count
    from the arrival of the run's first request.
    """

    closed_seconds: Floats
    started_seconds: Floats
    execute_seconds: Floats

    def __post_init__(self) -> None:
        sizes = (len(self.started_seconds), len(self.execute_seconds), len(self.closed_seconds))
        if len(set(sizes)) > 1:
            raise InvalidValueError("columns of a step log", sizes, "as many starts as times")

    @staticmethod
    def of(steps: Sequence[StepRecord], *, origin_seconds: float | None = None) -> "ReplayedCost":
        """Return the times of a log of one engine and run; `origin_seconds` is the first arrival by the log's clock.

        Without it the first request is taken to have arrived when the first step started. Raises StepLogError for a log
        of several engines or runs.
        """
        writers = {(step.engine, step.run) for step in steps}
        if len(writers) != 1:
            raise StepLogError(f"the log holds steps of {len(writers)} engines or runs; expected one: split it first")
        origin = steps[0].started_seconds if origin_seconds is None else origin_seconds
        return ReplayedCost(
            closed_seconds=np.array([step.started_seconds - step.schedule_us / 1e6 - origin for step in steps]),
            started_seconds=np.array([step.started_seconds - origin for step in steps]),
            execute_seconds=np.array([step.execute_ms / 1e3 for step in steps]),
        )

    def seconds(self, step: int, work: StepWork) -> float:  # noqa: ARG002
        """Return the recorded time."""
        if step >= len(self.execute_seconds):
            raise StepTimeError(log_too_short(len(self.execute_seconds)))
        return float(self.execute_seconds[step])

    def queue_closes_seconds(self, step: int, now_seconds: float) -> float:
        """Return when the recorded step began to be scheduled, or now where that is later."""
        if step >= len(self.closed_seconds):
            return now_seconds
        return max(now_seconds, float(self.closed_seconds[step]))

    def start_seconds(self, step: int, now_seconds: float) -> float:
        """Return the recorded start, or now where that is later."""
        if step >= len(self.started_seconds):
            return now_seconds
        return max(now_seconds, float(self.started_seconds[step]))


def log_too_short(steps: int) -> str:
    """Return the sentence about a log that ends before the load does."""
    return (
        f"the step log ends after {steps} steps and the load does not; expected the log of the same requests under the "
        "same settings: replay that, or fit a model on it with `paceline tune step-time`"
    )
