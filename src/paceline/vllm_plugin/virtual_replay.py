"""Serving a trace with vLLM's own scheduler in virtual time: its queues, memory and caches, and no model.

The clock moves by what a step-time model says of each step. The files are those of a real run.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

from paceline.errors import InvalidValueError
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import EngineTime, LinearStepTime
from paceline.schedule.trace_request import TraceRequest
from paceline.vllm_plugin.made_up import made_up_request
from paceline.vllm_plugin.relied_on import EngineRequest
from paceline.vllm_plugin.replay import ReplayResult, engine_config, require_context
from paceline.vllm_plugin.schedulers import scheduler, stock
from paceline.vllm_plugin.virtual import VirtualClock, VirtualEngine, virtual_scheduler

MOST_EMPTY_STEPS = 10  # in a row, with nothing to come: an engine that gets on needs fewer


class VirtualVllm:
    """A scheduler as vLLM builds it from a configuration, Paceline's or its own, over a KV cache by numbers."""

    def __init__(self, config: Any, *, build: Callable[..., Any], engine_time: EngineTime, seed: int) -> None:
        self._config, self._build, self._time, self._seed = config, build, engine_time, seed
        self._blocks: int = config.cache_config.num_gpu_blocks_override

    @staticmethod
    @contextmanager
    def open(
        model: str,
        settings: PlannerSettings | None,
        *,
        engine_args: Mapping[str, Any],
        seed: int,
        step_time: LinearStepTime | None = None,
        engine_time: EngineTime | None = None,
    ) -> Generator["VirtualVllm"]:
        """Build an engine's configuration; settings None is vLLM's own scheduler. No weight of the model is read.

        `engine_time` moves the clock, what the engine does between two steps included; `step_time` where it is None.
        Raises InvalidValueError without a step-time model, or without `num_gpu_blocks_override` among `engine_args`:
        where no model runs no memory is measured. Raises EngineError, or what the settings raise.
        """
        if step_time is None:
            raise InvalidValueError(
                "--step-time", None, "a model of `paceline tune step-time`: in virtual time it is the clock"
            )
        config = engine_config(model, settings, engine_args=engine_args, step_time=step_time)
        if not config.cache_config.num_gpu_blocks_override:
            expected = (
                """the blocks of the KV cache in --engine-args, for example '{"num_gpu_blocks_override": 2000}'"""
            )
            raise InvalidValueError("num_gpu_blocks_override", None, expected)
        build, moves = stock if settings is None else scheduler, engine_time or EngineTime(step=step_time)
        yield VirtualVllm(config, build=build, engine_time=moves, seed=seed)

    def replay(self, requests: Sequence[TraceRequest], *, on_progress: Callable[[int, int], None]) -> ReplayResult:
        """Serve all requests to their ends; each is queued by the end of the step in which it arrives.

        Prompts are random token ids by seed and request id, as in a real replay. Raises InvalidValueError for a request
        that is longer than the model's context, and when the KV cache is too small for one.
        """
        require_context(requests, self._config.model_config.max_model_len)
        clock = VirtualClock()
        built = virtual_scheduler(self._config, blocks=self._blocks, clock=clock, build=self._build)
        in_flight = 2 if self._config.scheduler_config.async_scheduling else 1
        engine = VirtualEngine(scheduler=built, clock=clock, step_time=self._time.step, in_flight=in_flight)
        pending = deque(sorted(requests, key=lambda request: request.arrival_seconds))
        first = pending[0].arrival_seconds if pending else 0.0
        empty = 0
        while pending or not engine.is_idle:
            if pending and (engine.is_idle or empty > MOST_EMPTY_STEPS):
                clock.seconds = max(clock.seconds, pending[0].arrival_seconds)
            while pending and pending[0].arrival_seconds <= clock.seconds:
                request = pending.popleft()
                engine.add(self._made_up(request), arrival_seconds=request.arrival_seconds)
                clock.seconds += self._time.per_request_ms / 1e3
            finished = len(engine.finished)
            empty = 0 if engine.step().total_num_scheduled_tokens or engine.awaited else empty + 1
            if not pending and empty > MOST_EMPTY_STEPS:
                raise self._too_small(requests, engine)
            if len(engine.finished) > finished:
                on_progress(len(engine.finished), len(requests))
        budgets_ms = {request.request_id: request.ttft_budget_ms for request in requests}
        return ReplayResult(
            requests=tuple(replace(each, ttft_budget_ms=budgets_ms[each.request_id]) for each in engine.finished),
            steps=tuple(engine.steps),
            wall_seconds=clock.seconds - first,
        )

    def _made_up(self, request: TraceRequest) -> EngineRequest:
        vocabulary = self._config.model_config.get_vocab_size()
        tokens = Random(f"{self._seed} {request.request_id}").choices(range(vocabulary), k=request.prompt_tokens)
        return made_up_request(
            request.request_id,
            tokens,
            output_tokens=request.output_tokens,
            block_tokens=self._config.cache_config.block_size,
            arrival_time=request.arrival_seconds,
            ttft_budget_ms=request.ttft_budget_ms,
        )

    def _too_small(self, requests: Sequence[TraceRequest], engine: VirtualEngine) -> InvalidValueError:
        served = {each.request_id for each in engine.finished}
        first = next(request for request in requests if request.request_id not in served)
        expected = f"more: vLLM serves nobody, request {first.request_id!r} among those that wait for blocks"
        return InvalidValueError("num_gpu_blocks_override", self._blocks, expected)
