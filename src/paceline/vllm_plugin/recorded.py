"""Stamps around a vLLM scheduler's schedule() and update_from_output(): what a step computed, and when."""

import time
from typing import Any

from paceline.schedule.planner import StepPlan
from paceline.schedule.step_log import PrefillChunk
from paceline.vllm_plugin.recording import EngineRecorder, ScheduledStep
from paceline.vllm_plugin.relied_on import SchedulerMixin, StepOutput


class RecordedSteps(SchedulerMixin):
    """Mixin before one of vLLM's schedulers: stamps around schedule() and update_from_output() go to a recorder."""

    recorder: EngineRecorder | None = None
    step_plan: StepPlan | None = None  # of the last step; None where vLLM decides alone
    plan_us = 0.0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule a step; with a recorder, note what is in it."""
        recorder = self.recorder
        if recorder is None:
            return super().schedule(*args, **kwargs)
        decoding = {request.request_id for request in self.running if not request.is_prefill_chunk}
        scheduled = time.monotonic()
        output = super().schedule(*args, **kwargs)
        if output.total_num_scheduled_tokens:
            step = self._scheduled_step(output, decoding, scheduled_seconds=scheduled)
            offset = time.time() - time.monotonic()
            recorder.scheduled(step, self.requests, wall_minus_monotonic_seconds=offset)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Update requests from a step's output; with a recorder, note when it arrived and what it brought."""
        recorder = self.recorder
        if recorder is None:
            return super().update_from_output(scheduler_output, model_runner_output)
        now = time.monotonic()
        recorder.executed(scheduler_output, now_seconds=now)
        # looked up before the update, which forgets those that end
        known = [self.requests.get(request_id) for request_id in scheduler_output.num_scheduled_tokens]
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        recorder.produced([request for request in known if request is not None], now_seconds=now)
        return outputs

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """End requests from outside; with a recorder, drop what is known of them."""
        ended = super().finish_requests(request_ids, finished_status)
        if self.recorder is not None:
            self.recorder.forget(request.request_id for request in ended)
        return ended

    def shutdown(self) -> None:
        """End the scheduler; with a recorder, close its files."""
        super().shutdown()
        if self.recorder is not None:
            self.recorder.close()

    def _scheduled_step(self, output: StepOutput, decoding: set[str], *, scheduled_seconds: float) -> ScheduledStep:
        returned = time.monotonic()
        chunks: dict[str, PrefillChunk] = {}
        decode_tokens = decode_context = 0
        for request_id, tokens in output.num_scheduled_tokens.items():
            context = self.requests[request_id].num_computed_tokens - tokens  # schedule() has counted them already
            if request_id in decoding:
                decode_tokens += tokens
                decode_context += context
            else:
                chunks[request_id] = PrefillChunk(tokens=tokens, context_tokens=context)
        return ScheduledStep(
            output=output,
            scheduled_seconds=scheduled_seconds,
            returned_seconds=returned,
            plan_us=self.plan_us,
            predicted_ms=None if self.step_plan is None else self.step_plan.predicted_ms,
            token_budget=self.token_budget,
            decode_tokens=decode_tokens,
            decode_context_tokens=decode_context,
            chunks=chunks,
            decoding=tuple(request_id for request_id in output.num_scheduled_tokens if request_id in decoding),
            waiting=len(self.waiting) + len(self.kv_holding_waiting),
            running=len(self.running),
        )

    @property
    def token_budget(self) -> int:
        """The tokens that a step may have."""
        return self.max_num_scheduled_tokens
