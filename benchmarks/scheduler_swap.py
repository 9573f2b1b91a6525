"""One vLLM engine, many schedulers: an engine takes seconds to start, a scheduler none, and all then run on one memory."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any


def with_scheduler(
    engine: Any, build: Callable[..., Any], additional_config: Mapping[str, object], *, blocks: int | None = None
) -> Any:
    """Put a new scheduler in the place of an idle in-process engine's, and return it; `blocks` makes its cache smaller.

    The model and its memory stay, and so do the engine's limits. The cache starts empty.
    """
    core = engine.engine_core.engine_core
    old = core.scheduler
    old.shutdown()
    core.vllm_config.additional_config = additional_config
    core.scheduler = build(
        vllm_config=core.vllm_config,
        kv_cache_config=replace(old.kv_cache_config, num_blocks=blocks or old.kv_cache_config.num_blocks),
        structured_output_manager=core.structured_output_manager,
        block_size=old.block_size,
        hash_block_size=old.hash_block_size,
        log_stats=False,
    )
    # the worker is told of requests that end with the step after
    core.scheduler.finished_req_ids |= old.finished_req_ids
    return core.scheduler
