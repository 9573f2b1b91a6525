"""One seed's world of an engine that serves many at once: the middleware and the desk before it, as `paceline vllm` puts them."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from answer_checks import Answer
from asked_requests import chat_ask
from batched_engine import LARGEST, STEP_TIME, BatchedEngine, Seat, alone_ms
from desk_oracle import CLOSE, TOKENS, DeskOracle
from fake_engines import text_of
from rest_checks import _problems_of_promises, problems_of_measures
from server_world import MOST_TICKS, WALL, Result, table_of
from serving_desk import NAMES, FakeSizes
from simulated_network import WHOSE, Ask, Exchange
from virtual_loop import LivelockError, VirtualLoop
from world_notes import WorldNotes

from paceline.records import TIERS
from paceline.schedule import LoadController, LoadSettings, PlannerSettings, ServerLoad
from paceline.serving.desk import Desk
from paceline.serving.middleware import BudgetMiddleware
from paceline.serving.pricing import price_settings

WORDS = 2  # text tokens of a chat
SMALLEST_DRIFTED = 90  # steps after which a hundredth of the drift is yet to be seen


@dataclass(frozen=True, kw_only=True)
class BatchedLimits:
    """What the oracle looks up of a server's limits."""

    bodies_bytes: int = 1 << 30


@dataclass(frozen=True, kw_only=True)
class BatchedPlan:
    """What a seed makes of a world."""

    kind: str
    policy: str
    alpha: float
    requests: int
    chunk_size: int
    target_time_ms: float | None
    blocks: int
    slow: float  # how much slower all steps are than their model says
    slow_from: float
    shuffled: bool
    spacing_ms: float
    leaving: float
    min_chunk_tokens: int
    plain: bool  # all requests are of the kind that the table knows, and stay
    totals: bool = False
    tick_seconds: float = 0.0
    limits: BatchedLimits = BatchedLimits()


class BatchedOracle(DeskOracle):
    """The desk's oracle, where no turns are given."""

    def _wrap(self) -> None:
        for name in ("accept", "accept_native", "finish", "finish_native", "first_token"):
            setattr(self.desk, name, getattr(self, f"_{name}")(getattr(self.desk, name)))
        self._watch_withheld()

    def _exact(self) -> bool:
        return False

    def _check_turns(self) -> None:
        pass

    def _check_queue(self) -> None:
        pass

    def _price(self) -> None:
        """It is learned, with what the largest configuration takes here."""


class _Served:
    """What the oracle looks at of a server."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.engine = desk, None


class BatchedWorld(WorldNotes):
    """An engine, its middleware, its clients and its time."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed, self.rng, self.more = seed, Random(seed), Random(seed + 3)  # as in a server's world
        super().__init__(keep_trace=keep_trace)
        self.plan = plan = batched_plan(self.rng, self.more)
        self.loop = VirtualLoop(Random(seed + 1), shuffled=plan.shuffled)
        self.loop.on_tick = self._each_tick
        planner = PlannerSettings(
            chunk_size=plan.chunk_size,
            policy=plan.policy,
            target_time_ms=plan.target_time_ms,
            min_chunk_tokens=plan.min_chunk_tokens,
        )
        self.engine = BatchedEngine(self.loop, planner, blocks=plan.blocks, slow=self._slowdown, wrong=self.wrong)
        self.desk = self._new_desk(planner)
        self.middleware = BudgetMiddleware(self.engine, self.desk, clock=self.loop.time, wall=self._wall)
        self.engine.stepped, self.engine.on_enter = self.middleware.stepped, self._enters
        self.exchanges: list[Exchange] = []
        self.served, self.machine, self.model = _Served(self.desk), self, self
        self.oracle = BatchedOracle(self)
        self.asks = self._asks()
        self.slow_steps = 0

    def _new_desk(self, planner: PlannerSettings) -> Desk:
        plan = self.plan
        first_ms = {
            (tier, top_k, 16): alone_ms(TOKENS[tier] + WORDS, top_k, plan.chunk_size)
            for tier in TIERS
            for top_k in (2, 8)
        }
        controller = LoadController(LoadSettings(alpha=plan.alpha), planner, STEP_TIME)
        return Desk(
            controllers={"ttft": table_of(first_ms)},
            sizes=FakeSizes(),
            alpha=plan.alpha,
            names=NAMES,
            line=ServerLoad(controller),
            price_at=partial(price_settings, floor=0.0, step=None, share=0.5),
        )

    def _wall(self) -> float:
        return WALL + self.loop.now

    def _slowdown(self, now: float) -> float:
        slow = self.plan.slow if now >= self.plan.slow_from else 1.0
        self.slow_steps = self.slow_steps + 1 if now >= self.plan.slow_from else 0
        return slow

    def whole(self) -> Any:
        """What the oracle takes a request without a budget for."""
        return None

    def ttft_ms(self, _config: Any) -> float:
        """Times are the engine's here."""
        return 0.0

    a_token_ms = 0.0

    def run(self) -> Result:
        """Live through it, and return what came of it."""
        for ask in self.asks:
            self.loop.call_at(ask.at, self._arrives, ask)
        began = self.loop.now
        try:
            self.loop.run(most_ticks=MOST_TICKS)
        except LivelockError as error:
            self.wrong("bounded wait", str(error))
        self._check_the_end()
        return Result(
            seed=self.seed,
            kind=self.plan.kind,
            digest=self._digest.hexdigest(),
            problems=self.problems,
            ticks=self.loop.ticks,
            seconds=self.loop.now - began,
            requests=len(self.exchanges),
            promised=self.oracle.promised,
            refused=self.oracle.refused,
            statuses=dict(Counter(each.status for each in self.exchanges if each.status is not None)),
        )

    def _arrives(self, ask: Ask) -> None:
        exchange = Exchange(self.loop, ask, self.trace)
        self.exchanges.append(exchange)
        exchange.start(self.middleware)

    def _enters(self, seat: Seat) -> None:
        """The engine is told what was decided: the configuration, the pictures' size, and the budget to stand with."""
        found = self.oracle.inside.get(WHOSE.get().entry or 0)
        if found is None:
            self.wrong("nothing is left at rest", f"request {seat.number} has the engine, and nobody knows of it")
            return
        ticket, pictures = found.ticket, found.exchange.ask.told["pictures"]
        decided = (WORDS + pictures * LARGEST, None, None)
        if ticket is not None:
            tokens = WORDS + pictures * TOKENS[ticket.decision.config.tier]
            decided = (tokens, ticket.decision.config.top_k, found.left)
        told = (seat.prompt, seat.top_k, seat.budget)
        if (
            told[:2] != decided[:2]
            or (told[2] is None) != (decided[2] is None)
            or abs((told[2] or 0.0) - (decided[2] or 0.0)) > CLOSE
        ):
            self.wrong(
                "the best that fits", f"the engine is told {told} of request {seat.number}, decided was {decided}"
            )

    def _each_tick(self) -> None:
        self.oracle.each_tick()
        if not 0 <= self.engine.free <= self.engine.blocks:
            self.wrong("nothing is left at rest", f"{self.engine.free} of {self.engine.blocks} blocks are free")

    def _check_the_end(self) -> None:
        engine, line = self.engine, self.desk.line
        left = {
            "seats": len(engine.seats),
            "blocks": engine.blocks - engine.free,
            "ledger": len(self.desk.ledger),
            "prefilling": len(self.desk.ledger.prefilling),
            "line": len(line),
            "decoding": len(line._decoding),
            "ahead": len(line.controller.ahead),
            "awaited": len(line.controller.awaited),
        }
        if any(left.values()):
            self.wrong("nothing is left at rest", f"left: {left}")
        for complaint in self.loop.complaints:
            self.wrong("no error is lost", complaint)
        for exchange in self.exchanges:
            self._check_exchange(exchange)
        for what in _problems_of_promises(self):
            self.wrong("nothing is counted twice", what)
        for what in problems_of_measures(self):
            self.wrong("within_budget agrees with the clock", what)
        drift = line.controller.drift.factor
        # where none was alone nothing of the table is scaled: the drift is the machine's
        known = self.plan.plain and self.slow_steps > SMALLEST_DRIFTED and not self.oracle._pooled("ttft")
        if known and not math.isclose(drift, self.plan.slow, rel_tol=0.02):
            self.wrong("what is expected", f"steps take {self.plan.slow} times their model's, the drift is {drift}")
        for exchange, ticket in self.oracle.tickets:
            alone = ticket.alone and exchange.ask.told.get("undisturbed") and ticket.ttft_ms is not None
            if self.plan.plain and self.plan.slow == 1.0 and alone:
                expected = ticket.promise.expected_ms
                if not math.isclose(ticket.ttft_ms, expected, rel_tol=1e-6):
                    self.wrong("what is expected", f"{expected} ms are expected alone, {ticket.ttft_ms} came")

    def _check_exchange(self, exchange: Exchange) -> None:
        number, told = exchange.ask.number, exchange.ask.told
        if exchange.ended_at is None or exchange.error is not None or exchange.problems:
            self.wrong("each request ends exactly once", f"request {number}: {exchange.error!r}, {exchange.problems}")
        elif not exchange.answered and not exchange.gone:
            self.wrong("each request ends exactly once", f"request {number} was not answered")
        if not exchange.answered or exchange.problems:
            return
        answer = Answer(exchange, tick_ms=0.0)
        if exchange.status != 200:
            answer.check()
            for invariant, what in answer.problems:
                self.wrong(invariant, what)
            return
        said = _text_of(exchange)
        if said != text_of(number, told["tokens"]):
            self.wrong("answers are their own", f"request {number} said {said[:60]!r}")

    def _asks(self) -> list[Ask]:
        plan, rng, at = self.plan, self.rng, 1000.001
        asks = []
        for number in range(plan.requests):
            at += rng.expovariate(1.0) * plan.spacing_ms / 1e3
            ask = chat_ask(
                rng,
                number,
                at,
                budget=rng.choice((2000.0 if plan.plain else None, 8.0, 40.0, 200.0, 1000.0, 5000.0)),
                budget_kind="ttft",
                refuse=not plan.plain and rng.random() < 0.4,
                stream=rng.random() < 0.6,
                tokens=max(rng.choice((1, 2, 8, 40)), 8 * plan.plain),
                pictures=1 if plan.plain else rng.choice((0, 1, 1, 1, 1, 2)),
                detail=None,
                padding=0,
                keys=False,
            )
            ask.told["refuse"] = ask.told["refuse"] and ask.told["budget"] is not None
            if rng.random() < plan.leaving:
                ask.leaves_ticks = rng.randrange(1, 120)
            asks.append(ask)
        return asks


def batched_plan(rng: Random, more: Random) -> BatchedPlan:
    """Return what a seed makes of a world; a plain one is a crowd, whose steps teach the machine's drift."""
    chunk, plain = rng.choice((32, 64, 256)), rng.random() < 0.4
    return BatchedPlan(
        kind="batched",
        policy=rng.choice(("edf", "edf", "fcfs", "aging", "spf", "srtf")),
        alpha=rng.choice((0.05, 0.2, 0.3)),
        requests=rng.randrange(5, 40) + 30 * plain,
        chunk_size=chunk,
        target_time_ms=rng.choice((None, None, 30.0)),
        blocks=4000 if plain else rng.choice((16, 40, 400)),
        slow=rng.choice((1.0, 1.0, 0.5, 3.0)),
        slow_from=1000.0 + rng.choice((0.0, 0.5)),
        shuffled=rng.random() < 0.5,
        spacing_ms=min(rng.choice((5.0, 30.0, 300.0)), 30.0 if plain else math.inf),
        leaving=0.0 if plain else rng.choice((0.0, 0.1, 0.4)),
        min_chunk_tokens=more.choice((0, 0, 8)),
        plain=plain,
    )


def _text_of(exchange: Exchange) -> str:
    if not exchange.ask.told["stream"]:
        return json.loads(exchange.body)["choices"][0]["message"]["content"]
    chunks = [json.loads(event[6:]) for event in exchange.body.split(b"\n\n") if event.startswith(b"data: {")]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
