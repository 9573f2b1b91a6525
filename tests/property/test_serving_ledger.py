"""The ledger is exact: whatever ends a request, at whatever await, it is in the ledger while it runs and never after."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from serving_desk import Client, FakeServer, calibrated_desk, chat

from paceline.serving.middleware import BudgetMiddleware

ENDS = ("answers", "cancelled", "raises", "leaves before its last byte", "leaves while answered", "server refuses")
requests = st.lists(
    st.tuples(
        st.sampled_from(ENDS),
        st.integers(0, 24),  # the scheduler's turns after which it ends
        st.sampled_from([None, 0.5, 15, 500]),  # budget
        st.booleans(),  # stream
        st.sampled_from(["degrade", "refuse"]),
        st.integers(0, 5),  # turns before it starts
    ),
    min_size=1,
    max_size=6,
)


class EngineFailedError(Exception):
    pass


@given(requests)
def test_every_request_is_in_the_ledger_exactly_while_it_runs(load):
    asyncio.run(serve(load))


async def serve(load):
    books = Books()
    clients = await asyncio.gather(*(books.ask(*each) for each in load))
    assert len(books.desk.ledger) == 0 and not books.desk.ledger.prefilling
    for (end, *_), client in zip(load, clients, strict=True):
        if end == "answers":
            assert client.sent and not client.sent[-1].get("more_body", False)


class Books:
    """What a server is answering, by the test's own count, beside the ledger's."""

    def __init__(self):
        self.desk, self.running = calibrated_desk(), 0

    async def ask(self, end, turns, budget, stream, on_infeasible, delay):
        for _ in range(delay):
            await asyncio.sleep(0)
        body = chat(budget, stream=stream, on_infeasible=on_infeasible)
        client = Client(body, parts=3, leaves_after=turns % 3 if end == "leaves before its last byte" else None)
        server = self.answering(FakeServer(self.steps(end, turns), status=500 if end == "server refuses" else 200))
        task = asyncio.ensure_future(client.ask(BudgetMiddleware(server, self.desk)))
        for _ in range(turns):
            await asyncio.sleep(0)
        if end in ("cancelled", "leaves while answered"):
            client.gone.set()
            task.cancel()  # as vLLM's handler does to itself once its client has gone
        await asyncio.gather(task, return_exceptions=True)
        return client

    def steps(self, end, turns):
        left = iter(range(turns))

        async def step():
            assert len(self.desk.ledger) == self.running
            await asyncio.sleep(0)
            if end == "raises" and next(left, None) is None:
                raise EngineFailedError

        return step

    def answering(self, server):
        async def counted(scope, receive, send):
            self.running += 1
            try:
                await server(scope, receive, send)
            finally:
                self.running -= 1

        return counted


async def turns_of(stream):
    """How many times a request gives up the processor, alone, from its start to its end."""
    desk = calibrated_desk()
    task = asyncio.ensure_future(Client(chat(500, stream=stream), parts=2).ask(BudgetMiddleware(FakeServer(), desk)))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


def test_a_cancellation_at_every_await_leaves_nothing_behind():
    async def cancelled_after(turns, stream):
        desk = calibrated_desk()
        task = asyncio.ensure_future(
            Client(chat(500, stream=stream), parts=2).ask(BudgetMiddleware(FakeServer(), desk))
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        held = len(desk.ledger)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(desk.ledger) == 0 and not desk.ledger.prefilling
        return held

    for stream in (False, True):
        turns = asyncio.run(turns_of(stream))
        held = [asyncio.run(cancelled_after(turn, stream)) for turn in range(turns + 1)]
        assert turns > 4 and sum(held) >= turns - 2  # it was there at nearly every one of them
