"""A plan before each step of a vLLM scheduler: no copy of schedule(), which runs as it is under fixed chunks.

A plan says how many prompt tokens each request computes in the step. vLLM asks `_reserve_prefill_lookahead` for every
request, running or waiting, how many tokens it may have: the plan answers. Which requests leave the queue is fixed by
the queue's order and by the number of requests that may be active.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from paceline.schedule.planner import StepPlan, plan_step
from paceline.schedule.policies import request_order
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.vllm_plugin.relied_on import (
    EngineRequest,
    PauseState,
    RequestStatus,
    SchedulerMixin,
    StepOutput,
    require_attributes,
)
from paceline.vllm_plugin.settings import PluginSettings
from paceline.vllm_plugin.views import decode_load, image_tokens_ahead, prefill_request
from paceline.vllm_plugin.waiting import WaitingQueue


class PlannedSteps(SchedulerMixin):
    """Mixin before one of vLLM's schedulers: every step runs under a plan of paceline.schedule."""

    def __init__(self, *args: Any, settings: PluginSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_attributes(self)
        self.settings = settings
        self._key_of = request_order(settings.planner.policy, settings.planner.weights)
        self.waiting = WaitingQueue(lambda request: self._key_of(prefill_request(request)))
        self._step_tokens: int = self.max_num_scheduled_tokens
        self._active_requests: int = self.max_num_active_reqs
        self._chunks: Mapping[str, int] | None = None
        self._offered: list[EngineRequest] = []
        self._refused: EngineRequest | None = None
        self.step_plan: StepPlan | None = None
        self.plan_us = 0.0

    @property
    def token_budget(self) -> int:
        """The tokens that a plan may use."""
        return self.settings.planner.chunk_size

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Plan a step, then let vLLM schedule it under the plan."""
        started = time.perf_counter()
        plan = self._plan()
        self.step_plan, self._chunks = plan, plan.chunks
        # vLLM pads a request that needs one token to a whole speculation, and does not start it where that does not fit
        padding = self.num_spec_tokens * plan.admitted
        self.max_num_scheduled_tokens = min(
            self._step_tokens, max(1, plan.decode_tokens + plan.prefill_tokens + padding)
        )
        active = len(self.running) + self.num_waiting_for_streaming_input + plan.admitted
        self.max_num_active_reqs = min(self._active_requests, active)
        self.plan_us = 1e6 * (time.perf_counter() - started)
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self._chunks = None
            self.max_num_scheduled_tokens = self._step_tokens
            self.max_num_active_reqs = self._active_requests
        self._note_refusal(output, plan)
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
        if self._chunks is None or (request.status == RequestStatus.RUNNING and not request.is_prefill_chunk):
            return tokens
        planned = self._chunks.get(request.request_id, 0)
        # one that finishes its prompt may be padded for speculation: that is vLLM's to say
        return tokens if planned >= request.num_tokens - computed else min(tokens, planned)

    def _plan(self) -> StepPlan:
        partial: list[EngineRequest] = [request for request in self.running if request.is_prefill_chunk]
        views = [self._view(request, request.num_computed_tokens) for request in partial]
        if partial:
            decoding = [request for request in self.running if not request.is_prefill_chunk]
            ranked = sorted(zip(views, partial, strict=True), key=lambda pair: self._key_of(pair[0]))
            # preemption takes the last one: decodes first, then the order of the policy
            self.running[:] = decoding + [request for _, request in ranked]
        room = self._active_requests - len(self.running) - self.num_waiting_for_streaming_input
        self._offered.clear()
        return plan_step(
            settings=self.settings.planner,
            decodes=self._decode_load(len(self.running) - len(partial)),
            partial=views,
            waiting=self._admissible(has_partial=bool(partial)) if room > 0 else (),
            room=max(0, room),
            step_time=self.settings.step_time,
        )

    def _decode_load(self, count: int) -> DecodeLoad:
        if self.settings.step_time is None and not self.num_spec_tokens:
            return DecodeLoad(tokens=count, context_tokens=0)  # nobody asks for contexts: leave the requests alone
        return decode_load(self.running[:count], with_drafts=self.num_spec_tokens > 0)

    def _admissible(self, *, has_partial: bool) -> Iterator[PrefillRequest]:
        """Yield the waiting requests in order, up to the first that the engine will not take in this step.

        It has no memory for it, or refused it in the last step (an encoder budget, a connector). Partly prefilled
        requests then go on in its stead; where there is none, nothing is lost by offering it.
        """
        free_blocks = self.kv_cache_manager.block_pool.get_num_free_blocks()
        for request in self._ready():
            context = request.num_computed_tokens or self.kv_cache_manager.get_computed_blocks(request)[1]
            view = self._view(request, context)
            free_blocks -= -(-view.remaining_tokens // self.block_size)
            if has_partial and (free_blocks < 0 or request is self._refused):
                return
            self._offered.append(request)
            yield view

    def _ready(self) -> Iterator[EngineRequest]:
        queues: Iterable[Iterable[EngineRequest]] = (self.kv_holding_waiting,)
        if self.pause_state == PauseState.UNPAUSED:
            queues = (self.kv_holding_waiting, self.waiting)
        for request in chain.from_iterable(queues):
            blocked = self._is_blocked_waiting_status(request.status)
            # asking promotes a request whose grammar or transfer is ready; vLLM asks only those it may admit
            if not blocked or self._handle_blocked_waiting_request(request):
                yield request

    def _view(self, request: EngineRequest, context: int) -> PrefillRequest:
        indivisible = image_tokens_ahead(request, context) if self.settings.planner.indivisible_tokens else 0
        return prefill_request(request, context_tokens=context, indivisible_tokens=indivisible)

    def _note_refusal(self, output: StepOutput, plan: StepPlan) -> None:
        planned = self._offered[: plan.admitted]
        scheduled = output.num_scheduled_tokens
        self._refused = next((request for request in planned if request.request_id not in scheduled), None)
