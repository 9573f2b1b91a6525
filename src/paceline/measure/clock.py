"""The one clock of a pass: host time on a CPU, events on a GPU."""

import time
from collections.abc import Sequence
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


class SynchronisedClock:
    """The host clock after every device has finished, for a model that is spread over several: events of two cannot be compared.

    Each mark waits, so what would overlap between devices does not, and a pass is a little slower than unmeasured.
    """

    name = "perf_counter_ns after synchronize"

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = tuple(devices)

    def mark(self) -> int:
        """Return the host time in nanoseconds, once all work queued so far is done."""
        self.settle()
        return time.perf_counter_ns()

    def settle(self) -> None:
        """Wait for every device."""
        for device in self.devices:
            torch.cuda.synchronize(device)

    def between_ms(self, first: int, second: int) -> float:
        """Return the milliseconds between two host times."""
        return (second - first) / 1e6


def clock_for(*devices: torch.device) -> Clock:
    """Return the clock that is right for a model that computes on `devices`."""
    gpus = [device for device in devices if device.type == "cuda"]
    if not gpus:
        return HostClock()
    return CudaClock(gpus[0]) if len(devices) == 1 else SynchronisedClock(gpus)
