"""What of the KV cache a step's plan may count on, by vLLM's own reckoning of what a request needs."""

from collections.abc import Sequence
from typing import Any

from paceline.schedule.requests import PrefillRequest
from paceline.vllm_plugin.relied_on import EngineRequest
from paceline.vllm_plugin.views import decode_tokens


class StepMemory:
    """The free blocks of one step, less what running requests take in it, while waiting requests are added.

    Running requests come first in vLLM, so a waiting one is taken only if its blocks fit beside theirs: all that its
    prompt needs, blocks of the prefix cache that nobody uses included (they count as free until they are taken), and the
    watermark that vLLM leaves.
    """

    __slots__ = ("_added", "_decoding", "_free", "_partial", "_running", "_scheduler", "_step_tokens")

    def __init__(
        self,
        scheduler: Any,
        decoding: Sequence[EngineRequest],
        partial: Sequence[PrefillRequest],
        *,
        step_tokens: int,
    ) -> None:
        self._scheduler, self._step_tokens = scheduler, step_tokens
        self._decoding, self._partial = decoding, partial
        self._free: int = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        self._running: int | None = None  # blocks that running requests take: reckoned only when it matters
        self._added = 0

    def takes(
        self, request: EngineRequest, cached_blocks: Any, *, local_tokens: int, tokens: int, reserved: int = 0
    ) -> bool:
        """Add a request if there is memory for it; `tokens` need not be computed, of these `local_tokens` are here.

        `reserved` blocks are promised to others.
        """
        needed = self._needed(request, cached_blocks, local_tokens, tokens)
        wanted = self._added + needed + self._scheduler.kv_cache_manager.watermark_blocks + reserved
        if wanted > self._free - self._most_running():
            if self._running is None:
                self._running = self._reckoned()
            if wanted > self._free - self._running:
                return False
        self._added += needed
        return True

    def _most_running(self) -> int:
        """Return what running requests cannot exceed: a block more for each than their tokens fill."""
        if self._running is not None:
            return self._running
        tokens = self._step_tokens + (len(self._decoding) + len(self._partial)) * self._scheduler.num_lookahead_tokens
        blocks = tokens // self._scheduler.block_size + len(self._decoding) + len(self._partial)
        return blocks * self._groups

    def _reckoned(self) -> int:
        blocks = sum([self._grown(request.num_computed_tokens, decode_tokens(request)) for request in self._decoding])
        left = max(0, self._step_tokens - len(self._decoding))
        for view in self._partial:
            tokens = min(left, view.remaining_tokens)
            blocks += self._grown(view.context_tokens, tokens) if tokens else 0
            left -= tokens
        return blocks * self._groups

    @property
    def _groups(self) -> int:
        """How many kinds of attention keep blocks of their own."""
        return len(self._scheduler.kv_cache_manager.coordinator.single_type_managers)

    def _grown(self, computed: int, tokens: int) -> int:
        """Return the blocks that are added when a request computes so many tokens more."""
        size, ahead = self._scheduler.block_size, self._scheduler.num_lookahead_tokens
        return max(0, -(-(computed + tokens + ahead) // size) - -(-computed // size))

    def _needed(self, request: EngineRequest, cached_blocks: Any, local_tokens: int, tokens: int) -> int:
        """Return the blocks that vLLM wants free before it takes a request: `allocate_slots` asks in these words."""
        scheduler = self._scheduler
        whole = min(request.num_tokens, scheduler.max_model_len)
        if not scheduler.scheduler_reserve_full_isl:  # then one chunk is enough
            whole = min(whole, tokens + self._step_tokens)
        return scheduler.kv_cache_manager.coordinator.get_num_blocks_to_allocate(
            request_id=request.request_id,
            num_tokens=whole,
            new_computed_blocks=cached_blocks.blocks,
            num_encoder_tokens=0,
            total_computed_tokens=min(tokens, scheduler.max_model_len),
            num_local_computed_tokens=local_tokens,
            num_tokens_main_model=whole,
            apply_admission_cap=scheduler.scheduler_reserve_full_isl,
            prefill_end=max(request.num_prompt_tokens, request.num_tokens - 1),
        )


def used_blocks(scheduler: Any) -> int:
    """Return the key-value blocks that requests hold; one of all is never anybody's."""
    pool = scheduler.kv_cache_manager.block_pool
    return pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
