"""Steps that last as long as those of a recorded run did: what is left to differ is the scheduling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.errors import InvalidValueError, StepLogError, StepTimeError
from paceline.schedule.request_times import RequestTimes
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
    def of(steps: Sequence[StepRecord], *, requests: Sequence[RequestTimes] = ()) -> "ReplayedCost":
        """Return the times of a log of one engine and run, from the first arrival of the run's `requests` on.

        With the requests the log tells who was there when a step was scheduled: those that waited or ran, and those that
        had ended. One that arrived after the engine had looked for new ones is not among them, whatever the clock says.
        Without requests the first is taken to have arrived when the first step started, and everybody to be there who
        arrived before a step began to be scheduled. Raises StepLogError for a log of several engines or runs.
        """
        writers = {(step.engine, step.run) for step in steps}
        if len(writers) != 1:
            raise StepLogError(f"the log holds steps of {len(writers)} engines or runs; expected one: split it first")
        scheduled = np.array([step.started_seconds - step.schedule_us / 1e6 for step in steps])
        started = np.array([step.started_seconds for step in steps])
        origin, closed = float(started[0]), scheduled
        if requests:
            origin = min(request.arrival_seconds for request in requests)
            closed = _closed_by_count(steps, scheduled, requests)
        return ReplayedCost(
            closed_seconds=closed - origin,
            started_seconds=started - origin,
            execute_seconds=np.array([step.execute_ms / 1e3 for step in steps]),
        )

    @property
    def request_seconds(self) -> float:
        """Nothing: the log's next step starts that much later."""
        return 0.0

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


def _closed_by_count(steps: Sequence[StepRecord], scheduled: Floats, requests: Sequence[RequestTimes]) -> Floats:
    """Return for each step a time by which just those had arrived whom the log counts.

    Where the counts cannot be those of the requests, some of which the log may lack, the time is when scheduling began.
    """
    arrivals = np.sort(np.array([request.arrival_seconds for request in requests]))
    ends = np.sort(np.array([request.completion_seconds for request in requests]))
    present = np.array([step.waiting + step.running for step in steps])
    arrived = present + np.searchsorted(ends, scheduled, side="right")
    if (np.diff(arrived) < 0).any() or arrived[0] < 1 or arrived[-1] != len(arrivals):
        return scheduled
    last = arrivals[arrived - 1]
    coming = np.append(arrivals, np.inf)[arrived]
    return np.where(scheduled >= coming, (last + coming) / 2, np.maximum(scheduled, last))


def log_too_short(steps: int) -> str:
    """Return the sentence about a log that ends before the load does."""
    return (
        f"the step log ends after {steps} steps and the load does not; expected the log of the same requests under the "
        "same settings: replay that, or fit a model on it with `paceline tune step-time`"
    )
