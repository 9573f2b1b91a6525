"""A second opinion of what the desk and the engine decide, kept beside them from what happened, with arithmetic of its own.

It sees each request when it is accepted, refused, first answered and finished, and each turn that is given. Scores, ranks and
orders are computed here again, by other means; in a calm world, where a machine takes what its table says, so is the wait.
"""

import math
from dataclasses import dataclass
from typing import Any

from desk_accounts import BrokenPromises, SecondsPrice
from simulated_network import WHOSE, Exchange

from paceline.errors import RequestRefusedError
from paceline.records import TIERS
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
        self.numbers: dict[str, int] = {}  # in the ledger, of those that asked for a turn
        self._seen = (0, 0)
        alpha = world.plan.alpha
        self.broken = {kind: BrokenPromises(alpha) for kind in self.desk.controllers}  # of those that were alone
        self.broken_beside = BrokenPromises(alpha)
        self.native_seconds = 0.0  # what a request without a budget is taken to compute
        self.price = self._price()
        self._wrap()

    def _wrap(self) -> None:
        desk, engine = self.desk, self.engine
        for name in ("accept", "accept_native", "finish", "finish_native", "first_token"):
            setattr(desk, name, getattr(self, f"_{name}")(getattr(desk, name)))
        self._watch_withheld()
        engine._wait, engine._release = self._waiting(engine._wait), self._released(engine._release)

    def each_tick(self) -> None:
        if len(self.desk.ledger) != len(self.inside):
            self.world.wrong(
                "nothing is left at rest", f"{len(self.desk.ledger)} in the ledger, {len(self.inside)} inside"
            )
        if len(self.desk.line) > len(self.inside):
            self.world.wrong("nothing is left at rest", f"{len(self.desk.line)} in the line, {len(self.inside)} inside")
        self._check_queue()

    def first_waiting(self) -> Exchange | None:
        """Return whose turn is next, None where nobody waits."""
        staying = [each for each in self.engine._waiting._live if not each.granted.done()]
        if not staying:
            return None
        found = self.inside.get(self.numbers[min(staying, key=self._key_of).order.request_id])
        return None if found is None else found.exchange

    # what is watched

    def _accept(self, accept: Any) -> Any:
        def accepting(reading: Any, *, received_seconds: float, now_seconds: float) -> Any:
            exchange = WHOSE.get()
            alone, spent = not self.inside, 1e3 * (now_seconds - received_seconds)
            shifts = self._shifts(reading.asked, spent)
            placed = not alone and reading.asked.kind == "ttft" and exchange.ask.told["kind"] == "chat"
            least = self._least_seconds(exchange, spent, now_seconds) if placed else None
            found_idle, found_empty = not self.desk.line.controller.ahead, not self.inside
            try:
                ticket = accept(reading, received_seconds=received_seconds, now_seconds=now_seconds)
            except RequestRefusedError as refused:
                if refused.status in (422, 429):
                    self._note_largest(exchange, reading.asked.kind)
                    self.budgets_refused += 1
                    exchange.ask.told["desk_refused"] = True
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
            if least is not None:
                self._check_place(found, least)
            self._note_largest(exchange, reading.asked.kind)
            own_ms = [
                self._own_ms(reading.asked.kind, each) for each in self._allowed(reading.asked.kind, exchange.ask.told)
            ]
            taken_seconds = self._taken_seconds(ticket)
            is_least = len(own_ms) > 1 and 1e3 * taken_seconds <= min(own_ms) * (1 + 1e-9)
            came = {"found_idle": found_idle, "found_empty": found_empty}
            self._check_price(taken_seconds, now_seconds, **came, is_least=is_least, has_budget=True)
            exchange.entry = ticket.entry.number
            self.inside[ticket.entry.number] = found
            self.tickets.append((exchange, ticket))
            self._check_line()
            return ticket

        return accepting

    def _accept_native(self, accept_native: Any) -> Any:
        def accepting(now_seconds: float) -> Any:
            known = self.desk._native is not None
            exchange = WHOSE.get()
            if exchange.received_at is None:
                self.world.wrong("each request ends exactly once", "a request that is half there has the engine")
            found_idle, found_empty = not self.desk.line.controller.ahead, not self.inside
            entry = accept_native(now_seconds)
            self.accepts, self.natives = self.accepts + 1, self.natives + 1
            model = self.world.model
            if known:
                came = {"found_idle": found_idle, "found_empty": found_empty}
                self._check_price(self.native_seconds, now_seconds, **came, is_least=False, has_budget=False)
            exchange.entry = entry.number
            self.inside[entry.number] = Inside(
                exchange=exchange,
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
            if ticket.promise.why_not is None:
                self._note_promise(found, measured, now_seconds)
            if measured is None or found.exchange.ask.told["pictures"] != 1:
                return
            if found.alone and found.exchange.ask.told.get("undisturbed") and ticket.entry.number > WARM_UP:
                measured -= ticket.spent_ms
                needed, tier = ticket.decision.latency_ms, ticket.decision.config.tier
                for name in (None, tier, (tier, _size(needed))):
                    self.taught[kind].setdefault(name, Ratios(self.world.plan.alpha)).add(measured, needed)
            elif not found.alone and kind == "ttft":
                measured, predicted = measured - ticket.spent_ms, ticket.promise.expected_ms - ticket.spent_ms
                self.beside.setdefault(self._class(found.left), []).append(max(measured, 1e-3) / max(predicted, 1e-3))

        return finishing

    def _note_promise(self, found: Inside, measured: float | None, now: float) -> None:
        """A promise is broken, too, where the request ends without what was promised once its time has passed."""
        ticket, budget = found.ticket, found.ticket.promise.asked.ms
        passed = measured is None and ticket.total_ms is None and 1e3 * (now - ticket.received_seconds) > budget
        self.passed += passed
        if measured is None and not passed:
            return
        broken = measured is None or measured > budget
        if found.alone:
            self.broken[ticket.promise.asked.kind].note(_size(budget), broken=broken)
        else:
            self.broken_beside.note(round(math.log2(_left(budget, ticket.spent_ms))), broken=broken)

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

    def _waiting(self, wait: Any) -> Any:
        async def waiting(order: Any, patience: float | None) -> None:
            number = self.numbers[order.request_id] = WHOSE.get().entry or 0
            if number in self.inside:
                self._check_order(order, self.inside[number])
            else:
                self.world.wrong("nothing is left at rest", f"{order.request_id} wants a turn, and nobody knows of it")
            await wait(order, patience)

        return waiting

    def _released(self, release: Any) -> Any:
        def releasing() -> None:
            before = {each.order.request_id: each for each in self.engine._waiting}
            staying = [each for each in before.values() if not each.granted.done()]
            release()
            left = {each.order.request_id for each in self.engine._waiting}
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
        return (first[self.world.plan.policy], self.numbers[order.request_id])

    def _check_order(self, order: Any, found: Inside) -> None:
        """A request stands with the arrival, the budget and the tokens that were decided."""
        tokens = order.prompt_tokens if found.ticket is None else found.tokens
        decided = (found.arrival, found.budget, tokens, tokens)
        own = (order.arrival_seconds, order.ttft_budget_seconds, order.prompt_tokens, order.remaining_tokens)
        if own != decided:
            self.world.wrong("bounded wait", f"{order.request_id} stands with {own}, decided was {decided}")

    def _check_queue(self) -> None:
        """Nobody waits for the model that has ended."""
        live = self.engine._waiting._live
        seen = (len(live), len(self.inside))
        if seen == self._seen:
            return
        self._seen = seen
        for each in live:
            if self.numbers[each.order.request_id] not in self.inside:
                self.world.wrong("each request ends exactly once", f"{each.order.request_id} waits and has ended")

    def _check_line(self) -> None:
        """Who is taken to be before whom is so by the policy, the one apart that has the engine."""
        policy, line, last = self.world.plan.policy, self.desk.line, None
        for number in line.controller.ahead:
            each = self.inside.get(number)
            if each is None or "run" in each.exchange.ask.told or number == line._holder:
                continue
            if each.ticket is None and policy not in ("fcfs", "edf"):  # nobody counts its tokens
                continue
            spent = 0.0 if each.ticket is None else each.ticket.spent_ms / 1e3  # it came to the line so much later
            first = {
                "fcfs": 0.0,
                "edf": each.arrival + (NO_BUDGET_SECONDS if each.budget is None else each.budget),
                "aging": each.arrival + 0.01 * each.tokens,
            }.get(policy, each.tokens)
            if last is not None and (first + spent + CLOSE < last[0] or (first == last[0] and number < last[1])):
                self.world.wrong(
                    "what is expected", f"request {last[1]} of the ledger stands before {number} in the line"
                )
            last = (first, number)

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
            self._note_withheld(found)
            self._check_choice(found, now)
        elif not by_those_alone:
            self._check_bound_beside(found)
        if world.plan.kind == "calm":
            self._check_expected(found, now)

    def _note_withheld(self, found: Inside) -> None:
        """A promise that is not given for broken ones alone counts as one that is kept."""
        promise, spent = found.ticket.promise, found.ticket.spent_ms
        if not found.shift_alone or not (promise.why_not or "").startswith("no configuration is bounded"):
            return
        kind, told = promise.asked.kind, found.exchange.ask.told
        for entry in self._allowed(kind, told):
            upper = self._ratios(kind, entry.config.tier, entry.latency_ms).upper
            if upper is not None and spent + upper * entry.latency_ms <= promise.asked.ms:
                self.broken[kind].note(_size(promise.asked.ms), broken=False)
                return

    def _check_choice(self, found: Inside, now: float) -> None:
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
        elif self.price is not None:
            price = self.price.at(now)
            worth = max(-less - price * own_ms / 1e3 for _, less, own_ms in (own, *fitting))
            if -own[1] - price * own[2] / 1e3 < worth - CLOSE:
                world.wrong("the best that fits", f"{taken.config.key} is not worth most at {price} a second: {needs}")
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
        (seconds,) = self._predicted_seconds(exchange, [entry], now, exchange.ask.told["budget"] / 1e3)
        own = self._own_ms("ttft", entry)
        return 1e3 * seconds - own + lowest if ratio is None else 1e3 * seconds * ratio

    def _predicted_seconds(self, exchange: Exchange, entries: list[Any], now: float, left: float) -> list[float]:
        """Return when the line would have a first token come under each configuration, of works that are computed here."""
        told, line = exchange.ask.told, self.desk.line
        words = len(f"request {exchange.ask.number} {'x' * told['padding']}".split())
        candidates = []
        for entry in entries:
            tokens = words + told["pictures"] * TOKENS["low" if told["detail"] == "low" else entry.config.tier]
            work = line.work_of(tokens, self._own_ms("ttft", entry) / 1e3)
            candidates.append(LoadCandidate(accuracy=1.0, work=work))
        return line.predicted_seconds(candidates, now_seconds=now, ttft_budget_seconds=left)

    def _least_seconds(self, exchange: Exchange, spent: float, now: float) -> float:
        """Return when the fastest configuration would have its first token, by what is ahead."""
        told = exchange.ask.told
        left = _left(told["budget"], spent)
        return min(self._predicted_seconds(exchange, self._allowed("ttft", told), now, left))

    def _check_place(self, found: Inside, least: float) -> None:
        """Who is late even under the fastest configuration gives up its place, and nobody else."""
        left, stands = _left(found.exchange.ask.told["budget"], found.ticket.spent_ms), found.budget is not None
        if stands != (least <= left) and abs(least - left) > CLOSE * (1 + left):
            does = "holds its place" if stands else "is given up"
            self.world.wrong("the best that fits", f"request {found.exchange.ask.number} {does}: {least} s of {left} s")

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
        size, left = _size(asked.ms), round(math.log2(_left(asked.ms, spent)))
        alone = self.desk.alone[asked.kind].promises.shift(size)
        beside = self.desk.line.controller.promises.shift(left)
        expected = self.broken[asked.kind].shift(size), self.broken_beside.shift(left)
        if abs(alone - expected[0]) > CLOSE or abs(beside - expected[1]) > CLOSE:
            self.world.wrong(
                "nothing promised too early", f"bounds widen by {(alone, beside)}, by the broken {expected}"
            )
        return alone, beside

    def _watch_withheld(self) -> None:
        """Beside others it is the line that says what is promised but for broken promises."""
        promises = self.desk.line.controller.promises
        withheld = promises.withheld

        def noting(name: Any) -> None:
            self.broken_beside.note(name, broken=False)
            withheld(name)

        promises.withheld = noting

    def _price(self) -> SecondsPrice | None:
        """Return the price of the engine's time; None where it is learned."""
        first = next(iter(self.desk.controllers.values())).entries
        return SecondsPrice(max(first, key=_size_of).latency_ms / 1e3)

    def _note_largest(self, exchange: Exchange, kind: str) -> None:
        """A request without a budget counts as the last one with a budget would under its largest configuration."""
        own = self._own_ms(kind, max(self._allowed(kind, exchange.ask.told), key=_size_of)) / 1e3
        self.native_seconds = max(own - (self.desk.after_seconds() if kind == "total" else 0.0), 1e-9)

    def _taken_seconds(self, ticket: Any) -> float:
        taken, kind = ticket.decision, ticket.promise.asked.kind
        return self._ratios(kind, taken.config.tier, taken.latency_ms).median * taken.latency_ms / 1e3

    def _check_price(self, work: float, now: float, **came: bool) -> None:
        if self.price is None:
            return
        self.price.take(work, now, **came)
        said, expected = self.desk.line.controller.price.per_second, self.price.per_second
        if abs(said - expected) > CLOSE * (1 + expected):
            self.world.wrong("the best that fits", f"a second costs {said}, by what came {expected}")

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
        for name in ((tier, _size(ms)), tier):
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


def _size(ms: float) -> int:
    """Return the half octave that some milliseconds are in."""
    return round(2 * math.log2(ms))


def _size_of(entry: Any) -> tuple[int, int]:
    return TIERS.index(entry.config.tier), entry.config.top_k


def _left(budget_ms: float, spent_ms: float) -> float:
    return max(budget_ms - spent_ms, 1e-3) / 1e3
