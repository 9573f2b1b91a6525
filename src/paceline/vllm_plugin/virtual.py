"""vLLM's schedulers in virtual time: real queues, memory and encoder cache, made-up tokens, and no model.

A step lasts as long as a step-time model says and nothing else moves the clock, so that a run is the same each time, on
any machine.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from paceline.schedule.encoder import EncoderBudget
from paceline.schedule.request_times import RequestTimes
from paceline.schedule.step_log import PrefillChunk, StepRecord
from paceline.schedule.step_time import StepTimeModel
from paceline.vllm_plugin.made_up import made_up_cache, made_up_output
from paceline.vllm_plugin.memory import used_blocks
from paceline.vllm_plugin.relied_on import EngineRequest, StepOutput, StructuredOutputManager
from paceline.vllm_plugin.schedulers import scheduler


@dataclass(slots=True)
class VirtualClock:
    """Seconds that pass only when they are said to."""

    seconds: float = 0.0

    def __call__(self) -> float:
        """Return the present time."""
        return self.seconds


def virtual_scheduler(
    config: Any,
    *,
    blocks: int,
    clock: VirtualClock,
    build: Callable[..., Any] = scheduler,
    encoder: EncoderBudget | None = None,
) -> Any:
    """Return a scheduler as an engine of this configuration would build it, over a KV cache of `blocks`.

    `encoder` stands in for what vLLM works out from a multimodal model, so that the configuration of a text model serves
    loads with images too.
    """
    block_size = config.cache_config.block_size
    config.cache_config.num_gpu_blocks = blocks
    built = build(
        vllm_config=config,
        kv_cache_config=made_up_cache(blocks, block_size),
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
        hash_block_size=block_size,
        log_stats=False,
        **({"clock": clock} if build is scheduler else {}),
    )
    if encoder is not None:
        built.max_num_encoder_input_tokens = encoder.compute_embeds
        built.encoder_cache_manager = type(built.encoder_cache_manager)(cache_size=encoder.cache_embeds)
    return built


@dataclass(slots=True, kw_only=True)
class _Scheduled:
    """A step from when it is scheduled until its output arrives."""

    output: StepOutput
    sampled: list[str]  # those whose prompts it completes, and those that decode
    chunks: dict[str, PrefillChunk]
    decoding: tuple[str, ...]
    decode_tokens: int
    decode_context_tokens: int
    waiting: int
    running: int
    used_blocks: int


@dataclass(slots=True, kw_only=True)
class _Progress:
    """One request, over all of its attempts."""

    request: EngineRequest
    arrival_seconds: float
    first_scheduled_seconds: float | None = None
    first_token_seconds: float | None = None
    execution_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class VirtualEngine:
    """A scheduler and the clock that its steps move; `in_flight` steps are scheduled before the first one's output.

    Drafts are all refused: what speculation saves is not modelled.
    """

    scheduler: Any
    clock: VirtualClock
    step_time: StepTimeModel
    in_flight: int = 1
    steps: list[StepRecord] = field(default_factory=list[StepRecord])
    finished: list[RequestTimes] = field(default_factory=list[RequestTimes])
    _awaited: deque[_Scheduled] = field(default_factory=deque[_Scheduled])
    _progress: dict[str, _Progress] = field(default_factory=dict[str, _Progress])

    @property
    def awaited(self) -> int:
        """How many steps are scheduled whose output has not arrived."""
        return len(self._awaited)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to schedule and no output is awaited."""
        return not self._awaited and not self.scheduler.has_requests()

    def add(self, request: EngineRequest, *, arrival_seconds: float) -> None:
        """Queue a request now; its times count from when it arrived."""
        self._progress[request.request_id] = _Progress(request=request, arrival_seconds=arrival_seconds)
        self.scheduler.add_request(request)

    def step(self) -> StepOutput:
        """Schedule a step; the oldest output arrives when enough steps are in flight or nothing was scheduled."""
        scheduler = self.scheduler
        decoding = {request.request_id for request in scheduler.running if not request.is_prefill_chunk}
        scheduled = self._scheduled(scheduler.schedule(), decoding)
        self._awaited.append(scheduled)
        if len(self._awaited) >= self.in_flight or not scheduled.output.total_num_scheduled_tokens:
            self._settle(self._awaited.popleft())
        return scheduled.output

    def _scheduled(self, output: StepOutput, decoding: set[str]) -> _Scheduled:
        scheduler = self.scheduler
        chunks: dict[str, PrefillChunk] = {}
        decode_tokens = decode_context = 0
        sampled: list[str] = []
        for name, tokens in output.num_scheduled_tokens.items():
            request = scheduler.requests[name]
            context = request.num_computed_tokens - tokens  # schedule() has counted them already
            if name in decoding:
                decode_tokens, decode_context = decode_tokens + tokens, decode_context + context
            else:
                chunks[name] = PrefillChunk(tokens=tokens, context_tokens=context)
            if not request.is_prefill_chunk:
                sampled.append(name)
            progress = self._progress[name]
            if progress.first_scheduled_seconds is None:
                progress.first_scheduled_seconds = self.clock()
        return _Scheduled(
            output=output,
            sampled=sampled,
            chunks=chunks,
            decoding=tuple(name for name in output.num_scheduled_tokens if name in decoding),
            decode_tokens=decode_tokens,
            decode_context_tokens=decode_context,
            waiting=len(scheduler.waiting) + len(scheduler.kv_holding_waiting),
            running=len(scheduler.running),
            used_blocks=used_blocks(scheduler),
        )

    def _settle(self, scheduled: _Scheduled) -> None:
        """Let a step execute: its time passes, its tokens appear."""
        output = scheduled.output
        if output.total_num_scheduled_tokens:
            record = self._record(scheduled)
            self.clock.seconds += record.execute_ms / 1e3
            self.steps.append(record)
            for name in output.num_scheduled_tokens:
                if name in self._progress:
                    self._progress[name].execution_seconds += record.execute_ms / 1e3
        self.scheduler.update_from_output(output, made_up_output(output, scheduled.sampled))
        for name in output.num_scheduled_tokens:
            self._note_tokens(name)

    def _note_tokens(self, name: str) -> None:
        progress = self._progress.get(name)
        if progress is None:
            return
        request = progress.request
        if progress.first_token_seconds is None and request.num_output_tokens:
            progress.first_token_seconds = self.clock()
        if request.is_finished():
            del self._progress[name]
            if progress.first_token_seconds is not None and progress.first_scheduled_seconds is not None:
                self.finished.append(
                    RequestTimes(
                        request_id=name,
                        arrival_seconds=progress.arrival_seconds,
                        first_scheduled_seconds=progress.first_scheduled_seconds,
                        first_token_seconds=progress.first_token_seconds,
                        completion_seconds=self.clock(),
                        execution_seconds=progress.execution_seconds,
                        prompt_tokens=request.num_prompt_tokens,
                        output_tokens=request.num_output_tokens,
                        preemptions=request.num_preemptions,
                    )
                )

    def _record(self, scheduled: _Scheduled) -> StepRecord:
        """Return the step as a log would hold it; a plan's own time does not exist in virtual time."""
        draft = StepRecord(
            step=len(self.steps),
            started_seconds=self.clock(),
            execute_ms=0.0,
            plan_us=0.0,
            schedule_us=0.0,
            predicted_ms=None,
            token_budget=self.scheduler.max_num_scheduled_tokens,
            decode_tokens=scheduled.decode_tokens,
            decode_context_tokens=scheduled.decode_context_tokens,
            chunks=scheduled.chunks,
            decoding=scheduled.decoding,
            waiting=scheduled.waiting,
            running=scheduled.running,
            used_blocks=scheduled.used_blocks,
            preempted=tuple(sorted(scheduled.output.preempted_req_ids or ())),
        )
        return replace(draft, execute_ms=self.step_time.predict_ms(draft.load))
