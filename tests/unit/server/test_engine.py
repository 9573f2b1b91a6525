"""One model, one request at a time: whoever leaves, fails or is cancelled wherever, the next one has the model."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import RequestRefusedError, UnknownChoiceError
from paceline.schedule.requests import PrefillRequest
from paceline.server.engine import Engine, ended


def order(number, *, arrival=0.0, budget=None, tokens=10):
    return PrefillRequest(
        request_id=str(number),
        queue_number=number,
        arrival_seconds=arrival,
        prompt_tokens=tokens,
        remaining_tokens=tokens,
        ttft_budget_seconds=budget,
    )


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


POLICIES = {
    "fcfs": [1, 2, 3],
    "edf": [3, 1, 2],  # by budget; without one: ten seconds
    "spf": [2, 1, 3],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_waiting_requests_have_the_model_in_the_order_of_the_policy(policy):
    async def served():
        engine, done = Engine(policy=policy), []

        async def ask(number, budget, tokens):
            async with engine.turn(order(number, budget=budget, tokens=tokens)):
                done.append(number)
                await turns()

        asked = ((0, 1, 1), (1, 5, 20), (2, None, 10), (3, 1, 30))
        await asyncio.gather(*(ask(*each) for each in asked))
        assert (engine.running, engine.waiting) == (0, 0)
        return done

    assert asyncio.run(served()) == [0, *POLICIES[policy]]


def test_an_unknown_policy_is_refused():
    with pytest.raises(UnknownChoiceError, match="edf"):
        Engine(policy="fifo")


requests = st.lists(
    st.tuples(
        st.integers(0, 12),  # turns of the loop before it asks
        st.sampled_from(["answers", "raises", "is cancelled", "is impatient"]),
        st.integers(0, 12),  # turns after which it is cancelled
        st.integers(0, 5),  # turns that it has the model
    ),
    min_size=1,
    max_size=8,
)


@given(requests)
def test_one_has_the_model_at_a_time_and_everybody_who_stays_has_it_once(load):
    asyncio.run(serve(load))


async def serve(load):
    engine, holders, served = Engine(), [], []

    async def ask(number, delay, end, _, held):
        await turns(delay)
        patience = 0.0 if end == "is impatient" else None
        async with engine.turn(order(number), patience_seconds=patience):
            assert not holders
            holders.append(number)
            try:
                await turns(held)
                served.append(number)
                if end == "raises":
                    raise ZeroDivisionError
            finally:
                holders.remove(number)

    async def client(number, request):
        task = asyncio.ensure_future(ask(number, *request))
        if request[1] == "is cancelled":
            await turns(request[2])
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(60):
        await asyncio.gather(*(client(number, request) for number, request in enumerate(load)))
    assert (engine.running, engine.waiting) == (0, 0)
    staying = [number for number, request in enumerate(load) if request[1] in ("answers", "raises")]
    assert set(staying) <= set(served) and len(served) == len(set(served))


def test_a_client_that_leaves_in_the_moment_of_its_turn_hands_it_on():
    async def served():
        engine, release = Engine(), asyncio.Event()

        async def hold(number):
            async with engine.turn(order(number)):
                return number

        async def hand_over():
            async with engine.turn(order(0)):
                await release.wait()
            leaving.cancel()  # its turn has come, and it has not run since

        holding = asyncio.ensure_future(hand_over())
        await turns()
        leaving, staying = asyncio.ensure_future(hold(1)), asyncio.ensure_future(hold(2))
        await turns()
        release.set()
        async with asyncio.timeout(10):
            await holding
            assert await staying == 2
        assert leaving.cancelled() and engine.running == 0

    asyncio.run(served())


def test_too_many_waiting_and_a_stopping_server_are_503_with_a_time_to_come_back():
    async def served():
        engine = Engine(most_waiting=1)
        release = asyncio.Event()

        async def hold(number):
            async with engine.turn(order(number)):
                await release.wait()
                return number

        running, waiting = asyncio.ensure_future(hold(0)), asyncio.ensure_future(hold(1))
        await turns()
        with pytest.raises(RequestRefusedError, match="wait already") as full:
            await hold(2)
        assert (full.value.status, full.value.headers["retry-after"]) == (503, "1")
        engine.drain()
        with pytest.raises(RequestRefusedError, match="stopping") as handed_back:
            await waiting
        assert handed_back.value.status == 503 and handed_back.value.headers["retry-after"]
        with pytest.raises(RequestRefusedError, match="stopping"):
            await hold(3)
        release.set()
        assert await running == 0  # what runs goes on

    asyncio.run(served())


def test_whoever_is_out_of_patience_is_429_and_its_place_is_taken():
    async def served():
        engine, release = Engine(), asyncio.Event()

        async def hold(number, patience=None):
            async with engine.turn(order(number), patience_seconds=patience):
                await release.wait()
                return number

        running = asyncio.ensure_future(hold(0))
        await turns()
        impatient, patient = asyncio.ensure_future(hold(1, 0.0)), asyncio.ensure_future(hold(2, 60))
        with pytest.raises(RequestRefusedError, match="budget passed") as refused:
            await impatient
        assert (refused.value.status, refused.value.code) == (429, "budget_contended")
        release.set()
        assert await running == 0 and await patient == 2
        assert (engine.running, engine.waiting) == (0, 0)

    asyncio.run(served())


def test_work_is_waited_for_whatever_happens_and_told_that_it_is_unwanted():
    async def served():
        engine, begun, told = Engine(), threading.Event(), []

        def work(hand_on, unwanted):
            hand_on("a")
            begun.set()
            while not unwanted():
                pass
            told.append("unwanted")
            return 1

        async def ask():
            async with engine.run(work) as run:
                async for piece in run.pieces():
                    told.append(piece)

        asking = asyncio.ensure_future(ask())
        await asyncio.to_thread(begun.wait)
        await turns()
        asking.cancel()
        await turns()
        asking.cancel()  # and again, while it waits for the thread
        await asyncio.gather(asking, return_exceptions=True)
        assert told == ["a", "unwanted"] and asking.cancelled()
        engine.close()

    asyncio.run(served())


def test_what_work_raises_comes_after_its_pieces_and_the_next_work_runs():
    async def served():
        engine, seen = Engine(), []

        def fails(hand_on, _unwanted):
            hand_on("a")
            raise ZeroDivisionError

        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                async with engine.run(fails) as run:
                    async for piece in run.pieces():
                        seen.append(piece)
        async with engine.run(lambda hand_on, _: 7) as run:
            assert [piece async for piece in run.pieces()] == [] and run.ended.result() == 7
        assert seen == ["a", "a"]
        engine.close()

    asyncio.run(served())


def test_waiting_for_an_end_outlives_cancellations():
    async def served():
        future = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(ended(future))
        for _ in range(3):
            await turns()
            waiting.cancel()
        await turns()
        assert not waiting.done()
        future.set_result(None)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(served())
