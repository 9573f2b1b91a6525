"""An event loop without a machine: virtual time, a seeded order, and threads that are generators.

Everything that an asyncio program waits for is here: callbacks, timers, calls from threads, and work in threads. Time passes
only where nothing else is left to do, or by a little with each callback. What runs next is the first that was ready, as
asyncio has it, or with `shuffled` any that is: calls from threads keep their order among themselves.
"""

import asyncio
import heapq
import sys
from collections import deque
from collections.abc import Callable, Generator
from random import Random
from typing import Any


class LivelockError(AssertionError):
    """A simulation that does not come to an end."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """An asyncio event loop in virtual time; `tick_seconds` is what a callback takes at most."""

    def __init__(self, rng: Random, *, shuffled: bool = False, tick_seconds: float = 0.0, now: float = 1000.0) -> None:
        self._rng, self._shuffled, self._tick_seconds = rng, shuffled, tick_seconds
        self.now, self.ticks = now, 0
        self._ready: deque[asyncio.Handle] = deque()
        self._from_threads: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._timer_number = 0
        self._at_tick: dict[int, list[Callable[[], None]]] = {}
        self.on_tick: Callable[[], None] = lambda: None
        self.complaints: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []

    # what asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        (self._from_threads if self._shuffled else self._ready).append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._rng.random(), self._timer_number, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":
        """Run a function of a thread: a generator, which gives the seconds that it takes up to where it goes on."""
        future = self.create_future()
        self.call_later(0.0, self._thread_step, func(*args), future)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    # the simulation's side

    def after_ticks(self, count: int, callback: Callable[[], None]) -> None:
        """Call something between two callbacks, so many from now: where any await may stand."""
        self._at_tick.setdefault(self.ticks + max(1, count), []).append(callback)

    def run(self, *, most_ticks: int) -> None:
        """Run until nothing is left to run; raises LivelockError where that takes more than so many callbacks."""
        hooks = sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=lambda _: None, finalizer=self._finalized)
        try:
            while self._tick():
                if self.ticks > most_ticks:
                    raise LivelockError(f"livelock: more than {most_ticks} callbacks")
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def _tick(self) -> bool:
        timers = self._timers
        while timers and (timers[0][3].cancelled() or timers[0][0] <= self.now):
            handle = heapq.heappop(timers)[3]
            if not handle.cancelled():
                self._ready.append(handle)
        handle = self._next()
        if handle is None:
            if not timers:
                return self._rest()
            self.now = timers[0][0]
            return True
        if handle.cancelled():
            return True
        handle._run()
        self.ticks += 1
        if self._tick_seconds:
            self.now += self._tick_seconds * self._rng.random()
        for callback in self._at_tick.pop(self.ticks, ()):
            callback()
        self.on_tick()
        return True

    def _rest(self) -> bool:
        """What was to come at a tick that never came, comes at the end."""
        if not self._at_tick:
            return False
        self.ticks = min(self._at_tick)
        for callback in self._at_tick.pop(self.ticks):
            callback()
        return True

    def _next(self) -> asyncio.Handle | None:
        ready, threads = self._ready, self._from_threads
        if not self._shuffled:
            return ready.popleft() if ready else None
        count = len(ready) + bool(threads)
        if not count:
            return None
        at = int(self._rng.random() * count)
        if at == len(ready):
            return threads.popleft()
        handle = ready[at]
        del ready[at]
        return handle

    def _thread_step(self, work: "Generator[float, None, Any]", future: "asyncio.Future[Any]") -> None:
        try:
            seconds = next(work)
        except StopIteration as ended:
            self.call_soon_threadsafe(_settle, future, future.set_result, ended.value)
        except Exception as error:
            self.call_soon_threadsafe(_settle, future, future.set_exception, error)
        else:
            self.call_later(seconds, self._thread_step, work, future)

    def _finalized(self, generator: Any) -> None:
        self.call_soon(self.create_task, generator.aclose())


def _settle(future: "asyncio.Future[Any]", settle: Callable[[Any], None], value: Any) -> None:
    if not future.cancelled():
        settle(value)
