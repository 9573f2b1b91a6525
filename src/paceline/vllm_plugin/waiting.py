"""vLLM's queue of waiting requests in the order of a policy, and the part of it that one step is shown."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from weakref import WeakKeyDictionary

from paceline.schedule.policies import SortKey
from paceline.schedule.queue import PolicyQueue
from paceline.vllm_plugin.relied_on import EngineRequest, RequestQueue
from paceline.vllm_plugin.request_knobs import asked_budget_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Queueing:
    """When a request was queued: its number among all, and the time by a clock that never steps back; and its budget."""

    number: int
    seconds: float
    ttft_budget_seconds: float | None = None


@dataclass(slots=True, kw_only=True)
class QueueingRecord:
    """When each request was queued last; what is known of one goes when vLLM lets go of it."""

    clock: Callable[[], float]
    _numbers: Iterator[int] = field(default_factory=count)
    _known: WeakKeyDictionary[EngineRequest, Queueing] = field(
        default_factory=WeakKeyDictionary[EngineRequest, Queueing]
    )

    def note(self, request: EngineRequest) -> None:
        """Put a request behind all that were queued before."""
        budget = asked_budget_seconds(request.sampling_params)
        self._known[request] = Queueing(number=next(self._numbers), seconds=self.clock(), ttft_budget_seconds=budget)

    def of(self, request: EngineRequest) -> Queueing:
        """Return when a request was queued."""
        return self._known[request]


class WaitingQueue(RequestQueue):
    """Requests in policy order; a request's key is taken when it is put in, and preempted ones come first.

    The key stays right while a request waits: nothing of it is computed meanwhile, and aging's key does not name the
    present time. To prepend means to add without a new place in the order of queueing.

    While vLLM schedules, the queue is `shown` in part: what is planned for the step, in that order. vLLM then neither
    stops at a request that the plan stepped past, nor asks one that nobody planned for.
    """

    def __init__(self, key_of: Callable[[EngineRequest], SortKey], queueing: QueueingRecord) -> None:
        self._queue: PolicyQueue[EngineRequest] = PolicyQueue(key_of)
        self._queueing = queueing
        self._shown: deque[EngineRequest] | None = None

    def show(self, requests: Iterable[EngineRequest] | None) -> None:
        """Show these of the waiting requests only, first to last; None shows all again, in the order of the policy."""
        self._shown = None if requests is None else deque(requests)

    def add_request(self, request: EngineRequest) -> None:
        """Add a request behind all that were queued before it, and where its key belongs."""
        self._queueing.note(request)
        self._queue.push(request)

    def pop_request(self) -> EngineRequest:
        """Remove and return the first request shown; raises IndexError when there is none."""
        if self._shown is None:
            return self._queue.pop()
        request = self._shown.popleft()
        self._queue.remove(request)
        return request

    def peek_request(self) -> EngineRequest:
        """Return the first request shown; raises IndexError when there is none."""
        return self._queue.peek() if self._shown is None else self._shown[0]

    def prepend_request(self, request: EngineRequest) -> None:
        """Add a request that was preempted or skipped."""
        self._queue.push(request)

    def prepend_requests(self, requests: Iterable[EngineRequest]) -> None:
        """Add requests that were preempted or skipped."""
        for request in requests:
            self._queue.push(request)

    def remove_request(self, request: EngineRequest) -> None:
        """Remove a request; raises KeyError when it does not wait."""
        self._queue.remove(request)

    def remove_requests(self, requests: Iterable[EngineRequest]) -> None:
        """Remove those of the requests that wait."""
        for request in requests:
            if request in self._queue:
                self._queue.remove(request)

    def __contains__(self, request: EngineRequest) -> bool:
        """Whether a request waits here, shown or not."""
        return request in self._queue

    def __bool__(self) -> bool:
        """Whether a request is shown."""
        return len(self) > 0 if self._shown is None else len(self._shown) > 0

    def __len__(self) -> int:
        """How many requests wait, shown or not."""
        return len(self._queue)

    def __iter__(self) -> Iterator[EngineRequest]:
        """All waiting requests in the order of the policy."""
        return iter(self._queue)
