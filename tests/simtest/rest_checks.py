"""What must hold once nothing moves any more: nothing is left anywhere, everybody was told once, and all counts agree."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from simulated_network import Exchange

QUIET = ("/health", "/metrics")
LATE_TICKS = 400  # callbacks that may pass between a client that leaves and an answer that ends
LEFT = ("client_left", "client_stuck", "server_stopped")
LOGGED = ("budget_ms", "budget_kind", "bound_ms", "expected_ms", "ttft_ms", "promised", "degraded")
ROUNDING_MS = 2e-3
Problem = tuple[str, str]


def problems_at_rest(world: Any) -> Iterator[Problem]:
    """Give what is left of a world that has ended, and whom it did not answer."""
    served, name = world.served, "nothing is left at rest"
    engine, desk, gate = served.engine, served.desk, served.app
    line = desk.line
    left = {
        "running": engine.running,
        "waiting": engine.waiting,
        "wanted": len(engine._unwanted),
        "bodies": gate.bodies_bytes,
        "ledger": len(desk.ledger),
        "prefilling": len(desk.ledger.prefilling),
        "line": len(line),
        "decoding": len(line._decoding),
        "ahead": len(line.controller.ahead),
        "awaited": len(line.controller.awaited),
        "model": int(world.model.current is not None),
        "inside": len(world.oracle.inside),
    }
    if any(left.values()):
        yield name, f"left: { {what: count for what, count in left.items() if count} }"
    for problem in world.model.problems:
        yield "one has the model", problem
    for exchange in world.exchanges:
        for what in _problems_of_end(world, exchange):
            yield (
                "each request ends exactly once",
                f"request {exchange.ask.number} ({exchange.ask.told.get('name')}): {what}",
            )
        _allow(world, exchange)
    yield from _problems_of_stop(world)
    yield from _problems_of_waits(world)
    if served.engine.draining != (world.stopped_at is not None):
        yield "SIGTERM", "draining without a signal, or none after it"


def _problems_of_end(world: Any, exchange: Exchange) -> Iterator[str]:
    ask, limits = exchange.ask, world.plan.limits
    if exchange.ended_at is None:
        yield "it never ended"
        return
    cancelled = ask.told.get("cancelled") and isinstance(exchange.error, asyncio.CancelledError)
    if exchange.error is not None and not cancelled:
        yield f"the server raised {exchange.error!r}"
    if exchange.finished != 1:
        yield f"it was told finished {exchange.finished} times"
    if not exchange.answered and not exchange.gone and not cancelled:
        yield "its client stayed and was not answered"
    if ask.stays and exchange.gone:
        yield "its client was cut off"
    if exchange.gone and ask.reads is None and exchange.messages and ask.leaves_at is None:
        late = exchange.ended_at - exchange.messages[-1][0] - limits.send_seconds
        run = ask.told.get("run")
        if run is not None and run.ended is not None:
            late = exchange.ended_at - max(run.ended, exchange.messages[-1][0] + limits.send_seconds)
        if late > 0.2:
            yield f"a client that takes nothing was kept {late} s too long"


def _allow(world: Any, exchange: Exchange) -> None:
    """Note which failures an exchange may be told, by what happened to it."""
    told, run = exchange.ask.told, exchange.ask.told.get("run")
    if run is not None and run.failed is not None:
        told["may_fail_midway"] = True
        told["may_fail"] = (503,) if run.failed == "dead" else (400,)
    if run is not None and run.unwanted_after is not None:
        told["cut"] = True
    if exchange.ask.stalls_after is not None:
        told["may_fail"] = (*told.get("may_fail", ()), 408)
    if exchange.status == 503:
        told["may_be_503"] = _may_be_turned_away(world, exchange)


def _may_be_turned_away(world: Any, exchange: Exchange) -> bool:
    error = json.loads(exchange.body or b"{}").get("error", {})
    code, message = error.get("code"), error.get("message", "")
    if code == "server_stopping":
        return world.stopped_at is not None and exchange.messages[0][1] >= world.stopped_tick
    if code == "overloaded" and "wait already" in message:
        return exchange.waiting_at_answer == world.plan.limits.waiting
    if code == "overloaded":
        others = [
            each
            for each in world.exchanges
            if each.started_at <= exchange.ended_at and (each.ended_at or 0) >= exchange.started_at
        ]
        return sum(len(each.ask.body) for each in others) > world.plan.limits.bodies_bytes
    return False


def _problems_of_stop(world: Any) -> Iterator[Problem]:
    """After SIGTERM what waits is handed back at once, and what runs ends with the grace."""
    if world.stopped_at is None:
        return
    limits, model = world.plan.limits, world.model
    after = [run for run in model.runs if run.began_tick > world.stopped_tick]
    if len(after) > 1:
        yield "SIGTERM", f"{[run.number for run in after]} began after it"
    due = world.stopped_at + limits.grace_seconds
    if world.stopped_twice_at is not None:
        due = min(due, world.stopped_twice_at)
    for run in model.runs:
        late = [when for when in run.token_times if when > due + 1e-9]
        if len(late) > 1:
            yield "SIGTERM", f"request {run.number} went on for {len(late)} tokens after its grace"
    for exchange in world.exchanges:
        if exchange.status == 503 and exchange.answered and exchange.ask.told["engine"]:
            received = exchange.received_at
            waited = exchange.messages[0][0] - max(world.stopped_at, received or exchange.started_at)
            if b"server_stopping" in exchange.body and received is not None and waited > 0.05:
                yield "SIGTERM", f"request {exchange.ask.number} was handed back after {waited} s"


def _problems_of_waits(world: Any) -> Iterator[Problem]:
    """Who would rather be refused waits no longer than its budget; who has left is not answered on."""
    slack = 200 * world.plan.tick_seconds + 1e-6
    for exchange in world.exchanges:
        told, run = exchange.ask.told, exchange.ask.told.get("run")
        if run is not None and exchange.gone and exchange.gone_tick < exchange.ended_tick:
            until = exchange.gone_at + LATE_TICKS * world.plan.tick_seconds + 1e-9
            late = [when for when in run.token_times if when > until]
            if len(late) > 1:
                yield (
                    "each request ends exactly once",
                    f"request {run.number} was answered on for {len(late)} tokens, and gone",
                )
        received = exchange.received_at
        if received is None or told["kind"] != "chat":
            continue
        if told["budget"] is not None and told["refuse"]:
            until = received + told["budget"] / 1e3 + slack
            began = run.began if run is not None else exchange.messages[0][0] if exchange.status == 429 else None
            if began is not None and began > until:
                yield (
                    "bounded wait",
                    f"request {exchange.ask.number} waited {began - received} s of {told['budget']} ms",
                )
        outcome = exchange.scope_at_end.get("outcome")
        queue_ms = None if run is None or outcome is None else outcome.times.queue_ms
        if queue_ms is not None and abs(1e3 * (run.began - received) - queue_ms) > 1e3 * slack:
            waited = 1e3 * (run.began - received)
            yield "within_budget agrees with the clock", f"queue is {queue_ms} ms, by the clock {waited}"
    for exchange in world.exchanges:
        if exchange.ask.path == "/health" and exchange.status is not None:
            stopped = world.stopped_at is not None and exchange.messages[0][1] > world.stopped_tick
            if exchange.status != (503 if stopped else 200) and exchange.messages[0][1] != world.stopped_tick:
                yield "status codes", f"/health is {exchange.status}, stopped is {stopped}"
            said = json.loads(exchange.body) if exchange.answered else None
            if said is not None and (said["status"], said["waiting"]) != (
                "ok" if exchange.status == 200 else "stopping",
                exchange.waiting_at_answer,
            ):
                yield "status codes", f"/health says {said}, {exchange.waiting_at_answer} wait"


def problems_of_counts(world: Any) -> Iterator[Problem]:
    """Give where counts, lines and answers do not agree."""
    for what in (
        *_problems_of_log(world),
        *_problems_of_lines(world),
        *_problems_of_server_counts(world),
        *_problems_of_promises(world),
    ):
        yield "nothing is counted twice", what
    for what in problems_of_measures(world):
        yield "within_budget agrees with the clock", what


def _problems_of_log(world: Any) -> Iterator[str]:
    lines = [json.loads(line) for line in world.log]
    spoken = [
        each for each in world.exchanges if each.ask.path not in QUIET or (each.visit and each.visit.status >= 400)
    ]
    if len(lines) != len(spoken):
        yield f"{len(lines)} lines in the log for {len(spoken)} requests"
    ids = [line["request_id"] for line in lines if "request_id" in line]
    if len(set(ids)) != len(ids):
        yield "two requests have one id"
    if any("request " in line for line in world.log):
        yield "the log holds a prompt"
    for exchange in world.exchanges:
        if exchange.messages and exchange.visit and exchange.visit.status != exchange.status:
            yield f"request {exchange.ask.number} is {exchange.visit.status} in the log and was told {exchange.status}"


def _problems_of_lines(world: Any) -> Iterator[str]:
    """A chat's line says how it ended, and the same of its budget as its client was told."""
    lines = {line["request_id"]: line for line in map(json.loads, world.log) if "request_id" in line}
    for exchange in world.exchanges:
        outcome, told = exchange.scope_at_end.get("outcome"), exchange.ask.told
        if outcome is None or not outcome.request_id:
            continue
        line = lines.get(outcome.request_id, {})
        if (line.get("error"), line.get("finish_reason")) != (outcome.error, outcome.finish_reason):
            yield f"the log says of {outcome.request_id} {line}, it ended as {outcome.error} or {outcome.finish_reason}"
        if outcome.error == "client_left" and not exchange.gone:
            yield f"{outcome.request_id} ended as left, and its client stayed"
        if outcome.error == "server_stopped" and not told.get("cancelled"):
            yield f"{outcome.request_id} ended with the server, which went on"
        report = told.get("report") or {}
        for name in LOGGED:
            if name in report and line.get(name) != report[name]:
                yield f"{name} of {outcome.request_id} is {line.get(name)} in the log, its client was told {report[name]}"


def problems_of_measures(world: Any) -> Iterator[str]:
    """Whatever was answered has a time to first token and one to its end, by the clock."""
    for exchange, ticket in world.oracle.tickets:
        if not exchange.answered or exchange.status != 200 or exchange.problems:
            continue
        number, last = exchange.ask.number, exchange.messages[-1 if exchange.ask.told["stream"] else 0][0]
        if ticket.ttft_ms is None or ticket.total_ms is None:
            yield f"request {number} was answered, and has {ticket.ttft_ms} and {ticket.total_ms} ms"
            continue
        sent = 1e3 * (last - exchange.received_at)
        slow = 60e3 * world.plan.tick_seconds + ROUNDING_MS if not exchange.ask.reads else sent
        if not -ROUNDING_MS <= sent - ticket.total_ms <= slow:
            yield f"request {number} took {ticket.total_ms} ms in all, by the clock {sent}"


def _problems_of_server_counts(world: Any) -> Iterator[str]:
    counts = world.served.host.counts
    outcomes = [each.scope_at_end.get("outcome") for each in world.exchanges]
    begun = [each for each in outcomes if each is not None and each.request_id]
    if counts.accepted != len(begun):
        yield f"{counts.accepted} accepted, {len(begun)} begun"
    finished = Counter(each.finish_reason for each in begun if each.finish_reason is not None)
    if finished != counts.successes:
        yield f"answers {dict(counts.successes)}, by the log {dict(finished)}"
    failed = Counter(each.error for each in begun if each.error is not None and each.error not in LEFT)
    left = sum(each.error in LEFT for each in begun)
    for code in {*failed, *counts.failures}:
        if not failed[code] <= counts.failures[code] <= failed[code] + left:
            yield f"{counts.failures[code]} failed of {code}, by the log {failed[code]}"
    for each in begun:
        if each.finish_reason is not None and each.error is not None and each.error not in LEFT:
            yield f"{each.request_id} ended as {each.finish_reason} and as {each.error}"
        if each.finish_reason is None and each.error is None:
            yield f"{each.request_id} has no end"
    for name in ("first_token", "whole"):
        count = sum(getattr(counts, name).counts)
        if count != sum(finished.values()):
            yield f"{count} in the histogram {name} of {sum(finished.values())} answers"
    tokens = sum(each.completion_tokens for each in begun if each.finish_reason is not None)
    if counts.completion_tokens != tokens or counts.prompt_tokens != 7 * sum(finished.values()):
        yield f"{counts.completion_tokens} tokens of answers, by the log {tokens}"


def _problems_of_promises(world: Any) -> Iterator[str]:
    desk, oracle = world.served.desk, world.oracle
    metrics, tickets = desk.metrics, [ticket for _, ticket in oracle.tickets]
    measured = [(each, each.ttft_ms if each.promise.asked.kind == "ttft" else each.total_ms) for each in tickets]
    kept = sum(ms is not None and each.promise.why_not is None and ms <= each.promise.asked.ms for each, ms in measured)
    missed = sum(
        ms is not None and each.promise.why_not is None and ms > each.promise.asked.ms for each, ms in measured
    )
    expected = {
        "kept": kept,
        "missed": missed + oracle.passed,
        "none_fit": sum(each.promise.degraded for each in tickets),
        "refused": oracle.budgets_refused,
    }
    if {name: metrics.promises[name] for name in expected} != expected:
        yield f"promises {dict(metrics.promises)}, by what happened {expected}"
    if sum(metrics.decisions.values()) != len(tickets):
        yield f"{sum(metrics.decisions.values())} decisions of {len(tickets)} requests"
    first = sum(each.promise.asked.kind == "ttft" and ms is not None for each, ms in measured)
    for histogram in (metrics.predicted_ttft, metrics.measured_ttft):
        if sum(histogram.counts) != first:
            yield f"{sum(histogram.counts)} first tokens in a histogram of {first}"
    if desk.ledger.accepted_count != oracle.accepts:
        yield f"{desk.ledger.accepted_count} in the ledger, {oracle.accepts} accepted"
    for kind, bounds in desk.alone.items():
        if len(bounds.scores.pooled) != oracle._pooled(kind):
            yield f"{len(bounds.scores.pooled)} scores of {kind}, by what happened {oracle._pooled(kind)}"
    for name, ratios in oracle.beside.items():
        if desk.line.controller.scores.count(name) != len(ratios):
            yield f"{desk.line.controller.scores.count(name)} scores of class {name}, by what happened {len(ratios)}"
    if f"paceline:requests_unfinished {len(oracle.inside)}" not in desk.metrics_text(0.0):
        yield "the page of metrics counts unfinished requests wrongly"
