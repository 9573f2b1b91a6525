"""Which waiting requests an engine would take in a step: those that it would skip are stepped past, at no cost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

from paceline.schedule.policies import SortKey
from paceline.schedule.requests import PrefillRequest
from paceline.vllm_plugin.memory import StepMemory
from paceline.vllm_plugin.relied_on import EngineRequest, PauseState


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPrompt:
    """What of a waiting prompt need not be computed: blocks of the prefix cache, and tokens that a connector brings."""

    blocks: Any
    local_tokens: int
    external_tokens: int = 0
    loads_meanwhile: bool = False  # the connector brings them between steps: nothing is computed until they are there

    @property
    def tokens(self) -> int:
        """All tokens that need not be computed."""
        return self.local_tokens + self.external_tokens


@dataclass(slots=True, kw_only=True)
class Admission:
    """The waiting requests of one step in policy order, as far as the engine would take them.

    `asked` are those that were reached; of these `loading` holds those whose cache only begins to load, which costs no
    budget. `passed` are those that the engine would skip. `memory` None offers a request whether or not there is memory
    for it.
    """

    scheduler: Any
    key_of: Callable[[EngineRequest], SortKey]
    view: Callable[[EngineRequest, int], PrefillRequest]
    memory: StepMemory | None
    asked: list[EngineRequest] = field(default_factory=list[EngineRequest])
    loading: set[str] = field(default_factory=set[str])
    passed: list[EngineRequest] = field(default_factory=list[EngineRequest])
    _loras: set[int] = field(default_factory=set[int])

    def offers(self) -> Iterator[PrefillRequest]:
        """Yield the requests in order, up to the first that memory lacks room for: none behind it passes it."""
        if self.scheduler.lora_config:
            # of all that run, whether this step serves them or not: vLLM asserts that they fit when it does serve them
            self._loras.update(_lora(request) for request in self.scheduler.running if _lora(request))
        for request in self._queued():
            cached = self._cached(request) if self._is_ready(request) else None
            if cached is None:
                self.passed.append(request)
                continue
            if self.memory is not None and not self._fits(self.memory, request, cached):
                return
            self.asked.append(request)
            if cached.loads_meanwhile:
                self.loading.add(request.request_id)
                continue
            if self.scheduler.lora_config and _lora(request):
                self._loras.add(_lora(request))
            yield self.view(request, min(cached.tokens, request.num_tokens - 1))

    def _fits(self, memory: StepMemory, request: EngineRequest, cached: CachedPrompt) -> bool:
        reserved = 0
        if cached.loads_meanwhile:
            reserved = self.scheduler._inflight_prefill_reserved_blocks() + self.scheduler._spec_decode_step_blocks
        return memory.takes(
            request, cached.blocks, local_tokens=cached.local_tokens, tokens=cached.tokens, reserved=reserved
        )

    def _queued(self) -> Iterator[EngineRequest]:
        if self.scheduler.pause_state != PauseState.UNPAUSED:
            return iter(self.scheduler.kv_holding_waiting)
        if not self.scheduler.kv_holding_waiting:
            return iter(self.scheduler.waiting)
        return merge(self.scheduler.kv_holding_waiting, self.scheduler.waiting, key=self.key_of)

    def _is_ready(self, request: EngineRequest) -> bool:
        scheduler = self.scheduler
        # asking promotes a request whose grammar or transfer is ready; vLLM asks only those it may admit
        if scheduler._is_blocked_waiting_status(request.status) and not scheduler._handle_blocked_waiting_request(
            request
        ):
            return False
        if request.num_stale_output_tokens and not request.drop_stale_output:
            return False
        lora = _lora(request) if scheduler.lora_config else 0
        return not lora or lora in self._loras or len(self._loras) < scheduler.lora_config.max_loras

    def _cached(self, request: EngineRequest) -> CachedPrompt | None:
        """Return what need not be computed; None while a transfer, or the answer whether there is one, is awaited."""
        scheduler = self.scheduler
        if request.num_computed_tokens:  # its memory came before it could run
            blocks, local = scheduler.kv_cache_manager.empty_kv_cache_blocks, request.num_computed_tokens
            cached = CachedPrompt(blocks=blocks, local_tokens=local)
        else:
            blocks, local, *_ = scheduler._get_local_prefix_cache_hit(request)
            external, meanwhile = self._external(request, local)
            if external is None:
                return None
            cached = CachedPrompt(
                blocks=blocks, local_tokens=local, external_tokens=external, loads_meanwhile=meanwhile
            )
        return None if scheduler._ec_transfer_pending(request, cached.tokens) else cached

    def _external(self, request: EngineRequest, local: int) -> tuple[int | None, bool]:
        """Return the tokens that a connector would bring, None when it does not know yet, and whether between steps."""
        scheduler = self.scheduler
        if scheduler.connector is None:
            return 0, False
        partial_block = local % scheduler.block_size
        external, meanwhile = scheduler.connector.get_num_new_matched_tokens(request, local - partial_block)
        if external is None:
            return None, False
        if request.skip_reading_prefix_cache or external <= partial_block:
            return 0, False
        return external - partial_block, meanwhile


def _lora(request: EngineRequest) -> int:
    return request.lora_request.lora_int_id if request.lora_request else 0
