"""The clocks that a replay can run by: the machine's, and one of processor time, which other work does not move."""

import time
from collections.abc import Callable
from typing import Protocol


class ReplayClock(Protocol):
    """Seconds that never step back, and a wait for a time of theirs."""

    def __call__(self) -> float:
        """Return the present time in seconds."""
        ...

    def wait_until(self, seconds: float) -> None:
        """Return when that time has come."""
        ...

    def wall_ahead_seconds(self) -> float:
        """Return how far the times that vLLM's requests are stamped with are ahead of this clock."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def __call__(self) -> float:
        """Return the present time in seconds."""
        return time.monotonic()

    def wait_until(self, seconds: float) -> None:
        """Sleep until then."""
        time.sleep(max(0.0, seconds - self()))

    def wall_ahead_seconds(self) -> float:
        """Return how far the wall clock is ahead of the monotonic one: of three readings the one that took least.

        A thread may be held up between two clocks, for milliseconds on a busy machine.
        """
        readings: list[tuple[float, float]] = []
        for _ in range(3):
            before = time.monotonic()
            wall = time.time()
            after = time.monotonic()
            readings.append((after - before, wall - (before + after) / 2))
        return min(readings)[1]


class ProcessorClock:
    """The processor time of the thread that asks, and waits that are skipped instead of slept through.

    For an engine whose core, scheduler and model all run in that one thread: what other programs take of the machine is
    then not in its times. Where kernels run on other threads or on a device their time is missing.
    """

    def __init__(self) -> None:
        self._skipped_seconds = 0.0

    def __call__(self) -> float:
        """Return the present time in seconds."""
        return time.thread_time() + self._skipped_seconds

    def wait_until(self, seconds: float) -> None:
        """Let that time come at once."""
        self._skipped_seconds += max(0.0, seconds - self())

    def wall_ahead_seconds(self) -> float:
        """Return 0: requests are stamped with this clock's own time."""
        return 0.0


MONOTONIC = MonotonicClock()
CLOCKS: dict[str, Callable[[], ReplayClock]] = {"machine": MonotonicClock, "processor": ProcessorClock}
