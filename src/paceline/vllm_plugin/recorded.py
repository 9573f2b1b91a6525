"""Stamps around a vLLM scheduler's schedule() and update_from_output(): what a step computed, and when."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from paceline.schedule.step_log import PrefillChunk, step_load
from paceline.schedule.step_time import StepTimeModel
from paceline.vllm_plugin.clocks import MONOTONIC, ReplayClock
from paceline.vllm_plugin.memory import used_blocks
from paceline.vllm_plugin.recording import EngineRecorder, ScheduledStep
from paceline.vllm_plugin.relied_on import EngineRequest, SchedulerMixin, StepOutput

LOG = logging.getLogger(__name__)


class RecordedSteps(SchedulerMixin):
    """Mixin before one of vLLM's schedulers: stamps around schedule() and update_from_output() go to a recorder."""

    recorder: EngineRecorder | None = None
    clock: ReplayClock = MONOTONIC  # of all stamps
    step_time: StepTimeModel | None = None  # predicts what was executed; None where nobody fitted one
    plan_us = 0.0
    _update_seconds = 0.0

    def run_by(self, clock: ReplayClock) -> None:
        """Take all stamps from this clock, from now on."""
        self.clock = clock

    def add_request(self, request: EngineRequest) -> None:
        """Queue a request, or a session's next turn; with a recorder, note its arrival by the clock."""
        with self._noting() as recorder:
            if recorder is not None:
                # converted here: the wall clock may be set while the request waits
                arrival = request.arrival_time - self.clock.wall_ahead_seconds()
                recorder.queued(request.request_id, arrival_seconds=arrival)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule a step; with a recorder, note what is in it."""
        if self.recorder is None:
            return super().schedule(*args, **kwargs)
        decoding = {request.request_id for request in self.running if not request.is_prefill_chunk}
        scheduled = self.clock()
        output = super().schedule(*args, **kwargs)
        with self._noting() as recorder:
            if recorder is not None and output.total_num_scheduled_tokens:
                recorder.scheduled(self._scheduled_step(output, decoding, scheduled_seconds=scheduled), self.requests)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Update requests from a step's output; with a recorder, note when it arrived and what it brought."""
        self._update_seconds = now = self.clock()
        with self._noting() as recorder:
            if recorder is not None:
                recorder.executed(scheduler_output, now_seconds=now)
        # looked up before the update, which forgets those that end
        known = [self.requests.get(request_id) for request_id in scheduler_output.num_scheduled_tokens]
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        with self._noting() as recorder:
            if recorder is not None:
                recorder.produced([request for request in known if request is not None], now_seconds=now)
        return outputs

    def _handle_stopped_request(self, request: EngineRequest) -> bool:
        # before vLLM makes a session ready for its next turn, which forgets the answer
        with self._noting() as recorder:
            if recorder is not None and request.resumable:
                recorder.turn_ended(request, now_seconds=self._update_seconds)
        return super()._handle_stopped_request(request)

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """End requests from outside; with a recorder, drop what is known of them."""
        ended = super().finish_requests(request_ids, finished_status)
        with self._noting() as recorder:
            if recorder is not None:
                recorder.forget(request.request_id for request in ended)
        return ended

    def shutdown(self) -> None:
        """End the scheduler; with a recorder, close its files."""
        super().shutdown()
        if self.recorder is not None:
            self.recorder.close()

    @contextmanager
    def _noting(self) -> Generator[EngineRecorder | None]:
        """Give the recorder to the block; one that may stop is given up when the block fails, and serving goes on."""
        recorder = self.recorder
        try:
            yield recorder
        except Exception:
            if recorder is None or not recorder.may_stop:
                raise
            LOG.warning("recording ends here, the engine goes on without its logs: this failed", exc_info=True)
            self.recorder = None
            recorder.close()

    def _scheduled_step(self, output: StepOutput, decoding: set[str], *, scheduled_seconds: float) -> ScheduledStep:
        returned = self.clock()
        chunks: dict[str, PrefillChunk] = {}
        decode_tokens = decode_context = 0
        for request_id, tokens in output.num_scheduled_tokens.items():
            context = self.requests[request_id].num_computed_tokens - tokens  # schedule() has counted them already
            if request_id in decoding:
                decode_tokens += tokens
                decode_context += context
            else:
                chunks[request_id] = PrefillChunk(tokens=tokens, context_tokens=context)
        load = step_load(decode_tokens, decode_context_tokens=decode_context, chunks=chunks.values())
        return ScheduledStep(
            output=output,
            scheduled_seconds=scheduled_seconds,
            returned_seconds=returned,
            plan_us=self.plan_us,
            predicted_ms=None if self.step_time is None else self.step_time.predict_ms(load),
            token_budget=self.token_budget,
            decode_tokens=decode_tokens,
            decode_context_tokens=decode_context,
            chunks=chunks,
            decoding=tuple(request_id for request_id in output.num_scheduled_tokens if request_id in decoding),
            waiting=len(self.waiting) + len(self.kv_holding_waiting),
            running=len(self.running),
            used_blocks=used_blocks(self),
        )

    @property
    def token_budget(self) -> int:
        """The tokens that a step may have."""
        return self.max_num_scheduled_tokens
