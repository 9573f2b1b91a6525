"""vLLM's queue of waiting requests in the order of a policy."""

from collections.abc import Callable, Iterable, Iterator

from paceline.schedule.policies import SortKey
from paceline.schedule.queue import PolicyQueue
from paceline.vllm_plugin.relied_on import EngineRequest, RequestQueue


class WaitingQueue(RequestQueue):
    """Requests in policy order; a request's key is taken when it is put in, and preempted ones come first.

    The key stays right while a request waits: nothing of it is computed meanwhile, and aging's key does not name the
    present time. To prepend means to add: where a request stands is the policy's to say.
    """

    def __init__(self, key_of: Callable[[EngineRequest], SortKey]) -> None:
        self._queue: PolicyQueue[EngineRequest] = PolicyQueue(key_of)

    def add_request(self, request: EngineRequest) -> None:
        """Add a request where its key belongs."""
        self._queue.push(request)

    def pop_request(self) -> EngineRequest:
        """Remove and return the first request; raises IndexError when none waits."""
        return self._queue.pop()

    def peek_request(self) -> EngineRequest:
        """Return the first request; raises IndexError when none waits."""
        return self._queue.peek()

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

    def __bool__(self) -> bool:
        return len(self._queue) > 0

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[EngineRequest]:
        return iter(self._queue)
