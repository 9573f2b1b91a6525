"""The boundary of the fast engine: settings and models into numbers, arrays into a run, faults into sentences."""

import math
import sys
from dataclasses import replace
from functools import lru_cache

import numpy as np

from paceline.errors import InvalidValueError, PacelineError, StepTimeError
from paceline.schedule.policies import POLICIES
from paceline.schedule.step_time import LinearStepTime
from paceline.simulate.choosing import EngineState
from paceline.simulate.engine_settings import PACELINE, RULES, SimulatedEngine
from paceline.simulate.fast import state as at
from paceline.simulate.fast.blocks import block_shift
from paceline.simulate.fast.loop import run_until
from paceline.simulate.fast.receiving import receive, receive_one, with_room
from paceline.simulate.fast.rows import column
from paceline.simulate.fast.view import state_at
from paceline.simulate.load import Floats, Integers, RequestColumns
from paceline.simulate.never import never_admitted
from paceline.simulate.replayed import ReplayedCost, log_too_short
from paceline.simulate.result import SimulatedRun, StepColumns
from paceline.simulate.step_work import LinearCost, StepCost
from paceline.simulate.tables import VidurTables, table_too_small
from paceline.simulate.varying import VaryingCost

FIRST_STEPS, LONGEST_RECORD = 4096, 4096
NO_TABLE: Floats = np.zeros((0, 0))
NO_COST = at.Cost(
    kind=at.LINEAR,
    linear=np.zeros(5),
    decode_seconds=NO_TABLE,
    by_tokens=NO_TABLE,
    decode=NO_TABLE,
    prefill=NO_TABLE,
    decode_factor=1.0,
    prefill_factor=1.0,
    layers=1.0,
    has_factors=False,
    replayed=NO_TABLE,
    request_seconds=0.0,
    varying=np.zeros(0),
)


def simulate_fast(load: RequestColumns, engine: SimulatedEngine, cost: StepCost, *, with_steps: bool) -> SimulatedRun:
    """Serve a load to its end; raises as the reference does, and InvalidValueError for a step-time model of another kind."""
    if load.prefill_factor is not None:
        load = replace(load, prefill_factor=RequestColumns.without_ones(load.prefill_factor))
    simulation = FastSimulation(
        engine,
        cost,
        size=len(load),
        most=min(engine.max_num_seqs, len(load)),
        with_steps=with_steps,
        has_factors=load.prefill_factor is not None,
    )
    receive(simulation.state, load)
    return simulation.served(load)


class FastSimulation:
    """A run that can be paused, as `Simulation` of the reference engine is.

    It begins with room for `size` requests. Who gives it a whole load says that at `most` so many of it run at once;
    None is for requests that come one by one.
    """

    def __init__(
        self,
        engine: SimulatedEngine,
        cost: StepCost,
        *,
        size: int,
        most: int | None = None,
        with_steps: bool,
        has_factors: bool = True,
    ) -> None:
        self._engine, self._cost = engine, cost
        self.state = at.new_state(
            size,
            usable_blocks=engine.usable_blocks,
            most=engine.max_num_seqs if most is None else most,
            is_filled=most is not None,
            block_size=engine.block_size,
        )
        entries = LONGEST_RECORD + 2 * len(self.state.partials)
        self._records = at.new_records(wanted=with_steps, steps=FIRST_STEPS, entries=entries)
        self._rules = numbers_of(engine)
        self._numbers = cost_of(cost)._replace(has_factors=has_factors)

    @property
    def waiting(self) -> int:
        """Requests that were received and are not admitted yet."""
        return _count(self.state, "received") - _count(self.state, "arrived") + _count(self.state, "waiting")

    def receive(
        self,
        arrival_seconds: float,
        prompt_tokens: int,
        output_tokens: int,
        prefill_factor: float = 1.0,
        ttft_budget_seconds: float = math.inf,
    ) -> None:
        """Take note of a request that arrives then."""
        self.state = with_room(self.state)
        receive_one(self.state, arrival_seconds, prompt_tokens, output_tokens, prefill_factor, ttft_budget_seconds)

    def advance_before(self, seconds: float) -> None:
        """Form and execute every step that starts before this time."""
        fault = self._run_until(seconds)
        if fault not in (at.FINISHED, at.NEVER_ADMITTED):  # who is not admitted yet may be told so at the end
            raise error_of(fault, self.state, self._engine, self._cost)

    def state_at(self, seconds: float) -> EngineState:
        """Return the state once every step that starts before this time has been formed."""
        return state_at(self.state, self._engine, self._records, seconds, self._numbers.request_seconds)

    def finish(self) -> SimulatedRun:
        """Serve all that was received and return the run."""
        return self.served(None)

    def served(self, load: RequestColumns | None) -> SimulatedRun:
        """Serve all that was received and return the run; None where nobody has the load in columns."""
        fault = self._run_until(math.inf)
        if fault != at.FINISHED:
            raise error_of(fault, self.state, self._engine, self._cost)
        return _run(self.state, self._records, self._engine, load)

    def _run_until(self, seconds: float) -> int:
        fault = run_until(self.state, self._rules, self._numbers, self._records, seconds)
        while fault == at.RECORDS_FULL:
            self._records = at.grown(self._records, self.state)
            fault = run_until(self.state, self._rules, self._numbers, self._records, seconds)
        return fault


def numbers_of(engine: SimulatedEngine) -> at.Rules:
    """Return an engine and its planner as the compiled code takes them."""
    planner, model = engine.planner, engine.target_model
    is_ours = engine.rules == PACELINE
    has_target = is_ours and planner.target_time_ms is not None
    return at.Rules(
        rules=RULES.index(engine.rules),
        chunk_size=planner.chunk_size,
        max_num_seqs=engine.max_num_seqs,
        block_size=engine.block_size,
        block_shift=block_shift(engine.block_size),
        watermark=engine.watermark_blocks,
        policy=tuple(POLICIES).index(planner.policy),
        threshold=planner.min_chunk_threshold,
        min_chunk=planner.min_chunk_tokens,
        max_chunk=planner.max_chunk_tokens or 0,
        max_partial=planner.max_partial_prefills or sys.maxsize,
        has_target=has_target,
        useful_chunk=planner.useful_chunk(model) if has_target and model else 0,
        time_weight=float(planner.weights.time_weight),
        prompt_weight=float(planner.weights.prompt_weight),
        no_budget_seconds=float(planner.weights.no_budget_seconds),
        target_ms=float(planner.target_time_ms or 0.0),
        target_model=_coefficients(model) if model else np.zeros(5),
    )


def cost_of(cost: StepCost) -> at.Cost:
    """Return a step-time model as the compiled code takes it; raises InvalidValueError for one of another kind."""
    if isinstance(cost, VaryingCost):
        return cost_of(cost.cost)._replace(varying=cost.factors)
    if isinstance(cost, LinearCost):
        return NO_COST._replace(linear=_coefficients(cost.model), request_seconds=float(cost.request_seconds))
    if isinstance(cost, ReplayedCost):
        return NO_COST._replace(
            kind=at.REPLAYED, replayed=np.stack([cost.closed_seconds, cost.started_seconds, cost.execute_seconds])
        )
    if isinstance(cost, VidurTables):
        return _of_tables(cost)
    expected = "a LinearCost, VidurTables or a ReplayedCost; the reference engine takes any"
    raise InvalidValueError("step-time model", type(cost).__name__, expected)


@lru_cache(maxsize=4)  # a tenth of the time of a small run; by identity, and tables do not change
def _of_tables(tables: VidurTables) -> at.Cost:
    by_tokens = [tables.before_attention, tables.communication, tables.layernorm, tables.mlp, tables.add]
    return NO_COST._replace(
        kind=at.TABLES,
        decode_seconds=_decode_seconds(tables),
        by_tokens=np.stack(by_tokens, axis=1),
        decode=tables.decode,
        prefill=tables.prefill,
        decode_factor=tables.decode_factor,
        prefill_factor=tables.prefill_factor,
        layers=float(tables.layers),
    )


def _coefficients(model: LinearStepTime) -> Floats:
    return np.array(list(model.document().values()), dtype=np.float64)


def _decode_seconds(tables: VidurTables) -> Floats:
    """Return the seconds of steps that only decode, [decodes, context / 64], by the additions of a mixed step."""
    decodes = min(len(tables.decode), len(tables.add))
    decode = tables.decode[:decodes].copy()
    decode[2:] *= tables.decode_factor

    def by_row(values: Floats) -> Floats:
        return values[:decodes, np.newaxis]

    attention = by_row(tables.before_attention) + decode + 0.0 + by_row(tables.communication) + by_row(tables.layernorm)
    return ((attention + by_row(tables.mlp) + by_row(tables.add)) * tables.layers) * 1e-3


def error_of(fault: int, state: at.State, engine: SimulatedEngine, cost: StepCost) -> PacelineError:
    """Return what a fault of the compiled code is to a user."""
    row, place = _count(state, "fault_row"), _count(state, "fault_column")
    cost = cost.cost if isinstance(cost, VaryingCost) else cost
    if fault == at.NEVER_ADMITTED:
        head = int(state.heap[0])
        return never_admitted(engine, head, int(column(state.requests, "tokens")[head]))
    if isinstance(cost, VidurTables):
        tables = {
            at.DECODE_TABLE: ("attn_decode", (row, place), cost.decode.shape),
            at.PREFILL_TABLE: ("attn_prefill", (row, place), cost.prefill.shape),
            at.TOKEN_TABLE: ("attn_pre_proj", (row,), cost.add.shape),
        }
        return StepTimeError(table_too_small(cost.path, *tables[fault]))
    return StepTimeError(log_too_short(row))


def _run(state: at.State, records: at.Records, engine: SimulatedEngine, load: RequestColumns | None) -> SimulatedRun:
    received = _count(state, "received")

    def floats(name: str) -> Floats:
        return column(state.requests, name, received).astype(np.float64, copy=False)

    def integers(name: str) -> Integers:
        return column(state.requests, name, received).astype(np.int64, copy=False)

    if load is None:
        prompts = integers("prompt")
        load = RequestColumns(
            arrival_seconds=floats("arrival"),
            prompt_tokens=prompts,
            output_tokens=integers("total") - prompts,
            prefill_factor=RequestColumns.without_ones(floats("factor")),
            ttft_budget_seconds=floats("budget"),
        )
    return SimulatedRun(
        load=load,
        first_scheduled_seconds=floats("first_scheduled"),
        first_token_seconds=floats("first_token"),
        completion_seconds=floats("completion"),
        execution_seconds=floats("execution"),
        preemptions=integers("preemptions"),
        restart_prompt_tokens=integers("restart_tokens"),
        step_count=_count(state, "step"),
        steps=_steps(state, records, engine.usable_blocks) if records.wanted else None,
    )


def _count(state: at.State, name: str) -> int:
    return int(column(state.now, name)[0])


def _steps(state: at.State, records: at.Records, usable_blocks: int) -> StepColumns:
    steps, chunks, spans = (_count(state, name) for name in ("step", "logged_chunks", "spans"))

    def of_steps(name: str) -> Integers:
        return column(records.steps, name, steps).astype(np.int64, copy=False)

    def of_chunks(name: str) -> Integers:
        return column(records.chunks, name, chunks).astype(np.int64, copy=False)

    first, end = (column(records.spans, name, spans).astype(np.int64, copy=False) for name in ("first", "end"))
    served = end > first
    return StepColumns(
        started_seconds=column(records.steps, "started", steps).astype(np.float64, copy=False),
        seconds=column(records.steps, "seconds", steps).astype(np.float64, copy=False),
        decode_tokens=of_steps("decodes"),
        decode_context_tokens=of_steps("context"),
        waiting=of_steps("waiting"),
        running=of_steps("running"),
        used_blocks=usable_blocks - of_steps("free"),
        chunk_offsets=np.concatenate([[0], of_steps("chunk_end")]),
        chunk_request=of_chunks("request"),
        chunk_tokens=of_chunks("tokens"),
        chunk_context_tokens=of_chunks("context"),
        preempted_offsets=np.concatenate([[0], of_steps("preempted_end")]),
        preempted_request=records.preempted[: _count(state, "logged_preempted")].copy(),
        decode_request=column(records.spans, "request", spans).astype(np.int64, copy=False)[served],
        decode_first_step=first[served],
        decode_end_step=end[served],
    )
