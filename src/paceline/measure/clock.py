"""The one clock of a pass: host time on a CPU, events on a GPU."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Marks moments and tells the milliseconds between two of them once they have all settled."""

    name: str

    def mark(self) -> Any:
        """Record this moment, in order with the work queued so far."""
        ...

    def settle(self) -> None:
        """Wait until every mark can be read."""
        ...

    def between_ms(self, first: Any, second: Any) -> float:
        """Return the milliseconds from one mark to another."""
        ...


class HostClock:
    """The monotonic host clock: right where the work is done when the call returns, that is, on a CPU."""

    name = "perf_counter_ns"

    def mark(self) -> int:
        """Return the host time in nanoseconds."""
        return time.perf_counter_ns()

    def settle(self) -> None:
        """Do nothing: on a CPU a mark is read as it is made."""

    def between_ms(self, first: int, second: int) -> float:
        """Return the milliseconds between two host times."""
        return (second - first) / 1e6


class CudaClock:
    """CUDA events on the current stream of one device, read after one synchronize at the end of the pass.

    The device is the model's: torch's current one is another as soon as a process uses `cuda:1` or runs under torchrun.
    """

    # events, not perf_counter: kernels are queued, the host clock sees the launch only
    name = "cuda_event"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> torch.cuda.Event:
        """Record an event on the device's current stream."""
        with torch.cuda.device(self.device):  # an event belongs to the device that is current when it is made
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
        return event

    def settle(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self.device)

    def between_ms(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        """Return the milliseconds between two events."""
        return first.elapsed_time(second)


def clock_for(device: torch.device) -> Clock:
    """Return the clock that is right on `device`."""
    return CudaClock(device) if device.type == "cuda" else HostClock()
