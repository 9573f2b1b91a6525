"""What a benchmark runs against: anything that serves requests at their arrival times and says when what happened."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from paceline.schedule.request_times import RequestTimes
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_log import StepRecord
from paceline.schedule.trace_request import TraceRequest

OnProgress = Callable[[int, int], None]


class ReplayResult(Protocol):
    """One replay: every request's times, the steps that executed, and how long the whole took."""

    @property
    def requests(self) -> Sequence[RequestTimes]:
        """One record a request."""
        ...

    @property
    def steps(self) -> Sequence[StepRecord]:
        """One record an engine step, in order."""
        ...

    @property
    def wall_seconds(self) -> float:
        """From the first request's arrival to the last one's end."""
        ...


class ReplayHost(Protocol):
    """Serves requests in real time: each is handed over when its arrival time has come."""

    def replay(self, requests: Sequence[TraceRequest], *, on_progress: OnProgress) -> ReplayResult:
        """Serve all requests to their ends, telling `on_progress` how many of how many are done."""
        ...


# a host under these settings, None for the host's own scheduler; closed when the block ends
OpenHost = Callable[[PlannerSettings | None], AbstractContextManager[ReplayHost]]
