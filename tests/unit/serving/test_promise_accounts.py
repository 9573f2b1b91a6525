"""Promises that were broken widen the bounds of the next ones, alone and beside others, and come back once they are kept."""

import pytest
from serving_desk import calibrated_desk, chat

from paceline.estimate.online_scores import budget_class
from paceline.estimate.recent import size_class
from paceline.schedule import (
    DecodeLoad,
    LoadCandidate,
    LoadController,
    LoadSettings,
    PlannerSettings,
    PrefillWork,
    ServerLoad,
)
from paceline.schedule.server_load import MILLISECONDS
from paceline.wire.body import body_of, raw

PATH = "/v1/chat/completions"
BUDGET_MS = 38.2  # the largest configuration takes 38
EDF = PlannerSettings(chunk_size=1, policy="edf")
WORK = PrefillWork(tokens=100)
NOBODY = DecodeLoad(tokens=0, context_tokens=0)


def spread_desk():
    """A desk whose hundred calibrating requests took 0.9 to 1 times what was predicted."""
    desk = calibrated_desk()
    for number in range(100):
        desk.alone["ttft"].scores.pooled.observe(9.0 + number / 100, 10.0)
    return desk


def accepted(desk, budget_ms):
    body = body_of({name: raw(value) for name, value in chat(budget_ms).items()})
    ticket = desk.accept(desk.read(PATH, [], body), received_seconds=0.0, now_seconds=0.0)
    desk.finish(ticket, 0.0)  # the client left: nothing is measured
    return ticket


def broken(accounts, name, count):
    for _ in range(count):
        accounts.observe(name, kept=False)


def test_a_bound_widens_with_broken_promises_of_such_budgets_and_never_narrows():
    desk, before = spread_desk(), accepted(spread_desk(), 500.0).promise
    accounts = desk.alone["ttft"].promises
    broken(accounts, size_class(500.0), 3)
    wider = accepted(desk, 500.0).promise
    assert wider.bound_ms > before.bound_ms and wider.config == before.config and wider.why_not is None
    for _ in range(2000):
        accounts.observe(size_class(500.0), kept=True)
    assert accepted(desk, 500.0).promise.bound_ms == before.bound_ms


def test_a_promise_that_is_withheld_for_broken_ones_comes_back():
    desk = spread_desk()
    least = min(each.latency_ms for each in desk.controllers["ttft"].entries)
    budget_ms = 1.005 * least
    assert accepted(desk, budget_ms).promise.why_not is None
    broken(desk.alone["ttft"].promises, size_class(budget_ms), 8)
    withheld = accepted(desk, budget_ms).promise
    assert withheld.why_not == "no configuration is bounded by this budget" and withheld.degraded
    assert accepted(desk, 0.5 * least).promise.why_not  # bounded by none either way
    numbers = [number for number in range(400) if accepted(desk, budget_ms).promise.why_not is None]
    assert 20 < numbers[0] < 250  # each counts as one that was kept


def test_what_a_client_measured_is_counted():
    desk = spread_desk()
    for number in range(4):
        body = body_of({name: raw(value) for name, value in chat(500.0).items()})
        ticket = desk.accept(desk.read(PATH, [], body), received_seconds=float(number), now_seconds=float(number))
        desk.first_token(ticket, 600.0)
        desk.finish(ticket, number + 0.7)
    assert desk.metrics.promises["missed"] == 4
    assert desk.alone["ttft"].promises.shift(size_class(500.0)) == pytest.approx(0.2 * 0.05 * (4 - 4 * 0.7 * 0.05))


@pytest.mark.parametrize(("waited_ms", "missed"), [(400.0, 0), (500.0, 0), (500.5, 1), (9_000.0, 1)])
def test_a_promise_whose_client_left_once_its_time_had_passed_is_broken(waited_ms, missed):
    """Else whoever gives up at his budget, as gateways do for him, would be left out of what is kept."""
    desk = spread_desk()
    body = body_of({name: raw(value) for name, value in chat(500.0).items()})
    first = desk.accept(desk.read(PATH, [], body), received_seconds=0.0, now_seconds=0.0)
    assert first.promise.why_not is None and first.alone
    desk.finish(first, waited_ms / 1e3)
    assert (desk.metrics.promises["missed"], desk.metrics.promises["kept"]) == (missed, 0)
    account = spread_desk().alone["ttft"].promises
    broken(account, size_class(500.0), missed)
    assert desk.alone["ttft"].promises.shift(size_class(500.0)) == account.shift(size_class(500.0))
    assert len(desk.alone["ttft"].scores.pooled) == 150 and not sum(desk.metrics.measured_ttft.counts)


def test_beside_others_too_a_promise_is_broken_by_its_time():
    controller = line()
    desk = calibrated_desk(line=ServerLoad(controller))
    body = body_of({name: raw(value) for name, value in chat(1000.0).items()})
    tickets = [desk.accept(desk.read(PATH, [], body), received_seconds=0.0, now_seconds=0.0) for _ in range(2)]
    assert not tickets[1].alone and tickets[1].promise.why_not is None
    desk.finish(tickets[1], 2.0)
    desk.finish(tickets[0], 0.5)
    assert desk.metrics.promises == {"missed": 1} and not controller.awaited and not len(controller.ahead)
    again = line()
    broken(again.promises, budget_class(1.0), 1)
    assert controller.promises.shift(budget_class(1.0)) == again.promises.shift(budget_class(1.0)) > 0


def test_an_answer_whose_first_token_nobody_told_of_is_counted_nowhere():
    """An engine tells nothing of some answers that do not stream."""
    desk = spread_desk()
    body = body_of({name: raw(value) for name, value in chat(500.0).items()})
    ticket = desk.accept(desk.read(PATH, [], body), received_seconds=0.0, now_seconds=0.0)
    ticket.total_ms = 900.0
    desk.finish(ticket, 0.9)
    assert not desk.metrics.promises


def test_nobody_is_missed_who_was_promised_nothing():
    desk = spread_desk()
    for fields in ({"budget_ms": 5.0}, {"budget_ms": 500.0, "picture": False}):
        body = body_of({name: raw(value) for name, value in chat(**fields).items()})
        ticket = desk.accept(desk.read(PATH, [], body), received_seconds=0.0, now_seconds=0.0)
        assert ticket.promise.why_not is not None
        desk.finish(ticket, 60.0)
    assert not desk.metrics.promises["missed"]


def line():
    controller = LoadController(LoadSettings(alpha=0.1), EDF, MILLISECONDS)
    for number in range(100):
        for budget in (0.12, 1.0):
            kind = controller.kind(budget)
            controller.scores.observe(kind, measured_seconds=1.0 + number / 1000, predicted_seconds=1.0)
    return controller


def decided(controller, budget):
    return controller.decide(
        [LoadCandidate(accuracy=0.9, work=WORK)],
        arrival_seconds=0.0,
        ready_seconds=0.0,
        ttft_budget_seconds=budget,
        decodes=NOBODY,
    )


def test_beside_others_the_engines_own_outcomes_are_counted():
    controller = line()
    before = decided(controller, 1.0)
    assert before.promised and not before.withheld
    for name in range(4):
        controller.admit(name, before, WORK, arrival_seconds=0.0, ready_seconds=0.0)
        controller.finished(name, 1.5)
    after = decided(controller, 1.0)
    assert controller.promises.shift(budget_class(1.0)) > 0
    assert after.bound_seconds / after.predicted_seconds > 1.4  # by the scores and by the account
    again = line()
    broken(again.promises, budget_class(1.0), 2)
    assert decided(again, 1.0).bound_seconds > before.bound_seconds
    assert decided(again, None).bound_seconds == decided(line(), None).bound_seconds


def test_beside_others_too_a_withheld_promise_comes_back():
    controller = line()
    budget = decided(controller, 1.0).bound_seconds * 1.002
    assert decided(controller, budget).promised
    broken(controller.promises, budget_class(budget), 15)
    numbers = []
    for number in range(400):
        decision = decided(controller, budget)
        if decision.promised:
            numbers.append(number)
        assert decision.withheld != decision.promised
        controller.admit(number, decision, WORK, arrival_seconds=0.0, ready_seconds=0.0)
        controller.gone(number)
    assert 20 < numbers[0] < 300
