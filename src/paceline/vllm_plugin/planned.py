"""A plan before each step of a vLLM scheduler: no copy of schedule(), which runs as it is under fixed chunks.

A plan says how many prompt tokens each request computes in the step. vLLM asks `_reserve_prefill_lookahead` for every
request, running or waiting, how many tokens it may have: the plan answers. Which requests leave the queue is fixed by
what the queue shows.

A plan foresees what vLLM refuses: memory, the encoder's budget and cache, adapters, transfers. Should a step compute
nothing all the same although chunks were planned, the next one goes without a plan: vLLM then does what it can, in the
policy's order, so that no foresight that is wrong stops an engine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from paceline.schedule.planner import StepPlan, plan_step
from paceline.schedule.policies import SortKey, request_order
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.vllm_plugin.admission import Admission
from paceline.vllm_plugin.clocks import ReplayClock
from paceline.vllm_plugin.memory import StepMemory
from paceline.vllm_plugin.relied_on import (
    EngineRequest,
    RequestStatus,
    SchedulerMixin,
    require_attributes,
)
from paceline.vllm_plugin.settings import PluginSettings
from paceline.vllm_plugin.views import decode_load, encoder_budget, prefill_request, prompt_images
from paceline.vllm_plugin.waiting import QueueingRecord, WaitingQueue


class PlannedSteps(SchedulerMixin):
    """Mixin before one of vLLM's schedulers: every step runs under a plan of paceline.schedule."""

    def __init__(
        self, *args: Any, settings: PluginSettings, clock: Callable[[], float] = time.monotonic, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        require_attributes(self)
        self.settings = settings
        self._order = request_order(settings.planner.policy, settings.planner.weights)
        self._queueing = QueueingRecord(clock=clock)
        self.waiting = WaitingQueue(self._key_of, self._queueing)
        self.kv_holding_waiting = WaitingQueue(self._key_of, self._queueing)
        self.max_num_scheduled_tokens = min(self.max_num_scheduled_tokens, settings.planner.chunk_size)
        self._has_priorities = False
        self._chunks: Mapping[str, int] | None = None
        self._leave_to_vllm = False
        self.step_plan: StepPlan | None = None
        self.plan_us = 0.0

    def run_by(self, clock: ReplayClock) -> None:
        """Take all stamps from this clock, and the times of queueing."""
        super().run_by(clock)
        self._queueing.clock = clock

    def add_request(self, request: EngineRequest) -> None:
        """Queue a request; one with a `priority` makes running requests give way in that order, too."""
        self._has_priorities = self._has_priorities or request.priority != 0
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Plan a step, then let vLLM schedule it under the plan."""
        started = time.perf_counter()
        plan = self._plan()
        self.step_plan, self._chunks = plan, None if plan is None else plan.chunks
        self.plan_us = 1e6 * (time.perf_counter() - started)
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self._chunks = None
            self._show(None)
        self._leave_to_vllm = bool(plan and plan.chunks) and not output.total_num_scheduled_tokens
        return output

    def _reserve_prefill_lookahead(self, request: EngineRequest, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Return how many tokens vLLM may schedule for a request: what the plan gives it, all of them when it decodes."""
        tokens = self._planned_tokens(request, num_computed_tokens, num_new_tokens)
        return super()._reserve_prefill_lookahead(request, num_computed_tokens, tokens)

    def _try_schedule_encoder_inputs(
        self, request: EngineRequest, num_computed_tokens: int, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> Any:
        # before the encoder is asked: only the images of this chunk are encoded, and none of them is split
        tokens = self._planned_tokens(request, num_computed_tokens, num_new_tokens)
        return super()._try_schedule_encoder_inputs(request, num_computed_tokens, tokens, *args, **kwargs)

    def _planned_tokens(self, request: EngineRequest, computed: int, tokens: int) -> int:
        if request.status == RequestStatus.RUNNING and not request.is_prefill_chunk:
            return tokens
        if self._chunks is None:
            whole = self.settings.planner.indivisible_tokens and self._view(request, computed).image_tokens_ahead
            return tokens if tokens >= whole else 0
        planned = self._chunks.get(request.request_id, 0)
        # one that finishes its prompt may be padded for speculation: that is vLLM's to say
        return tokens if planned >= request.num_tokens - computed else min(tokens, planned)

    def _plan(self) -> StepPlan | None:
        """Return the plan of a step, None to leave it to vLLM; orders what runs, and shows what may start."""
        decoding: list[EngineRequest] = [request for request in self.running if not request.is_prefill_chunk]
        partial = self._ranked([request for request in self.running if request.is_prefill_chunk])
        if partial or self._has_priorities:
            self._order_running(decoding, [request for _, request in partial])
        views = [view for view, _ in partial]
        room = max(0, self.max_num_active_reqs - len(self.running) - self.num_waiting_for_streaming_input)
        admission = self._admission(decoding, [] if self._leave_to_vllm else views)
        if self._leave_to_vllm:
            for _ in islice(admission.offers(), room):
                pass  # asked for what it notes
            self._show(admission)
            return None
        plan = plan_step(
            settings=self.settings.planner,
            decodes=self._decode_load(decoding, prefills=bool(partial or self.waiting or self.kv_holding_waiting)),
            partial=views,
            waiting=admission.offers() if room else (),
            room=room,
            step_time=self.settings.step_time,
            encoder=encoder_budget(self) if self.max_num_encoder_input_tokens else None,
        )
        self._show(admission, plan.chunks)
        return plan

    def _ranked(self, requests: Sequence[EngineRequest]) -> list[tuple[PrefillRequest, EngineRequest]]:
        views = [(self._view(request, request.num_computed_tokens), request) for request in requests]
        return sorted(views, key=lambda pair: self._order(pair[0]))

    def _order_running(self, decoding: Sequence[EngineRequest], partial: Sequence[EngineRequest]) -> None:
        """Put last what is preempted first: a lower priority, then partly prefilled requests in the policy's order."""
        ordered = [*decoding, *partial]
        if self._has_priorities:
            ordered.sort(key=lambda request: request.priority)
        self.running[:] = ordered

    def _admission(self, decoding: Sequence[EngineRequest], partial: Sequence[PrefillRequest]) -> Admission:
        memory = None
        if partial:  # without, nothing is lost by offering what has no room: nobody could go on in its stead
            memory = StepMemory(self, decoding, partial, step_tokens=self.settings.planner.chunk_size)
        return Admission(scheduler=self, key_of=self._key_of, view=self._view, memory=memory)

    def _show(self, admission: Admission | None, chunks: Mapping[str, int] | None = None) -> None:
        """Let vLLM see the waiting requests that an admission asked, of these those with chunks only; None for all."""
        if admission is None:
            self.waiting.show(None)
            self.kv_holding_waiting.show(None)
            return
        shown = [
            request
            for request in admission.asked
            if chunks is None or request.request_id in chunks or request.request_id in admission.loading
        ]
        self.kv_holding_waiting.show(request for request in shown if request in self.kv_holding_waiting)
        self.waiting.show(request for request in shown if request in self.waiting)
        self.deferred_waiting.update(admission.passed)  # as vLLM counts those that it skips

    def _decode_load(self, decoding: Sequence[EngineRequest], *, prefills: bool) -> DecodeLoad:
        plain = not self.num_spec_tokens and not self.scheduler_config.async_scheduling
        if self.settings.step_time is None and (plain or not prefills):
            return DecodeLoad(tokens=len(decoding), context_tokens=0)  # nobody asks for more: leave them alone
        return decode_load(decoding)

    def _key_of(self, request: EngineRequest) -> SortKey:
        return self._order(prefill_request(request, self._queueing.of(request)))

    def _view(self, request: EngineRequest, context: int) -> PrefillRequest:
        images = ()
        if request.mm_features:
            images = prompt_images(
                request, self.encoder_cache_manager, start=context, end=context + self.settings.planner.chunk_size
            )
        return prefill_request(request, self._queueing.of(request), context_tokens=context, images=images)
