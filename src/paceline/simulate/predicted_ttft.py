"""What a router expects of an engine: when a request that arrives now would have its first token there."""

import math
from dataclasses import dataclass

import numpy as np

from paceline.errors import InvalidValueError
from paceline.schedule.policies import SortKey, request_order
from paceline.schedule.requests import PrefillRequest
from paceline.schedule.step_log import PrefillChunk
from paceline.simulate.choosing import EngineState, PromptColumns
from paceline.simulate.engine_settings import PACELINE, SimulatedEngine
from paceline.simulate.replayed import ReplayedCost
from paceline.simulate.step_work import LinearCost, StepCost, StepWork

FACTOR_UNITS = 1 << 30  # a prefill factor in whole units: sums of tokens times factors are the same in any order


def predicted_ttft_seconds(
    state: EngineState,
    engine: SimulatedEngine,
    cost: StepCost,
    *,
    prompt_tokens: int,
    prefill_factor: float = 1.0,
    ttft_budget_seconds: float = math.inf,
) -> float:
    """Return the predicted time to first token of a request that arrives now, in seconds.

    The end of the step under way, then its own prompt and what the requests before it have left, by the policy's order,
    at the seconds a token of a full step beside today's decodes. What arrives later, places and blocks that have to
    become free first, and the time target are not looked at.
    """
    new = _Newcomer(prompt_tokens, None if ttft_budget_seconds == math.inf else ttft_budget_seconds)
    units = sum(_units_before(prompts, engine, state, new) for prompts in (state.partial, state.waiting))
    units += prompt_tokens * round(prefill_factor * FACTOR_UNITS)
    chunk = max(1, engine.planner.chunk_size - state.decodes.tokens)
    work = StepWork(
        decodes=state.decodes.tokens,
        decode_context_tokens=state.decodes.context_tokens,
        chunks=[PrefillChunk(tokens=chunk, context_tokens=0)],
    )
    full_seconds = predicting_cost(engine, cost).seconds(0, work)
    return state.ready_seconds - state.now_seconds + (units / FACTOR_UNITS) / chunk * full_seconds


def predicting_cost(engine: SimulatedEngine, cost: StepCost) -> StepCost:
    """Return what predicts steps ahead: the engine's model where the steps are those of a log, whose future is not known.

    Raises InvalidValueError where it has none.
    """
    if not isinstance(cost, ReplayedCost):
        return cost
    if engine.target_model is None:
        expected = (
            "a step-time model beside a replayed log: its steps say nothing of other loads; name --target-step-time"
        )
        raise InvalidValueError("target_model", None, expected)
    return LinearCost(engine.target_model)


@dataclass(frozen=True, slots=True)
class _Newcomer:
    prompt_tokens: int
    ttft_budget_seconds: float | None


def _units_before(prompts: PromptColumns, engine: SimulatedEngine, state: EngineState, new: _Newcomer) -> int:
    """Return what the prompts before a new one have left, in units of a token: each times its factor."""
    units = prompts.remaining_tokens * np.rint(prompts.prefill_factor * FACTOR_UNITS).astype(np.int64)
    if len(prompts) and engine.rules == PACELINE and engine.planner.policy != "fcfs":
        units = units[_stand_before(prompts, engine, state, new)]
    return int(units.sum())


def _stand_before(
    prompts: PromptColumns, engine: SimulatedEngine, state: EngineState, newcomer: _Newcomer
) -> list[bool]:
    """Return which of the prompts stand before a new one, by the policy and when they arrived."""
    order = request_order(engine.planner.policy, engine.planner.weights)
    last = int(prompts.number.max()) + 1

    def key(place: int) -> SortKey:
        budget = float(prompts.ttft_budget_seconds[place])
        return order(
            PrefillRequest(
                request_id="",
                queue_number=int(prompts.number[place]),
                arrival_seconds=float(prompts.arrival_seconds[place]),
                prompt_tokens=int(prompts.prompt_tokens[place]),
                remaining_tokens=int(prompts.remaining_tokens[place]),
                context_tokens=int(prompts.context_tokens[place]),
                resumed=bool(prompts.resumed[place]),
                ttft_budget_seconds=None if budget == math.inf else budget,
            )
        )

    new = order(
        PrefillRequest(
            request_id="",
            queue_number=last,
            arrival_seconds=state.now_seconds,
            prompt_tokens=newcomer.prompt_tokens,
            remaining_tokens=newcomer.prompt_tokens,
            ttft_budget_seconds=newcomer.ttft_budget_seconds,
        )
    )
    return [key(place) < new for place in range(len(prompts))]
