"""A desk before an engine of its own clock: overload, clients that lie or leave, and requests without a budget.

What engine and clients do is synthetic.
"""

import asyncio
import heapq
import json
import random
from itertools import count

import pytest
from serving_desk import CONFIGS, Client, calibrated_desk, chat, event, stream_of

from paceline.control.work_price import PriceSettings
from paceline.records import KnobConfig
from paceline.schedule import LoadController, LoadSettings, PlannerSettings, PolicyWeights, ServerLoad
from paceline.schedule.server_load import MILLISECONDS
from paceline.serving.answer import EngineTimes
from paceline.serving.middleware import CURRENT, BudgetMiddleware
from paceline.wire.body import body_of, raw

LARGEST_MS = max(ms for ms, _ in CONFIGS.values())
BUDGETS = (60, 120, 300, 1000, None)


class VirtualTime:
    """A clock that goes on once nobody has anything to do."""

    def __init__(self):
        self.now, self.numbers, self.sleepers = 0.0, count(), []

    async def sleep_until(self, when):
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self.sleepers, (when, next(self.numbers), future))
        await future

    async def run_all(self, coroutines):
        tasks = [asyncio.ensure_future(each) for each in coroutines]
        while not all(task.done() for task in tasks):
            for _ in range(12):
                await asyncio.sleep(0)
            if self.sleepers:
                when, _, future = heapq.heappop(self.sleepers)
                self.now = max(self.now, when)
                if not future.done():
                    future.set_result(None)


class Engine:
    """Prefills one prompt at a time, by earliest deadline; decodes cost nothing. Times are the table's, with noise."""

    def __init__(self, time, seed, *, slower=lambda now: 1.0):
        self.time, self.random, self.slower = time, random.Random(seed), slower
        self.waiting, self.numbers, self.busy = [], count(), False

    def take_ms(self, body):
        knobs, tokens = body.get("vllm_xargs", {}), body.get("mm_processor_kwargs", {})
        tier = {10: "low", 40: "medium", 90: "high"}[tokens.get("size", {}).get("longest_edge", 90)]
        config = KnobConfig(tier=tier, top_k=knobs.get("paceline_top_k", 8), num_active_blocks=16)
        honest = 3.0 if body.get("user") == "liar" else 1.0
        return CONFIGS[config][0] * self.random.lognormvariate(0, 0.05) * honest * self.slower(self.time.now)

    async def __call__(self, scope, receive, send):
        body = json.loads((await receive())["body"])
        times: EngineTimes = CURRENT.get()
        budget_ms = body.get("vllm_xargs", {}).get("paceline_ttft_budget_ms", 5000.0)
        ready = asyncio.get_running_loop().create_future()
        heapq.heappush(self.waiting, (self.time.now + budget_ms / 1e3, next(self.numbers), self.take_ms(body), ready))
        if not self.busy:
            self.busy = True
            self.server = asyncio.ensure_future(self.serve())
        await ready
        times.first_token_at(self.time.now)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for part in stream_of(["4", "2"]):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": event()})

    async def serve(self):
        while self.waiting:
            _, _, ms, ready = heapq.heappop(self.waiting)
            if not ready.done():
                await self.time.sleep_until(self.time.now + ms / 1e3)
                if not ready.done():
                    ready.set_result(None)
        self.busy = False


def new_line(policy="edf", **price):
    planner = PlannerSettings(chunk_size=1, policy=policy, weights=PolicyWeights(no_budget_seconds=5.0))
    settings = LoadSettings(alpha=0.05, price=PriceSettings(**price))
    return ServerLoad(LoadController(settings, planner, MILLISECONDS))


def poisson(numbers, requests, load):
    now = 0.0
    for _ in range(requests):
        now += numbers.expovariate(load * 1e3 / LARGEST_MS)
        yield now


def served(load, *, requests=500, seed=0, liars=0.0, leavers=0.0, line=None, **engine):
    """Serve Poisson arrivals that would keep an engine busy `load` of the time under the largest configuration.

    Without a load one client asks again as soon as it is answered.
    """
    numbers, time = random.Random(seed), VirtualTime()
    desk = calibrated_desk(line=line or new_line(step=2.0))
    app = BudgetMiddleware(Engine(time, seed, **engine), desk, clock=lambda: time.now, wall=lambda: time.now)
    reports = []

    async def ask(arrival):
        budget = numbers.choice(BUDGETS)
        more = {"user": "liar"} if numbers.random() < liars else {}
        leaves = numbers.random() < leavers
        await time.sleep_until(arrival)
        client = Client(chat(budget, stream=True, **more))
        task = asyncio.ensure_future(client.ask(app))
        if leaves:
            await time.sleep_until(arrival + 0.02)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        document = [json.loads(line[6:]) for line in client.body.decode().split("\n\n") if '"paceline"' in line]
        if document:
            reports.append(document[0]["paceline"])
        elif client.sent and not leaves:
            reports.append({"budget_ms": None, "ttft_ms": 1e3 * (time.now - arrival)})

    async def in_turn():
        for _ in range(requests):
            await ask(time.now)

    asked = [in_turn()] if load is None else [ask(arrival) for arrival in poisson(numbers, requests, load)]
    asyncio.run(time.run_all(asked))
    assert not len(desk.ledger) and not len(desk.line) and not desk.line.controller.awaited
    return desk, reports


def share(reports, name):
    found = [each[name] for each in reports]
    return sum(found) / len(found)


@pytest.mark.parametrize("load", [0.8, 1.5])
def test_promises_beside_others_are_kept_under_load(load):
    desk, reports = served(load)
    limited = [each for each in reports if each["budget_ms"] is not None]
    promised = [each for each in limited if each["promised"]]
    assert len(promised) > 0.6 * len(limited)
    assert share(promised, "within_budget") >= 0.95
    assert share(limited, "within_budget") >= 0.93
    assert sum(desk.metrics.covered_beside) / len(desk.metrics.covered_beside) >= 0.9
    free = [each["ttft_ms"] for each in reports if each["budget_ms"] is None]
    assert len(free) > 50 and max(free) < 5000 + 3 * LARGEST_MS  # nobody passes them for longer than that


def test_quality_gives_way_before_time_does():
    def accuracy(reports):
        found = [CONFIGS[KnobConfig(**each["config"])][1] for each in reports if each["budget_ms"] == 300]
        return sum(found) / len(found)

    light, heavy = (served(load)[1] for load in (0.3, 1.5))
    assert accuracy(light) > accuracy(heavy) + 0.02
    assert share([each for each in heavy if each["budget_ms"] == 300], "within_budget") > 0.97


def test_a_client_that_makes_nobody_wait_gets_the_most_accurate_that_fits():
    desk, reports = served(None, requests=200)
    roomy = [each for each in reports[50:] if each["budget_ms"] == 300]
    assert len(roomy) > 20 and desk.line.controller.price.per_second == 0
    largest = max(CONFIGS, key=lambda config: CONFIGS[config][1])
    assert {KnobConfig(**each["config"]) for each in roomy} == {largest}


def test_whoever_comes_long_after_a_burst_does_not_pay_for_it():
    desk, _ = served(3.0, requests=200)
    assert desk.line.controller.price.per_second > 0
    body = body_of({name: raw(value) for name, value in chat(1000).items()})
    reading = desk.read("/v1/chat/completions", [], body)
    assert "paceline:work_price 0.0" in desk.metrics_text(1e4)
    taken = desk.accept(reading, received_seconds=1e4, now_seconds=1e4).promise.config
    assert taken == max(CONFIGS, key=lambda config: CONFIGS[config][1])


def test_clients_that_lie_or_leave_cost_promises_and_nothing_else():
    _, reports = served(0.6, liars=0.1, leavers=0.1)
    promised = [each for each in reports if each["budget_ms"] and each["promised"]]
    assert len(promised) > 50 and share(promised, "within_budget") >= 0.9


def test_an_engine_that_becomes_slower_is_followed_by_the_bounds():
    _, reports = served(0.7, requests=700, slower=lambda now: 1.0 if now < 10 else 1.5)
    late = [each for each in reports[-250:] if each["budget_ms"] and each["promised"]]
    assert share(late, "within_budget") >= 0.9
