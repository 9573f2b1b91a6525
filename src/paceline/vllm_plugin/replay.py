"""Serving a trace with an offline vLLM engine, in real time: each request is handed over when its arrival time comes.

The engine's core runs in this process, so that its scheduler can be recorded; the model runs where vLLM puts it (in this
process too with VLLM_ENABLE_V1_MULTIPROCESSING=0).
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from random import Random
from typing import Any, cast

from paceline.errors import EngineError, InvalidValueError
from paceline.schedule.request_times import RequestTimes
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_log import StepRecord
from paceline.schedule.step_time import LinearStepTime
from paceline.schedule.trace_request import TraceRequest
from paceline.vllm_plugin.clocks import MONOTONIC, ProcessorClock, ReplayClock
from paceline.vllm_plugin.compile_key import SECTION, leave_settings_out
from paceline.vllm_plugin.recording import EngineRecorder
from paceline.vllm_plugin.relied_on import (
    EngineArgs,
    Executor,
    LLMEngine,
    SamplingParams,
    TokensPrompt,
    read_limits,
    release_devices,
)
from paceline.vllm_plugin.request_knobs import budget_asked
from paceline.vllm_plugin.settings import planner_config, read_settings

PLANNED, STOCK = "paceline.vllm_plugin.scheduler", "paceline.vllm_plugin.stock"
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2  # file descriptors, which workers inherit
WARM_UP_TOKENS = 64  # a prompt of this length and a few decodes load every kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """One replay; times are of the engine's clock, `wall_seconds` runs from the first arrival to the last end."""

    requests: tuple[RequestTimes, ...]
    steps: tuple[StepRecord, ...]
    wall_seconds: float


class OfflineVllm:
    """A vLLM engine in this process, with Paceline's scheduler or vLLM's own, that replays traces."""

    def __init__(self, engine: Any, *, seed: int, clock: ReplayClock = MONOTONIC) -> None:
        self.engine, self._seed, self._clock = engine, seed, clock
        engine.engine_core.engine_core.scheduler.run_by(clock)

    @staticmethod
    @contextmanager
    def open(
        model: str,
        settings: PlannerSettings | None,
        *,
        engine_args: Mapping[str, Any],
        seed: int,
        step_time: LinearStepTime | None = None,
        clock: ReplayClock = MONOTONIC,
    ) -> Generator["OfflineVllm"]:
        """Start an engine, and stop it when the block ends; settings None is vLLM's own scheduler, recorded alike.

        `engine_args` are vLLM's; what they leave open and settings name is the token budget of a step. Prompts are token
        ids, so the model needs no tokenizer. Raises EngineError, or what the settings raise, before a weight is loaded;
        InvalidValueError for a ProcessorClock where the model does not run in this thread.
        """
        config = engine_config(model, settings, engine_args=engine_args, step_time=step_time)
        _require_one_thread(config, clock)
        with logs_to_standard_error():
            engine = LLMEngine(
                vllm_config=config,
                executor_class=Executor.get_class(config),
                log_stats=not engine_args.get("disable_log_stats", True),
                multiprocess_mode=False,
            )
        try:
            host = OfflineVllm(engine, seed=seed, clock=clock)
            host._warm_up()
            yield host
        finally:
            engine.engine_core.shutdown()
            release_devices()

    def replay(self, requests: Sequence[TraceRequest], *, on_progress: Callable[[int, int], None]) -> ReplayResult:
        """Serve all requests to their ends; TTFT counts from the trace's arrival, not from when it was looked at.

        Prompts are random token ids by seed and request id, the same in every replay; the prefix cache is emptied
        before. Raises InvalidValueError for a request that is longer than the model's context.
        """
        require_context(requests, self.engine.model_config.max_model_len)
        prompts = {request.request_id: self._prompt(request) for request in requests}
        steps: list[StepRecord] = []
        finished: list[RequestTimes] = []
        self.engine.reset_prefix_cache()
        recorder = EngineRecorder(on_step=steps.append, on_request=finished.append)
        self.engine.engine_core.engine_core.scheduler.recorder = recorder
        pending = deque(sorted(requests, key=lambda request: request.arrival_seconds))
        first_arrival = pending[0].arrival_seconds if pending else 0.0
        clock = self._clock
        started = clock() - first_arrival
        arrived: dict[str, TraceRequest] = {}
        while pending or self.engine.has_unfinished_requests():
            while pending and pending[0].arrival_seconds <= clock() - started:
                request = pending.popleft()
                wall = clock.wall_ahead_seconds() + started + request.arrival_seconds
                arrived[self._add(request, prompts[request.request_id], arrival_wall_seconds=wall)] = request
            if self.engine.has_unfinished_requests():
                if any(output.finished for output in self.engine.step()):
                    on_progress(len(finished), len(requests))
            else:
                clock.wait_until(started + pending[0].arrival_seconds)
        return _result(arrived, finished, steps, wall_seconds=clock() - started - first_arrival)

    def _add(self, request: TraceRequest, prompt: Any, *, arrival_wall_seconds: float) -> str:
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=request.output_tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args=budget_asked(request.ttft_budget_ms),
        )
        tokens = TokensPrompt(prompt_token_ids=prompt)
        return self.engine.add_request(request.request_id, tokens, parameters, arrival_time=arrival_wall_seconds)

    def _prompt(self, request: TraceRequest) -> Any:
        vocabulary = self.engine.model_config.get_vocab_size()
        return Random(f"{self._seed} {request.request_id}").choices(range(vocabulary), k=request.prompt_tokens)

    def _warm_up(self) -> None:
        """Serve one request: the first steps of an engine are many times slower than those that follow."""
        prompt_tokens = max(1, min(WARM_UP_TOKENS, self.engine.model_config.max_model_len // 2))
        request = TraceRequest(request_id="warm-up", arrival_seconds=0.0, prompt_tokens=prompt_tokens, output_tokens=4)
        self.replay([request], on_progress=lambda _done, _total: None)


def _require_one_thread(config: Any, clock: ReplayClock) -> None:
    backend, device = config.parallel_config.distributed_executor_backend, config.device_config.device_type
    if isinstance(clock, ProcessorClock) and (backend != "uni" or device != "cpu"):
        expected = (
            "a model that runs on the processor in the engine's own process, whose time it counts: one worker, and "
            "VLLM_ENABLE_V1_MULTIPROCESSING=0 in the environment; or the machine's clock"
        )
        raise InvalidValueError("clock", f"processor time with {backend!r} workers on {device}", expected)


def require_context(requests: Sequence[TraceRequest], context: int) -> None:
    """Raise InvalidValueError for a request that is longer, with its answer, than a context of so many tokens."""
    for request in requests:
        length = request.prompt_tokens + request.output_tokens
        if length > context:
            expected = f"at most {context}, the model's context; shorten it, or raise max_model_len"
            raise InvalidValueError(f"tokens of request {request.request_id!r}", length, expected)


def engine_config(
    model: str,
    settings: PlannerSettings | None,
    *,
    engine_args: Mapping[str, Any],
    step_time: LinearStepTime | None = None,
) -> Any:
    """Return vLLM's configuration of an engine, checked; raises EngineError or what the settings raise.

    The settings join what `engine_args` has in additional_config; a section of theirs there is refused.
    """
    leave_settings_out()  # where Paceline is on the path but not installed, vLLM does not know of the entry point
    _require_known(engine_args)
    arguments: dict[str, Any] = {"skip_tokenizer_init": True, "disable_log_stats": True, **engine_args}
    arguments |= {"model": model, "scheduler_cls": STOCK if settings is None else PLANNED}
    if settings is not None:
        arguments.setdefault("max_num_batched_tokens", settings.chunk_size)
        further = _further_config(engine_args.get("additional_config"))
        arguments["additional_config"] = {**further, **planner_config(settings, step_time=step_time)}
    try:
        config = EngineArgs(**arguments).create_engine_config()
    except (ValueError, OSError) as error:  # pydantic's errors among them
        raise EngineError(f"vLLM refuses these engine arguments for {model}: {error}") from error
    if settings is not None:
        read_settings(config.additional_config, read_limits(config))
    return config


def _further_config(given: object) -> Mapping[str, Any]:
    """Return what of additional_config is not Paceline's, for a platform or a model; raises EngineError."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise EngineError(
            f"additional_config is {given!r:.60}; expected an object: Paceline's settings are a key of it"
        )
    if SECTION in given:
        raise EngineError(
            f"additional_config has {SECTION!r} among the engine arguments; expected none: the settings are given beside "
            "them, as PlannerSettings or as flags of `paceline tune`; take the key out"
        )
    return cast("Mapping[str, Any]", given)


@contextmanager
def logs_to_standard_error() -> Generator[None]:
    """Let vLLM, and processes that are started meanwhile, log there: a command's standard output carries its result."""
    kept = os.dup(STANDARD_OUTPUT)
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_OUTPUT)
        os.close(kept)


def _require_known(engine_args: Mapping[str, Any]) -> None:
    known = [each.name for each in fields(EngineArgs)]
    for name in engine_args:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise EngineError(f"engine argument {name!r} is unknown{hint}; expected those of vLLM's EngineArgs")


def _result(
    arrived: Mapping[str, TraceRequest],
    finished: Sequence[RequestTimes],
    steps: Sequence[StepRecord],
    *,
    wall_seconds: float,
) -> ReplayResult:
    # vLLM adds eight characters to a request's id; the trace's own ids go out
    names = {engine_id: request.request_id for engine_id, request in arrived.items()}
    budgets_ms = {engine_id: request.ttft_budget_ms for engine_id, request in arrived.items()}
    return ReplayResult(
        requests=tuple(
            replace(times, request_id=names[times.request_id], ttft_budget_ms=budgets_ms[times.request_id])
            for times in finished
        ),
        steps=tuple(_renamed(step, names) for step in steps),
        wall_seconds=wall_seconds,
    )


def _renamed(step: StepRecord, names: Mapping[str, str]) -> StepRecord:
    return replace(
        step,
        chunks={names[engine_id]: chunk for engine_id, chunk in step.chunks.items()},
        decoding=tuple(names[engine_id] for engine_id in step.decoding),
        preempted=tuple(names[engine_id] for engine_id in step.preempted),
    )
