"""Requests that a run receives: a whole load in columns, or one after another."""

from math import nan

import numpy as np

from paceline.simulate.fast.compiling import compiled_once
from paceline.simulate.fast.rows import RequestRow, column, set_column, taken
from paceline.simulate.fast.state import State, new_requests
from paceline.simulate.load import Floats, Integers, RequestColumns


def receive(state: State, load: RequestColumns) -> None:
    """Add all requests of a run, in the order of arrival."""
    fill(state.requests, load)
    for name in ("received", "unfinished"):
        set_column(state.now, name, len(load))


def fill(requests: list[RequestRow], load: RequestColumns) -> None:
    """Write the requests of a load into rows, whatever these held, in the order of arrival."""
    write_rows(requests, load.arrival_seconds, load.prompt_tokens, load.output_tokens, load.factors, load.budgets)


@compiled_once
def write_rows(
    requests: list[RequestRow], arrival: Floats, prompt: Integers, output: Integers, factor: Floats, budget: Floats
) -> None:
    """Write every field of every row, once: column after column takes several times as long."""
    for number in range(len(arrival)):
        row = requests[number]
        row.arrival, row.budget, row.factor = arrival[number], budget[number], factor[number]
        row.prompt = row.tokens = row.restart_tokens = prompt[number]
        row.total = prompt[number] + output[number]
        row.computed = row.blocks = row.base = row.end_tick = row.stamp = row.status = row.queue_number = 0
        row.preemptions = row.span = row.place = row.planned = row.flag = row.rank = 0
        row.queued_seconds = row.execution = row.busy_before = row.key = 0.0
        row.first_scheduled = row.first_token = row.completion = nan


def with_room(state: State) -> State:
    """Return the state with room for one request more, twice what it had where that is used up."""
    size = len(state.requests)
    if int(column(state.now, "received")[0]) < size:
        return state
    requests = new_requests(2 * size)
    taken(requests, slice(0, size))[:] = taken(state.requests, slice(0, size))
    return state._replace(requests=requests, heap=np.concatenate([state.heap, np.zeros(size, dtype=np.int64)]))


def receive_one(
    state: State,
    arrival_seconds: float,
    prompt_tokens: int,
    output_tokens: int,
    prefill_factor: float,
    ttft_budget_seconds: float,
) -> None:
    """Add one request, which arrives after all others, without the checks of a load."""
    now = taken(state.now, slice(0, 1))
    write_one(
        state.requests,
        int(now["received"][0]),
        arrival_seconds,
        prompt_tokens,
        output_tokens,
        prefill_factor,
        ttft_budget_seconds,
    )
    now["received"] += 1
    now["unfinished"] += 1


def write_one(
    requests: list[RequestRow],
    number: int,
    arrival_seconds: float,
    prompt_tokens: int,
    output_tokens: int,
    prefill_factor: float,
    ttft_budget_seconds: float,
) -> None:
    """Write one request into its row."""
    request = taken(requests, slice(number, number + 1))
    for name in ("prompt", "tokens", "restart_tokens"):
        request[name] = prompt_tokens
    request["total"] = prompt_tokens + output_tokens
    request["arrival"], request["factor"] = arrival_seconds, prefill_factor
    request["budget"] = ttft_budget_seconds
