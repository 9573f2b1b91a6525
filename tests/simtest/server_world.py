"""One seed's world: a server as `paceline serve` puts it together, its clients, its machine, and what goes wrong."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import answer_checks
import rest_checks
from artifact_file import Artifact
from asked_requests import KEY, chat_ask, look, wrong_ask
from desk_oracle import DeskOracle
from fake_engines import FakeModel, Machine, Running
from serving_desk import FakeSizes, table
from simulated_network import EXCHANGE, Ask, Exchange
from virtual_loop import LivelockError, VirtualLoop
from world_notes import WorldNotes

from paceline.records import TIERS, KnobConfig
from paceline.server.limits import Limits
from paceline.server.question import OUTCOME
from paceline.server.serve import ChatServer, Server, ServerSettings, server_over
from paceline.serving.middleware import TICKET

WALL = 1_800_000_000.0
MOST_TICKS = 400_000
PROBES, LOOKS_ON = 10_000, {"kind": "look", "engine": False}  # /health, asked while the server stops
KINDS = ("calm", "calm", "noisy", "faulty", "crowded", "stopped", "lone", "lone")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a seed makes of a world."""

    kind: str
    requests: int
    alpha: float
    policy: str
    limits: Limits
    totals: bool
    keys: bool
    shuffled: bool
    tick_seconds: float
    spacing: float  # seconds between arrivals, in mean, times what the middle configuration takes
    bursts: bool
    restarts: bool
    leaves_at_turn: float  # the share of turns in whose moment the client leaves
    stops_with_run: int | None  # SIGTERM comes while this answer is generated
    long_answers: bool
    even: bool  # each comes when the one before it has just ended, so that time is scarce and nobody waits


@dataclass(kw_only=True)
class Result:
    """What came of one seed."""

    seed: int
    kind: str
    digest: str
    problems: list[tuple[str, str]]
    ticks: int
    seconds: float
    requests: int
    promised: int = 0
    refused: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    processor_seconds: float = 0.0


class Life:
    """One life of a server, from its start to the end of its process: its parts, its requests, and who watches it."""

    def __init__(self, world: "ServerWorld", controllers: dict[str, Any]) -> None:
        self.world, self.plan, self.loop, self.machine = world, world.plan, world.loop, world.machine
        self.trace, self.wrong = world.trace, world.wrong
        self.model = FakeModel(self.loop, self.machine, world.noise, self.trace)
        self.model.on_begin, self.model.on_end = self._begins, self._ends
        self.exchanges: list[Exchange] = []
        self.by_number: dict[int, Exchange] = {}
        self.log: list[str] = []
        self.stopped_at: float | None = None
        self.stopped_twice_at: float | None = None
        self.stopped_tick = 0
        self.closed = self.over = False
        plan = self.plan
        settings = ServerSettings(
            name="m", alpha=plan.alpha, policy=plan.policy, keys=(KEY,) if plan.keys else (), limits=plan.limits
        )
        self.served: ChatServer = server_over(
            self.model,
            FakeSizes(),
            controllers,
            settings,
            log=self.log.append,
            spans=self._finished,
            clock=self.loop.time,
            wall=world.wall,
        )
        self.served.host.counts._series = "simulated"
        self.server = Server(self.served, host="127.0.0.1", port=0)
        self.server._loop = self.loop
        self.oracle = DeskOracle(self)

    def arrives(self, ask: Ask) -> None:
        """A request comes to the socket; nobody hears it once that is closed."""
        if self.closed:
            return
        exchange = Exchange(self.loop, ask, self.trace)
        self.exchanges.append(exchange)
        self.by_number[ask.number] = exchange
        self.trace("arrives", ask.number, self.loop.now)
        exchange.count_waiting = lambda: self.served.engine.waiting
        exchange.start(self.served.app)

    def _begins(self, run: Running) -> None:
        exchange = self.by_number[run.number]
        exchange.ask.told["run"] = run
        if not any(each.exchange is exchange for each in self.oracle.inside.values()):
            self.wrong("nothing is left at rest", f"request {run.number} has the model, and nobody knows of it")
        if len(self.model.runs) == self.plan.stops_with_run:
            self.loop.call_later(self._a_moment(run), self.told_to_stop)

    def _a_moment(self, run: Running) -> float:
        """Return seconds that are about as many as an answer takes."""
        machine = self.machine
        return self.world.rng.random() * (machine.ttft_ms(run.config) + run.wanted_tokens * machine.a_token_ms) / 1e3

    def _ends(self) -> None:
        """The model is free in a moment; in some worlds the client whose turn comes leaves just then."""
        rng = self.world.more
        if rng.random() >= self.plan.leaves_at_turn:
            return
        first = self.oracle.first_waiting()
        if first is not None:
            first.ask.leaves_ticks = 0
            self.loop.after_ticks(rng.randrange(1, 12), first.leave)

    def _finished(self, scope: Any, visit: Any) -> None:
        exchange: Exchange = scope[EXCHANGE]
        exchange.finished += 1
        exchange.scope_at_end = {"ticket": scope.get(TICKET), "outcome": scope.get(OUTCOME)}
        exchange.visit = visit

    def told_to_stop(self) -> None:
        """SIGTERM; as uvicorn does it, sockets close a moment later, and what is left then is cancelled in the end."""
        if self.over:
            return
        self.trace("SIGTERM", self.loop.now)
        if self.stopped_at is not None:
            self.stopped_twice_at = self.stopped_twice_at or self.loop.now
            self.server.stop()
            return
        self.stopped_at, self.stopped_tick = self.loop.now, self.loop.ticks
        self.server.stop()
        rng = self.world.rng
        self.loop.call_later(rng.uniform(0.0, 0.2), self._close)
        self.loop.call_later(int(self.plan.limits.grace_seconds) + 5.0 + 0.2, self._cancel_all)
        for number in range(self.world.more.randrange(3)):  # whoever watches asks on
            probe = Ask(number=PROBES + number, at=0.0, method="GET", path="/health", told=dict(LOOKS_ON))
            self.loop.call_later(self.world.more.uniform(0.0, 0.1), self.arrives, probe)
        if rng.random() < 0.4:
            run = self.model.current
            if run is not None and self.world.more.random() < 0.6:
                self.loop.call_later(self._a_moment(run), self.told_to_stop)
            elif rng.random() < 0.5:
                self.loop.after_ticks(rng.randrange(1, 200), self.told_to_stop)
            else:
                self.loop.call_later(rng.uniform(0.0, 3.0), self.told_to_stop)

    def _close(self) -> None:
        self.closed = True
        self.loop.call_later(0.1, self._ends_if_idle)

    def _cancel_all(self) -> None:
        if self.over:
            return
        for exchange in self.exchanges:
            if exchange.task is not None and not exchange.task.done():
                exchange.ask.told["cancelled"] = True
                exchange.task.cancel()
        self.loop.after_ticks(self.world.more.randrange(1, 4), self._loop_ends)

    def _loop_ends(self) -> None:
        """With its main task `asyncio.run` cancels all that is left once more, and waits for it."""
        for task in () if self.over else self.loop.tasks:
            if not task.done():
                task.cancel()

    def _ends_if_idle(self) -> None:
        """End the process once every answer has ended; another begins."""
        if any(exchange.task is not None and not exchange.task.done() for exchange in self.exchanges):
            self.loop.call_later(0.25, self._ends_if_idle)
            return
        self.served.engine.close()
        self.check_the_end()
        self.world.restarts()

    def each_tick(self) -> None:
        """Check what must hold between any two callbacks."""
        engine, gate = self.served.engine, self.served.app
        if engine.waiting and not engine.running:
            self.wrong("the engine works while somebody waits", f"{engine.waiting} wait and nobody has the model")
        if engine.waiting > self.plan.limits.waiting:
            self.wrong("memory is bounded", f"{engine.waiting} wait, expected {self.plan.limits.waiting} at most")
        if gate.bodies_bytes < 0:
            self.wrong("nothing is left at rest", f"{gate.bodies_bytes} bytes of bodies")
        self.oracle.each_tick()

    def check_the_end(self) -> None:
        """Check what must hold once nothing of this life moves any more."""
        self.over = True
        for invariant, what in rest_checks.problems_at_rest(self):
            self.wrong(invariant, what)
        for exchange in self.exchanges:
            for what in exchange.problems:
                self.wrong("each request ends exactly once", f"request {exchange.ask.number}: {what}")
            if exchange.answered and not exchange.problems:
                answer = answer_checks.Answer(exchange, tick_ms=1e3 * self.plan.tick_seconds)
                answer.check()
                exchange.ask.told["report"] = answer.report
                for invariant, what in answer.problems:
                    self.wrong(invariant, what)
        for invariant, what in rest_checks.problems_of_counts(self):
            self.wrong(invariant, what)
        for line in self.log:
            self.trace("log", line)


class ServerWorld(WorldNotes):
    """A server, its clients and its machine in one loop."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        # what was added later draws from `more`: the worlds of seeds that found something stay what they were
        self.seed, self.rng, self.more = seed, Random(seed), Random(seed + 3)
        super().__init__(keep_trace=keep_trace)
        self.plan = plan_of(self.rng, self.more)
        plan = self.plan
        self.loop = VirtualLoop(Random(seed + 1), shuffled=plan.shuffled, tick_seconds=plan.tick_seconds)
        self.loop.on_tick = self._each_tick
        self.wall_jump = 0.0
        self.machine, self.noise = machine_of(self.rng, self.more, plan), Random(seed + 2)
        self.asks = asks_of(self.rng, self.more, plan, self.machine)
        self.artifact = Artifact(self) if plan.restarts else None
        self.lives = [
            Life(self, controllers_of(plan, self.machine) if self.artifact is None else self.artifact.loaded())
        ]

    def table_of(self, first_ms: dict[tuple[str | None, int | None, int | None], float]) -> Any:
        """Return a table of these milliseconds."""
        return table_of(first_ms)

    @property
    def life(self) -> Life:
        """The present life of the server."""
        return self.lives[-1]

    def wall(self) -> float:
        """The time of day, which jumps."""
        return WALL + self.loop.now + self.wall_jump

    def run(self) -> Result:
        """Live through it, and return what came of it."""
        for ask in self.asks:
            self.loop.call_at(ask.at, self._arrives, ask)
        self._plan_faults()
        began = self.loop.now
        try:
            self.loop.run(most_ticks=MOST_TICKS)
        except LivelockError as error:
            self.wrong("bounded wait", str(error))
        if not self.life.over:
            self.life.check_the_end()
        for complaint in self.loop.complaints:
            self.wrong("no error is lost", complaint)
        for task in self.loop.tasks:
            if not task.done():
                self.wrong("each request ends exactly once", f"a task never ends: {task.get_coro().__qualname__}")
        if self.artifact is not None:
            self.artifact.remove()
        exchanges = [exchange for life in self.lives for exchange in life.exchanges]
        statuses = Counter(exchange.status for exchange in exchanges if exchange.status is not None)
        return Result(
            seed=self.seed,
            kind=self.plan.kind,
            digest=self._digest.hexdigest(),
            problems=self.problems,
            ticks=self.loop.ticks,
            seconds=self.loop.now - began,
            requests=len(exchanges),
            promised=sum(life.oracle.promised for life in self.lives),
            refused=sum(life.oracle.refused for life in self.lives),
            statuses=dict(statuses),
        )

    def restarts(self) -> None:
        """Another process begins a moment later, where there is an artifact that it can read."""
        if self.artifact is not None and len(self.lives) < 4:
            self.loop.call_later(0.5, self._begins_again)

    def _begins_again(self) -> None:
        assert self.artifact is not None
        controllers = self.artifact.loaded()
        self.trace("begins again", self.loop.now, controllers is not None)
        if controllers is None:
            self.loop.call_later(1.0, self._mended)
        else:
            self.lives.append(Life(self, controllers))

    def _mended(self) -> None:
        assert self.artifact is not None
        self.artifact.replaced(may_be_killed=False)
        self._begins_again()

    def _each_tick(self) -> None:
        if not self.life.over:
            self.life.each_tick()

    def _arrives(self, ask: Ask) -> None:
        self.life.arrives(ask)

    def _plan_faults(self) -> None:
        plan, rng, loop = self.plan, self.rng, self.loop
        first, last = self.asks[0].at, self.asks[-1].at + 1.0
        if plan.kind == "calm":
            return
        for _ in range(rng.choice((0, 0, 1, 3))):
            loop.call_at(rng.uniform(first, last), self._wall_jumps, rng.choice((-3600.0, 3600.0, -0.5, 1e6)))
        if plan.kind == "stopped":
            if rng.random() < 0.5:
                loop.call_at(rng.uniform(first, last), self._told_to_stop)
            else:
                loop.after_ticks(rng.randrange(1, 60 * plan.requests), self._told_to_stop)
        if self.artifact is not None:
            loop.call_at(rng.uniform(first, last), self._told_to_stop)
            for _ in range(rng.randrange(1, 4)):
                change = rng.choice((self.artifact.replaced, self.artifact.replaced, self.artifact.damaged))
                loop.call_at(rng.uniform(first, last), change)

    def _told_to_stop(self) -> None:
        self.life.told_to_stop()

    def _wall_jumps(self, seconds: float) -> None:
        self.wall_jump += seconds
        self.trace("the wall clock jumps", seconds)


def controllers_of(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Return the tables of a server whose machine takes what they say."""
    after = {"ttft": 0.0, "total": machine.a_token_ms * 2}
    kinds = ("ttft", "total") if plan.totals else ("ttft",)
    return {kind: table_of({key: ms + after[kind] for key, ms in machine.first_ms.items()}) for kind in kinds}


def table_of(first_ms: dict[tuple[str | None, int | None, int | None], float]) -> Any:
    """Return a table of these milliseconds."""
    return table(
        {
            KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks): (ms, accuracy_of(tier, top_k))
            for (tier, top_k, blocks), ms in first_ms.items()
        }
    )


def accuracy_of(tier: str | None, top_k: int | None) -> float:
    return 0.5 + 0.1 * TIERS.index(tier or TIERS[0]) + 0.01 * (top_k or 0)


def plan_of(rng: Random, more: Random) -> Plan:
    """Return what a seed makes of a world."""
    kind = rng.choice(KINDS)
    crowded, lone = kind == "crowded", kind == "lone"
    restarts = kind == "stopped" and rng.random() < 0.5
    waiting = rng.choice((1, 2, 5, 256)) if crowded or rng.random() < 0.2 else 256
    limits = Limits(
        body_bytes=60_000,
        bodies_bytes=rng.choice((4_000, 20_000)) if crowded else 512 * 1024,
        waiting=waiting,
        grace_seconds=rng.choice((0.0, 1.0, 30.0)),
        body_seconds=rng.choice((1.0, 60.0)),
        send_seconds=rng.choice((1.0, 60.0)),
    )
    return Plan(
        kind=kind,
        requests=rng.randrange(15, 60) if lone else rng.randrange(4, 40),
        alpha=rng.choice((0.2, 0.3, 0.3) if lone else (0.05, 0.2, 0.3, 0.3)),
        policy=rng.choice(("edf", "fcfs") if kind == "calm" else ("edf", "edf", "edf", "fcfs", "aging", "spf", "srtf")),
        limits=limits,
        totals=not restarts and rng.random() < 0.4,
        keys=rng.random() < 0.2,
        shuffled=rng.random() < 0.5,
        tick_seconds=0.0 if kind == "calm" else rng.choice((0.0, 1e-5, 1e-4)),
        spacing=rng.choice(
            (10.0, 50.0, 200.0) if lone else (0.1, 0.3, 0.8, 2.0) if kind == "calm" else (0.3, 0.8, 2.0, 5.0)
        ),
        bursts=not lone and rng.random() < 0.3,
        restarts=restarts,
        leaves_at_turn=0.0 if kind in ("calm", "lone") else more.choice((0.0, 0.0, 0.3)),
        stops_with_run=more.randrange(1, 6) if kind == "stopped" and more.random() < 0.4 else None,
        long_answers=kind == "stopped" and more.random() < 0.6,
        even=kind == "noisy" and more.random() < 0.4,
    )


def machine_of(rng: Random, more: Random, plan: Plan) -> Machine:
    """Return a machine with its table."""
    base, a_k = rng.choice((2.0, 10.0, 80.0)), rng.choice((0.5, 1.0))
    first = {
        (tier, top_k, 16): base * (1 + place) * (1 + a_k * (top_k / 8))
        for place, tier in enumerate(TIERS)
        for top_k in rng.choice(((8,), (2, 8), (1, 4, 8)))
    }
    noise = (1.0,) if plan.kind == "calm" else rng.choice(((1.0,), (0.9, 1.0, 1.1), (0.5, 1.0, 1.0, 3.0)))
    machine = Machine(first_ms=first, a_token_ms=rng.choice((0.5, 3.0, 20.0)), noise=noise)
    if plan.kind == "lone":  # tiers that a table of another machine errs on in their own ways
        machine.tier_noise = {
            tier: rng.choice(((1.0,), (0.7, 0.9), (0.3, 2.5), (0.2, 1.0, 4.0), (1.5, 1.6))) for tier in TIERS
        }
    if plan.kind == "faulty":
        start, span = 1000.0, plan.requests * plan.spacing * base * 2e-3
        for _ in range(rng.randrange(0, 3)):
            at = start + rng.uniform(0, span)
            machine.slow.append((at, at + rng.uniform(0, span), rng.choice((0.3, 3.0, 10.0))))
        for _ in range(rng.randrange(0, 3)):
            at = start + rng.uniform(0, span)
            machine.failing.append((at, at + rng.uniform(0, span / 2), rng.choice(("dead", "model", "refuses"))))
        if rng.random() < 0.3:
            at = start + rng.uniform(0, span)
            machine.stalls.append((at, at + rng.choice((1.0, 30.0, 100.0))))
    if plan.kind == "stopped" and more.random() < 0.4:
        at = 1000.0 + more.uniform(0, plan.requests * plan.spacing * base * 2e-3)
        machine.stalls.append((at, at + more.choice((1.0, 30.0, 100.0))))
    return machine


def asks_of(rng: Random, more: Random, plan: Plan, machine: Machine) -> list[Ask]:
    """Return the requests of a world, in the order of their arrival."""
    typical = sorted(machine.first_ms.values())[len(machine.first_ms) // 2] / 1e3
    at, asks = 1000.001, []
    patience = 0.0 if plan.kind == "calm" else rng.choice((0.0, 0.1, 0.4)) if plan.kind != "lone" else 0.03
    for number in range(plan.requests):
        if not (plan.bursts and rng.random() < 0.7):
            own = rng.expovariate(1.0) * plan.spacing * typical
            at += (1.2 * max(machine.first_ms.values()) + 3 * machine.a_token_ms) / 1e3 if plan.even else own
        asks.append(_ask(rng, more, plan, machine, number, at, leaving=patience))
    return asks


def _ask(rng: Random, more: Random, plan: Plan, machine: Machine, number: int, at: float, *, leaving: float) -> Ask:
    calm = plan.kind == "calm"
    if not calm and rng.random() < (0.03 if plan.kind == "lone" else 0.15):
        return wrong_ask(rng, number, at, keys=plan.keys, largest_body=plan.limits.body_bytes)
    if rng.random() < 0.05:
        return look(rng, number, at, keys=plan.keys)
    times, lone = sorted(machine.first_ms.values()), plan.kind == "lone"
    budget = rng.choice((None, times[0] * 0.5, times[0] * 1.2, times[-1] * 1.5, times[-1] * 8, times[-1] * 50))
    if number == 0 or (budget is None and rng.random() < 0.5):
        budget = times[-1] * 1.5
    if budget is not None:
        budget = round(budget * rng.uniform(0.7, 1.4), 3)
    if lone:  # what is alone calibrates; then come those that are hard to keep
        tight = (times[0] * 0.3, times[0] * 0.8, times[0] * 1.3, times[len(times) // 2], times[-1] * 1.5)
        budget = round((times[-1] * 8 if number < 12 else rng.choice(tight)) * rng.uniform(0.7, 1.4), 3)
    total = plan.totals and rng.random() < 0.25
    tokens = more.choice((8, 40)) if plan.long_answers and more.random() < 0.5 else None
    ask = chat_ask(
        rng,
        number,
        at,
        budget=budget,
        budget_kind="total" if total else "ttft",
        refuse=budget is not None and rng.random() < (0.7 if lone and number >= 12 else 0.5),
        stream=rng.random() < 0.5,
        tokens=3 if calm else (rng.choice((1, 2, 3, 3, 8)), tokens)[tokens is not None],
        pictures=1 if calm or (lone and rng.random() < 0.9) else rng.choice((0, 1, 1, 1, 1, 2)),
        detail="low" if not calm and rng.random() < 0.1 else None,
        padding=0 if calm else rng.choice((0, 0, 0, 1_000, 8_000)),
        keys=plan.keys,
    )
    if rng.random() < leaving:
        _leave(rng, ask, machine)
    return ask


def _leave(rng: Random, ask: Ask, machine: Machine) -> None:
    """Give a request a client that does not stay, or does not go on."""
    how = rng.randrange(7)
    if how <= 1:
        ask.leaves_ticks = rng.randrange(1, 90)
    elif how == 2:
        ask.leaves_at = rng.choice((0.0, 0.01, 0.3, 3.0)) * rng.random()
    elif how == 3:
        ask.leaves_with_message = rng.randrange(1, 5)
    elif how == 4:
        ask.parts, ask.stalls_after = 4, rng.randrange(0, 4)
        ask.leaves_at = rng.choice((None, 0.5, 90.0))
    elif how == 5:
        ask.reads, ask.takes = None, rng.randrange(0, 4)
        ask.leaves_at = rng.choice((None, 0.5))
    else:
        ask.reads = rng.choice((0.001, 0.1))
