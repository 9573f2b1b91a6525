"""The order in which prompts are prefilled: one static key a request, so that a heap holds the order."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.schedule.requests import PrefillRequest

SortKey = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWeights:
    """The numbers of the policies that have any.

    `aging`: priority a second waited, and priority a prompt token still to compute (never above 0). `edf`:
    `no_budget_seconds` is the budget that a request counts with that has none; it bounds how long others pass it.
    """

    time_weight: float = 1.0
    prompt_weight: float = -0.01
    no_budget_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_weight) and self.time_weight > 0):
            raise InvalidValueError("time_weight", self.time_weight, "a finite number above 0: waiting raises priority")
        if not (math.isfinite(self.prompt_weight) and self.prompt_weight <= 0):
            raise InvalidValueError(
                "prompt_weight",
                self.prompt_weight,
                "a finite number of at most 0, for example -0.01: above 0, ever longer prompts would pass a short one",
            )
        if not (math.isfinite(self.no_budget_seconds) and self.no_budget_seconds > 0):
            expected = "a finite number of seconds above 0: without end, others would pass such a request for ever"
            raise InvalidValueError("no_budget_seconds", self.no_budget_seconds, expected)


Policy = Callable[[PrefillRequest, PolicyWeights], SortKey]


def fcfs(request: PrefillRequest, _weights: PolicyWeights) -> SortKey:
    """First come, first served: in the order of queueing, whatever clocks say."""
    return (request.queue_number,)


def spf(request: PrefillRequest, _weights: PolicyWeights) -> SortKey:
    """Shortest prompt first, by the prompt as it arrived; it can starve a long prompt."""
    return (request.prompt_tokens, request.queue_number)


def srtf(request: PrefillRequest, _weights: PolicyWeights) -> SortKey:
    """Fewest remaining prompt tokens first; it can starve a long prompt."""
    return (request.remaining_tokens, request.queue_number)


def aging(request: PrefillRequest, weights: PolicyWeights) -> SortKey:
    """Highest `aging_priority` first, as a key that does not name the present time.

    priority(now) = time_weight · (now − arrival) + prompt_weight · remaining = time_weight · now − key with
    key = time_weight · arrival − prompt_weight · remaining. The term time_weight · now is common to all requests, so at
    any `now` the highest priority is the smallest key, and a request's key changes only when its remaining tokens do.
    """
    key = weights.time_weight * request.arrival_seconds - weights.prompt_weight * request.remaining_tokens
    return (key, request.queue_number)


def edf(request: PrefillRequest, weights: PolicyWeights) -> SortKey:
    """Earliest deadline first: arrival + budget, and `no_budget_seconds` for a request that has no budget.

    A request that cannot keep its budget is best given none before it is queued (`paceline.schedule.load_control`): late
    anyway, it would make others late.
    """
    return (deadline_seconds(request, weights), request.queue_number)


POLICIES: dict[str, Policy] = {"fcfs": fcfs, "spf": spf, "srtf": srtf, "aging": aging, "edf": edf}


def deadline_seconds(request: PrefillRequest, weights: PolicyWeights) -> float:
    """Return when `edf` counts a request's first token as due, by the clock of its arrival.

    No request that arrives later goes before it, priorities aside: its wait is bounded as `overtaking_ends_seconds` says for
    aging, with this time for D.
    """
    budget = request.ttft_budget_seconds
    return request.arrival_seconds + (weights.no_budget_seconds if budget is None else budget)


def aging_priority(request: PrefillRequest, weights: PolicyWeights, *, now_seconds: float) -> float:
    """Return time_weight · wait_seconds + prompt_weight · remaining_tokens: the larger, the sooner."""
    wait_seconds = now_seconds - request.arrival_seconds
    return weights.time_weight * wait_seconds + weights.prompt_weight * request.remaining_tokens


def overtaking_ends_seconds(request: PrefillRequest, weights: PolicyWeights) -> float:
    """Return the arrival time from which on no later request goes before this one under aging: its wait is bounded.

    All requests are of one priority here (a lower number goes before all others, however long those wait), queued in the
    order of arrival, and no encoder refuses an image. Take a request that arrived at a with p tokens remaining, and
    c = −prompt_weight, w = time_weight.

    Overtaking. While q ≤ p of its tokens remain, one that arrived later, at a', with p' ≥ 1 remaining, goes before it
    only if w · a' + c · p' < w · a + c · q (equal keys go in the order of queueing). Hence a' < a + c · (q − p') / w,
    which is at most D = a + c · (p − 1) / w, however short the later requests are and however many.

    Work. Say that nothing is preempted, and look at the steps of `plan_step` that give the request nothing. What they
    prefill belongs to requests before it in the order, or, while it has no room or max_partial_prefills holds it back,
    to requests partly prefilled already. The latter are unfinished since before a, or were started ahead of it; and a
    key only falls while its request is prefilled, so those stay ahead. All of these arrived before D. So such steps
    prefill, together, at most

        W = what remained at a of every unfinished prompt, partly prefilled ones included
            + the whole prompts that arrive from a to D.

    Steps. Let chunk_size hold a token for every running request. A step without any prefill has decodes (an empty one
    makes progress), and each of them is a token further after it: after L such steps in a row, L the longest answer,
    all decodes have ended and the next step prefills. With at most p steps that give the request something, its prompt
    is complete within (W + p) · (L + 1) steps. Where there is room and no rule beside the budget cuts chunks, nothing
    behind the request is prefilled until its prompt is complete: W + p tokens of prefill suffice. A preempted request
    resumes first: what it computes again is added to W.
    """
    return request.arrival_seconds - weights.prompt_weight * (request.remaining_tokens - 1) / weights.time_weight


def request_order(policy: str, weights: PolicyWeights) -> Callable[[PrefillRequest], SortKey]:
    """Return the sort key of one order over waiting and partly prefilled requests.

    A lower `priority` goes first, as in vLLM; among equals what was preempted resumes first; then the policy orders.
    Raises UnknownChoiceError for a policy that does not exist.
    """
    if policy not in POLICIES:
        raise UnknownChoiceError("policy", policy, tuple(POLICIES))
    key_of = POLICIES[policy]
    return lambda request: (request.priority, not request.resumed, *key_of(request, weights))
