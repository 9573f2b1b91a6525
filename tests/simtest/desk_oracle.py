"""A second opinion of what the desk and the engine decide, kept beside them from what happened, with arithmetic of its own.

It sees each request when it is accepted, refused, first answered and finished, and each turn that is given. Scores, ranks and
orders are computed here again, by other means; in a calm world, where a machine takes what its table says, so is the wait.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Any

from simulated_network import Exchange

from paceline.errors import RequestRefusedError
from paceline.schedule.load_control import LoadCandidate

CONFIDENCE, WARM_UP, NO_BUDGET_SECONDS = 0.9, 3, 10.0
TOKENS = {"low": 10, "medium": 40, "high": 90}
CLOSE = 1e-6


class Ratios:
    """What requests took over what was predicted of them."""

    def __init__(self, alpha: float) -> None:
        self.alpha, self.all = alpha, []
        self.needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - alpha) - 1e-9)

    def add(self, measured: float, predicted: float) -> None:
        self.all.append(max(measured, 1e-3) / max(predicted, 1e-3))

    @property
    def upper(self) -> float | None:
        return self.upper_at(0.0)

    @property
    def upper_rank(self) -> int | None:
        """The smallest order statistic above which a share of at most α lies, with the confidence."""
        n, below = len(self.all), 0.0
        for rank in range(n):
            below += math.comb(n, rank) * (1 - self.alpha) ** rank * self.alpha ** (n - rank)
            if below >= CONFIDENCE - 1e-9:
                return rank + 1
        return None

    def upper_at(self, shift: float) -> float | None:
        """The upper bound at a level that broken promises have made smaller."""
        return None if self.upper_rank is None else shifted(self.all, self.upper_rank, shift)

    @property
    def lower(self) -> float | None:
        rank = math.floor((len(self.all) + 1) * self.alpha + 1e-12)
        return sorted(self.all)[rank - 1] if rank else None

    @property
    def median(self) -> float:
        return sorted(self.all)[len(self.all) // 2] if self.all else 1.0


def shifted(ratios: list[float], rank: int, shift: float) -> float:
    """Return an order statistic, moved by a share of the level; beyond the largest as steeply as the logarithms end."""
    ordered = sorted(map(math.log, ratios))
    place = rank + shift * (len(ordered) + 1)
    beyond = max(0.0, place - len(ordered)) / max(1, len(ordered) + 1 - rank)
    last = ordered[min(len(ordered), math.ceil(place - 1e-9)) - 1]
    return math.exp(last + beyond * (ordered[-1] - ordered[len(ordered) // 2]))


@dataclass(kw_only=True)
class Inside:
    """One request between its acceptance and its end."""

    exchange: Exchange
    arrival: float
    budget: float | None  # that it stands in the order with
    true_ms: float
    after_ms: float
    exact: bool  # what it holds the engine beyond its first token was known
    tokens: int
    alone: bool = False
    ticket: Any = None
    shift_alone: float = 0.0  # what broken promises ask of bounds, when it was decided
    shift_beside: float = 0.0

    @property
    def left(self) -> float | None:
        """What was left of its budget when it was decided, in seconds."""
        return None if self.budget is None else self.budget - self.ticket.spent_ms / 1e3


class DeskOracle:
    """Watches one server's desk and engine."""

    def __init__(self, world: Any) -> None:
        self.world, self.desk, self.engine = world, world.served.desk, world.served.engine
        self.inside: dict[int, Inside] = {}
        self.accepts = self.natives = self.promised = self.refused = self.budgets_refused = 0
        self.passed = 0  # promises whose time was over when their request ended without what was promised
        self.tickets: list[tuple[Exchange, Any]] = []
        self.taught: dict[str, dict[Any, Ratios]] = {kind: {} for kind in self.desk.controllers}
        self.beside: dict[Any, list[float]] = {}
        self.grants: list[str] = []
        self._wrap()

    def _wrap(self) -> None:
        desk, engine = self.desk, self.engine
        for name in ("accept", "accept_native", "finish", "finish_native", "first_token"):
            setattr(desk, name, getattr(self, f"_{name}")(getattr(desk, name)))
        engine._release = self._released(engine._release)

    def each_tick(self) -> None:
        if len(self.desk.ledger) != len(self.inside):
            self.world.wrong(
                "nothing is left at rest", f"{len(self.desk.ledger)} in the ledger, {len(self.inside)} inside"
            )
        if len(self.desk.line) > len(self.inside):
            self.world.wrong("nothing is left at rest", f"{len(self.desk.line)} in the line, {len(self.inside)} inside")

    # what is watched

    def _accept(self, accept: Any) -> Any:
        def accepting(reading: Any, *, received_seconds: float, now_seconds: float) -> Any:
            exchange = self._exchange()
            alone = not self.inside
            shifts = self._shifts(reading.asked, 1e3 * (now_seconds - received_seconds))
            try:
                ticket = accept(reading, received_seconds=received_seconds, now_seconds=now_seconds)
            except RequestRefusedError as refused:
                if refused.status in (422, 429):
                    self.budgets_refused += 1
                    exchange.ask.told["desk_refused"] = True
                    spent = 1e3 * (now_seconds - received_seconds)
                    self._check_refusal(exchange, reading.asked, refused, alone, now_seconds, spent)
                raise
            self.accepts += 1
            if exchange.received_at is None:
                self.world.wrong(
                    "each request ends exactly once", f"request {exchange.ask.number} is half there, and decided"
                )
            found = self._entered(exchange, ticket, received_seconds)
            found.alone, (found.shift_alone, found.shift_beside) = alone, shifts
            self._check_memory()
            self._check_turns()
            self._check_promise(found, now_seconds)
            self.inside[ticket.entry.number] = found
            self.tickets.append((exchange, ticket))
            return ticket

        return accepting

    def _accept_native(self, accept_native: Any) -> Any:
        def accepting(now_seconds: float) -> Any:
            known = self.desk._native is not None
            if self._exchange().received_at is None:
                self.world.wrong("each request ends exactly once", "a request that is half there has the engine")
            entry = accept_native(now_seconds)
            self.accepts, self.natives = self.accepts + 1, self.natives + 1
            model = self.world.model
            self.inside[entry.number] = Inside(
                exchange=self._exchange(),
                arrival=now_seconds,
                budget=None,
                true_ms=model.machine.ttft_ms(model.whole()),
                after_ms=self._after_ms(),
                exact=known and self._exact(),
                tokens=TOKENS["high"],
            )
            self._check_memory()
            return entry

        return accepting

    def _finish(self, finish: Any) -> Any:
        def finishing(ticket: Any, now_seconds: float) -> None:
            found = self.inside.pop(ticket.entry.number, None)
            finish(ticket, now_seconds)
            if found is None:
                self.world.wrong("nothing is counted twice", f"request {ticket.entry.number} finished twice")
                return
            kind = ticket.promise.asked.kind
            measured = ticket.ttft_ms if kind == "ttft" else ticket.total_ms
            if measured is None and ticket.total_ms is None and ticket.promise.why_not is None:
                self.passed += 1e3 * (now_seconds - ticket.received_seconds) > ticket.promise.asked.ms
            if measured is None or found.exchange.ask.told["pictures"] != 1:
                return
            if found.alone and found.exchange.ask.told.get("undisturbed") and ticket.entry.number > WARM_UP:
                measured -= ticket.spent_ms
                needed, tier = ticket.decision.latency_ms, ticket.decision.config.tier
                for name in (None, tier, (tier, round(2 * math.log2(needed)))):
                    self.taught[kind].setdefault(name, Ratios(self.world.plan.alpha)).add(measured, needed)
            elif not found.alone and kind == "ttft":
                measured, predicted = measured - ticket.spent_ms, ticket.promise.expected_ms - ticket.spent_ms
                self.beside.setdefault(self._class(found.left), []).append(max(measured, 1e-3) / max(predicted, 1e-3))

        return finishing

    def _finish_native(self, finish_native: Any) -> Any:
        def finishing(entry: Any, now_seconds: float) -> None:
            if self.inside.pop(entry.number, None) is None:
                self.world.wrong("nothing is counted twice", f"request {entry.number} finished twice")
            finish_native(entry, now_seconds)

        return finishing

    def _first_token(self, first_token: Any) -> Any:
        def noting(ticket: Any, ttft_ms: float) -> None:
            told = self.inside[ticket.entry.number].exchange.ask.told
            if "undisturbed" in told:
                self.world.wrong("nothing is counted twice", f"request {ticket.entry.number} has two first tokens")
            told["undisturbed"] = self.accepts == ticket.entry.number
            first_token(ticket, ttft_ms)

        return noting

    def _released(self, release: Any) -> Any:
        def releasing() -> None:
            before = {each.order.request_id: each for each in self.engine._waiting}
            staying = [each for each in before.values() if not each.granted.done()]
            release()
            left = {each.order.request_id for each in self.engine._waiting}
            self._check_orders(staying)
            granted = [each for name, each in before.items() if name not in left and each in staying]
            if len(granted) > 1 or (not granted and staying):
                self.world.wrong("bounded wait", f"{len(granted)} of {len(staying)} that wait have their turn at once")
            for each in granted:
                self.grants.append(each.order.request_id)
                first = min(staying, key=self._key_of)
                if self._key_of(first) < self._key_of(each):
                    self.world.wrong("bounded wait", f"{each.order.request_id} goes before {first.order.request_id}")

        return releasing

    # what must hold

    def _key_of(self, waiting: Any) -> tuple[float, float]:
        """Return where a waiting request stands, by the definition of its policy."""
        order = waiting.order
        deadline = order.arrival_seconds + (
            NO_BUDGET_SECONDS if order.ttft_budget_seconds is None else order.ttft_budget_seconds
        )
        first = {
            "fcfs": 0.0,
            "edf": deadline,
            "spf": order.prompt_tokens,
            "srtf": order.remaining_tokens,
            "aging": order.arrival_seconds + 0.01 * order.remaining_tokens,
        }
        return (first[self.world.plan.policy], order.queue_number)

    def _check_orders(self, waiting: list[Any]) -> None:
        """They stand with the budget and the tokens that were decided."""
        inside = {}
        for each in self.inside.values():
            tokens = None if each.ticket is None else each.tokens
            inside.setdefault(each.arrival, []).append((each.budget, tokens))
        for each in waiting:
            order = each.order
            found = inside.get(order.arrival_seconds, [])
            own = (order.ttft_budget_seconds, order.prompt_tokens)
            if own not in found and (own[0], None) not in found:
                self.world.wrong("bounded wait", f"{order.request_id} stands with {own}, decided were {found}")

    def _check_turns(self) -> None:
        """Where one is served at a time, nobody is taken to be computed before its turn."""
        ahead = self.desk.line.controller.ahead
        if not self.world.model.runs:  # nobody knows yet that it is so served
            return
        for number, each in self.inside.items():
            begun = "run" in each.exchange.ask.told or number == self.desk.line._holder
            if each.ticket is None or begun or number not in ahead:
                continue
            left = ahead.work_of(number).tokens
            if left != each.tokens:
                self.world.wrong("what is expected", f"{each.tokens - left} tokens are computed before their turn")

    def _check_memory(self) -> None:
        held = sum(len(each.exchange.ask.body) for each in self.inside.values())
        if held > self.world.plan.limits.bodies_bytes:
            self.world.wrong("memory is bounded", f"{held} bytes of bodies are held")

    def _check_promise(self, found: Inside, now: float) -> None:
        ticket, world, alpha = found.ticket, self.world, self.world.plan.alpha
        promise, told = ticket.promise, found.exchange.ask.told
        kind = promise.asked.kind
        if (promise.asked.ms, kind, promise.asked.on_infeasible == "refuse") != (
            told["budget"],
            told["budget_kind"],
            told["refuse"],
        ):
            world.wrong("status codes", f"request {found.exchange.ask.number} is read as {promise.asked}")
        by_those_alone = found.alone or kind != "ttft"
        seen = (
            self._pooled(kind)
            if by_those_alone
            else len(self.beside.get(self._class(_left(promise.asked.ms, ticket.spent_ms)), ()))
        )
        needed = Ratios(alpha).needed if by_those_alone else math.ceil(1 / alpha - 1e-9) - 1
        if promise.calibration_n > seen:
            world.wrong("nothing promised too early", f"calibrated on {promise.calibration_n} of {seen} requests")
        if abs(ticket.spent_ms - 1e3 * (now - found.arrival)) > CLOSE:
            world.wrong("within_budget agrees with the clock", f"{ticket.spent_ms} ms are said to be over")
        stands = ticket.queued_with_seconds
        if stands is not None and abs(stands - max(promise.asked.ms, ticket.spent_ms) / 1e3) > 2 * CLOSE:
            world.wrong("bounded wait", f"{promise.asked.ms} ms stand as {ticket.queued_with_seconds} s")
        if kind == "ttft" and ticket.queued_with_seconds is None and not promise.degraded:
            world.wrong("the best that fits", f"{promise.asked.ms} ms were given up, and are not marked")
        if promise.why_not is None:
            self.promised += 1
            if seen < needed:
                world.wrong("nothing promised too early", f"promised after {seen} of {needed} requests")
            if told["pictures"] != 1 or promise.degraded or (by_those_alone and not found.alone):
                world.wrong("nothing promised too early", f"promised to {told}, degraded {promise.degraded}")
        if found.alone:
            self._check_choice(found)
        elif not by_those_alone:
            self._check_bound_beside(found)
        if world.plan.kind == "calm":
            self._check_expected(found, now)

    def _check_choice(self, found: Inside) -> None:
        """Alone, the taken configuration fits by its bound and no other that does is better, or it needs least of all."""
        ticket, told = found.ticket, found.exchange.ask.told
        kind, budget, world = ticket.promise.asked.kind, ticket.promise.asked.ms, self.world
        taken = ticket.decision
        needs, spent = {}, ticket.spent_ms
        budget -= spent
        for entry in self._allowed(kind, told):
            ratios = self._ratios(kind, entry.config.tier, entry.latency_ms)
            needs[entry.config.key] = (
                entry.latency_ms * (ratios.upper_at(found.shift_alone) or 1.0),
                -entry.accuracy,
                entry.latency_ms * ratios.median,
            )
        own = needs[taken.config.key]
        fitting = [each for each in needs.values() if each[0] <= budget * (1 - CLOSE)]
        if ticket.promise.degraded:
            if fitting or own[0] > min(needs.values())[0] + CLOSE:
                world.wrong("the best that fits", f"{taken.config.key} is marked for {budget} ms: {needs}")
        elif own[0] > budget * (1 + CLOSE):
            world.wrong("the best that fits", f"{taken.config.key} needs {own[0]} ms of {budget}")
        elif any(each[1] <= own[1] and each[2] < own[2] - CLOSE for each in fitting):
            world.wrong("the best that fits", f"{taken.config.key} is worse than another for {budget} ms: {needs}")
        ratios = self._ratios(kind, taken.config.tier, taken.latency_ms)
        upper = ratios.upper_at(found.shift_alone)
        bound = None if upper is None else spent + upper * taken.latency_ms
        self._check_bound(bound, ticket.promise.bound_ms)
        expected = spent + ratios.median * taken.latency_ms
        if abs(expected - ticket.promise.expected_ms) > CLOSE * expected + CLOSE:
            world.wrong(
                "what is expected", f"alone {ticket.promise.expected_ms} ms is expected, by the scores {expected}"
            )

    def _check_bound_beside(self, found: Inside) -> None:
        promise, factor, spent = (
            found.ticket.promise,
            self._factor(found.left, found.shift_beside),
            found.ticket.spent_ms,
        )
        self._check_bound(None if factor is None else spent + factor * (promise.expected_ms - spent), promise.bound_ms)

    def _factor(self, budget: float | None, shift: float = 0.0) -> float | None:
        ratios = sorted(self.beside.get(self._class(budget), ()))
        rank = max(1, math.ceil((len(ratios) + 1) * (1 - self.world.plan.alpha) - 1e-9))
        return shifted(ratios, rank, 0.0 if budget is None else shift) if rank <= len(ratios) else None

    def _check_bound(self, bound: float | None, said: float | None) -> None:
        if (bound is None) != (said is None) or (bound and abs(bound - (said or 0.0)) > CLOSE * bound + CLOSE):
            self.world.wrong("nothing promised too early", f"the bound is {said} ms, by the scores {bound}")

    def _check_expected(self, found: Inside, now: float) -> None:
        """In a calm world what is expected comes true, but for the tokens that times are rounded to."""
        others = list(self.inside.values())
        if not all(each.exact and self._in_line(each) for each in others):
            return
        wait = self._true_wait_ms(found.arrival, found.budget, now)
        own = found.ticket.decision.latency_ms
        said = found.ticket.promise.expected_ms
        running = [each for each in others if "run" in each.exchange.ask.told]
        allowed = 1.1 * max((each.true_ms / each.tokens for each in running), default=0.0) + 0.05
        if abs(said - wait - own) > allowed:
            shown = [
                (each.exchange.ask.number, each.budget, each.true_ms, each.after_ms, "run" in each.exchange.ask.told)
                for each in others
            ]
            self.world.wrong(
                "what is expected",
                f"request {found.exchange.ask.number}: {said} ms are expected, {wait} of waiting and {own} come; "
                f"beside {shown}",
            )

    def _true_wait_ms(self, arrival: float, budget: float | None, now: float) -> float:
        total = 0.0
        for each in self.inside.values():
            run = each.exchange.ask.told.get("run")
            whole = each.true_ms + each.after_ms
            if run is not None:
                total += max(0.0, whole - 1e3 * (now - run.began))
            elif self._granted(each) or self._before(each, arrival, budget):
                total += whole
        return total

    def _in_line(self, each: Inside) -> bool:
        """Tell whether the engine knows a request: between the desk and its turn it may be passed by nobody."""
        waiting = {item.order.arrival_seconds for item in self.engine._waiting}
        return each.arrival in waiting or "run" in each.exchange.ask.told

    def _granted(self, each: Inside) -> bool:
        """Tell whether a request has the model and has not begun yet."""
        waiting = {item.order.arrival_seconds for item in self.engine._waiting}
        return each.arrival not in waiting and self.world.model.current is None

    def _before(self, each: Inside, arrival: float, budget: float | None) -> bool:
        if self.world.plan.policy == "fcfs":
            return True
        own = arrival + (NO_BUDGET_SECONDS if budget is None else budget)
        return each.arrival + (NO_BUDGET_SECONDS if each.budget is None else each.budget) <= own

    def _check_refusal(
        self, exchange: Exchange, asked: Any, refused: Any, alone: bool, now: float, spent: float
    ) -> None:
        """Nobody is refused who would have fit by a lower bound."""
        self.refused += 1
        exchange.ask.told["alone"] = alone
        told, alpha = exchange.ask.told, self.world.plan.alpha
        if not told["refuse"]:
            self.world.wrong("no refusal that would fit", f"request {exchange.ask.number} asked to be degraded")
        by_those_alone = alone or asked.kind != "ttft"
        entries = self._allowed(asked.kind, told)
        lowest = []
        for entry in entries:
            lower = self._ratios(asked.kind, entry.config.tier, entry.latency_ms).lower
            lowest.append(0.0 if lower is None else lower * entry.latency_ms)
        left = _left(asked.ms, spent)
        ratios = sorted(self.beside.get(self._class(left), ()))
        rank = math.floor((len(ratios) + 1) * alpha + 1e-9)
        wait = 1e3 * self.desk.line.wait_seconds(now_seconds=now, ttft_budget_seconds=None if by_those_alone else left)
        if refused.status == 422:
            least, spent = min(lowest), 0.0
        elif by_those_alone or not rank:
            least = wait + min(lowest)
        else:
            least = ratios[rank - 1] * (wait + min(self._own_ms(asked.kind, each) for each in entries))
        if refused.status == 429 and not by_those_alone and self.world.plan.policy in ("spf", "srtf", "aging"):
            own = ratios[rank - 1] if rank else None
            least = min(
                self._beside_ms(exchange, each, low, own, now) for each, low in zip(entries, lowest, strict=True)
            )
        least += spent
        if least <= asked.ms * (1 - CLOSE) - CLOSE:
            self.world.wrong(
                "no refusal that would fit",
                f"request {exchange.ask.number}: {refused.status} for {asked.ms} ms, which {least} would keep; {refused}",
            )
        if self.world.plan.kind == "calm" and all(each.exact for each in self.inside.values()):
            self._check_calm_refusal(exchange, asked, refused, now)

    def _beside_ms(self, exchange: Exchange, entry: Any, lowest: float, ratio: float | None, now: float) -> float:
        """Return what a configuration takes at least under an order by size, where each has a place of its own."""
        told, own = exchange.ask.told, self._own_ms("ttft", entry)
        tokens = len(f"request {exchange.ask.number} {'x' * told['padding']}".split())
        tokens += told["pictures"] * TOKENS["low" if told["detail"] == "low" else entry.config.tier]
        candidate = LoadCandidate(accuracy=1.0, work=self.desk.line.work_of(tokens, own / 1e3))
        (seconds,) = self.desk.line.predicted_seconds(
            [candidate], now_seconds=now, ttft_budget_seconds=told["budget"] / 1e3
        )
        return 1e3 * seconds - own + lowest if ratio is None else 1e3 * seconds * ratio

    def _check_calm_refusal(self, exchange: Exchange, asked: Any, refused: Any, now: float) -> None:
        budget = asked.ms / 1e3 if asked.kind == "ttft" else None
        wait = 0.0 if refused.status == 422 else self._true_wait_ms(now, budget, now)
        least = min(entry.latency_ms for entry in self._allowed(asked.kind, exchange.ask.told))
        rounding = 1.2 * max((each.true_ms / each.tokens for each in self.inside.values()), default=0.0) + 0.01
        if wait + least <= asked.ms - rounding:
            self.world.wrong(
                "no refusal that would fit",
                f"request {exchange.ask.number}: {refused.status} for {asked.ms} ms, and {wait + least} come true",
            )
        if refused.status == 429:
            beside = None if exchange.ask.told["alone"] or asked.kind != "ttft" else self._factor(asked.ms / 1e3)
            after = max(1, math.ceil(((wait + least) * (beside or 1.0) - asked.ms) / 1e3))
            if abs(int(refused.headers["retry-after"]) - after) > 1 + rounding / 1e3:
                self.world.wrong("status codes", f"429 says {refused.headers}, by the clock {after} s")
        elif abs(refused.details["least_budget_ms"] - least) > 0.02:
            self.world.wrong("status codes", f"422 says {refused.details}, and {least} ms do")

    # small things

    def _shifts(self, asked: Any, spent: float) -> tuple[float, float]:
        """Return by how much broken promises move the bounds of those alone, and of those beside others."""
        alone = self.desk.promises[asked.kind].shift(round(2 * math.log2(asked.ms)))
        beside = self.desk.line.controller.promises.shift(round(math.log2(_left(asked.ms, spent))))
        if alone < 0 or beside < 0:
            self.world.wrong("nothing promised too early", f"promises that were kept narrow bounds: {alone}, {beside}")
        return alone, beside

    def _exchange(self) -> Exchange:
        task = asyncio.current_task()
        return next(each for each in reversed(self.world.exchanges) if each.task is task)

    def _entered(self, exchange: Exchange, ticket: Any, received: float) -> Inside:
        tokens = ticket.promise.text_tokens + ticket.promise.image_tokens
        return Inside(
            exchange=exchange,
            arrival=received,
            budget=ticket.queued_with_seconds,
            true_ms=self.world.model.machine.ttft_ms(ticket.decision.config),
            after_ms=self._after_ms(),
            exact=self._exact(),
            tokens=max(1, tokens),
            ticket=ticket,
        )

    def _exact(self) -> bool:
        """Tell whether the desk knows all that a request waits for: how long answers take, of it and of those before it."""
        answered = sum(self.world.served.host.counts.successes.values())
        return answered > 0 and all(each.exact for each in self.inside.values())

    def _after_ms(self) -> float:
        return self.world.machine.a_token_ms * 2  # calm answers have three tokens

    def _allowed(self, kind: str, told: dict[str, Any]) -> list[Any]:
        entries = self.desk.controllers[kind].entries
        low = told["detail"] == "low" and told["pictures"]
        return [each for each in entries if not low or each.config.tier == "low"]

    def _pooled(self, kind: str) -> int:
        found = self.taught[kind].get(None)
        return 0 if found is None else len(found.all)

    def _ratios(self, kind: str, tier: str | None, ms: float) -> Ratios:
        taught = self.taught[kind]
        for name in ((tier, round(2 * math.log2(ms))), tier):
            found = taught.get(name)
            if found is not None and found.upper is not None:
                return found
        return taught.get(None) or Ratios(self.world.plan.alpha)

    def _own_ms(self, kind: str, entry: Any) -> float:
        return self._ratios(kind, entry.config.tier, entry.latency_ms).median * entry.latency_ms

    def _class(self, budget: float | None) -> Any:
        if self.world.plan.policy != "edf" or budget is None:
            return None
        return round(math.log2(budget))


def _left(budget_ms: float, spent_ms: float) -> float:
    return max(budget_ms - spent_ms, 1e-3) / 1e3
