"""One model, one request at a time: others wait in the order of a policy, an answer that nobody wants ends at its next token.

For one event loop. What runs the model is a function of two arguments in a thread of its own: it hands on what it has, and
is told whether it is still wanted.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from paceline.errors import RequestRefusedError
from paceline.schedule.policies import PolicyWeights, SortKey, request_order
from paceline.schedule.queue import PolicyQueue
from paceline.schedule.requests import PrefillRequest
from paceline.wire.budget import BUDGET_FIELD

Result = TypeVar("Result")
HandOn = Callable[[Any], None]
Unwanted = Callable[[], bool]


@dataclass(slots=True, eq=False)
class _Waiting:
    order: PrefillRequest
    granted: "asyncio.Future[None]"


@dataclass(slots=True, eq=False)
class Run(Generic[Result]):
    """One answer while it is generated: its pieces as they come, and what the work returned or raised."""

    ended: "asyncio.Future[Result]"
    _pieces: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)

    async def pieces(self) -> AsyncGenerator[Any]:
        """Give what the work hands on, until it has ended; raises what it raised."""
        while (piece := await self._pieces.get()) is not self:
            yield piece
        self.ended.result()


class Engine:
    """A model's turns. `policy` is one of `schedule.policies`; at most `most_waiting` requests wait."""

    def __init__(self, *, policy: str = "edf", weights: PolicyWeights | None = None, most_waiting: int = 256) -> None:
        order_of = request_order(policy, weights or PolicyWeights())

        def key_of(waiting: _Waiting) -> SortKey:
            return order_of(waiting.order)

        self._waiting: PolicyQueue[_Waiting] = PolicyQueue(key_of)
        self._most_waiting, self._busy, self.draining = most_waiting, False, False
        self._unwanted: set[threading.Event] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="paceline-model")

    @property
    def running(self) -> int:
        """How many requests have the model: 0 or 1."""
        return int(self._busy)

    @property
    def waiting(self) -> int:
        """How many requests wait for it."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, order: PrefillRequest, *, patience_seconds: float | None = None) -> AsyncGenerator[None]:
        """Hold the model for the length of the block, once it is this request's turn.

        Raises RequestRefusedError: 503 where too many wait and when the server stops first, 429 where the turn has not come after
        `patience_seconds`.
        """
        await self._wait(order, patience_seconds)
        try:
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def run(self, work: Callable[[HandOn, Unwanted], Result]) -> AsyncGenerator[Run[Result]]:
        """Run some work in the model's thread; when the block ends it is unwanted, and is waited for whatever happens."""
        loop, unwanted = asyncio.get_running_loop(), threading.Event()
        pieces: asyncio.Queue[Any] = asyncio.Queue()

        def hand_on(piece: Any) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        self._unwanted.add(unwanted)  # before the thread begins: told to stop in between, it would go on
        run = Run(loop.run_in_executor(self._thread, work, hand_on, unwanted.is_set), pieces)
        run.ended.add_done_callback(lambda _: pieces.put_nowait(run))
        try:
            yield run
        finally:
            unwanted.set()
            self._unwanted.discard(unwanted)
            await ended(run.ended)

    def drain(self) -> None:
        """Hand back every waiting request and take no other; the one that runs goes on."""
        self.draining = True
        while len(self._waiting):
            waiting = self._waiting.pop()
            if not waiting.granted.done():
                waiting.granted.set_exception(stopping())

    def stop(self) -> None:
        """End the answer that runs at its next token."""
        for unwanted in self._unwanted:
            unwanted.set()

    def close(self) -> None:
        """End the model's thread, once it is idle."""
        self._thread.shutdown()

    async def _wait(self, order: PrefillRequest, patience_seconds: float | None) -> None:
        if self.draining:
            raise stopping()
        if not self._busy:
            self._busy = True
            return
        if len(self._waiting) >= self._most_waiting:
            raise RequestRefusedError(
                f"{len(self._waiting)} requests wait already; ask again later",
                status=503,
                code="overloaded",
                headers={"retry-after": "1"},
            )
        waiting = _Waiting(order, asyncio.get_running_loop().create_future())
        self._waiting.push(waiting)
        try:
            async with asyncio.timeout(patience_seconds):
                await waiting.granted
        except (asyncio.CancelledError, TimeoutError) as error:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.granted.cancelled() and waiting.granted.exception() is None:
                self._release()  # it was granted in the moment in which its client left
            if isinstance(error, TimeoutError):
                raise out_of_patience(len(self._waiting)) from None
            raise

    def _release(self) -> None:
        while len(self._waiting):
            first = self._waiting.pop()
            if not first.granted.done():
                first.granted.set_result(None)
                return
        self._busy = False


def stopping() -> RequestRefusedError:
    """Return what a request is told that a stopping server hands back."""
    return RequestRefusedError(
        "this server is stopping and has not begun to answer; ask another, or this one again once it is back",
        status=503,
        code="server_stopping",
        headers={"retry-after": "1"},
    )


def out_of_patience(waiting: int) -> RequestRefusedError:
    """Return what a request is told whose budget passed while it waited, and that would rather be refused."""
    return RequestRefusedError(
        f"the budget passed while the request waited, beside {waiting} others; ask again later, or say on_infeasible degrade",
        status=429,
        code="budget_contended",
        param=BUDGET_FIELD,
        headers={"retry-after": "1"},
    )


async def ended(future: "asyncio.Future[Any]") -> None:
    """Wait until a future has ended, however, through any number of cancellations, of which one is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if not future.cancelled():
        future.exception()  # it was seen, whoever asks for the result
    if cancelled is not None:
        raise cancelled
