"""Everything that Paceline's scheduler relies on in vLLM, with the versions it was tested with.

No other module imports vLLM, aside from `compile_key`, which loads in every process, `relied_on_model`, which loads where a
model does, and `relied_on_server`, which loads in an API server.

vLLM says that its scheduler interface is not public. So the version is asserted when this module loads, the attributes
when a scheduler starts: an engine that differs stops with a sentence, not with a wrong schedule.
"""

# pyright: reportMissingImports=false
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from paceline.errors import EngineError, MissingExtraError

try:
    from vllm.version import __version__ as VLLM_VERSION
except ModuleNotFoundError as error:
    if error.name not in ("vllm", "vllm.version"):
        raise
    raise MissingExtraError("vllm", "vllm") from error

TESTED_VERSIONS = ("0.32.0",)
SUPPORTED_SERIES = "0.32."


def require_version(version: str) -> None:
    """Raise EngineError unless the version is of the series that Paceline's scheduler was tested with."""
    if not version.startswith(SUPPORTED_SERIES):
        raise EngineError(
            f"vLLM {version} is not supported: its scheduler interface is not public; expected {SUPPORTED_SERIES}x "
            f"(tested: {', '.join(TESTED_VERSIONS)}); run: pip install 'paceline[vllm]', or leave --scheduler-cls out"
        )


require_version(VLLM_VERSION)  # before the imports below, which another version may not have

import vllm  # noqa: E402
import vllm.distributed  # noqa: E402
import vllm.multimodal.encoder_budget  # noqa: E402
import vllm.multimodal.inputs  # noqa: E402
import vllm.multimodal.utils  # noqa: E402
import vllm.utils.hashing  # noqa: E402
import vllm.v1.core.kv_cache_utils  # noqa: E402
import vllm.v1.core.sched.async_scheduler  # noqa: E402
import vllm.v1.core.sched.interface  # noqa: E402
import vllm.v1.core.sched.request_queue  # noqa: E402
import vllm.v1.core.sched.scheduler  # noqa: E402
import vllm.v1.engine.llm_engine  # noqa: E402
import vllm.v1.executor  # noqa: E402
import vllm.v1.kv_cache_interface  # noqa: E402
import vllm.v1.outputs  # noqa: E402
import vllm.v1.request  # noqa: E402
import vllm.v1.structured_output  # noqa: E402

# Any: types are checked where vLLM is not installed
AsyncScheduler: Any = vllm.v1.core.sched.async_scheduler.AsyncScheduler
EngineArgs: Any = vllm.EngineArgs
Executor: Any = vllm.v1.executor.Executor
FullAttentionSpec: Any = vllm.v1.kv_cache_interface.FullAttentionSpec
KVCacheConfig: Any = vllm.v1.kv_cache_interface.KVCacheConfig
KVCacheGroupSpec: Any = vllm.v1.kv_cache_interface.KVCacheGroupSpec
LLMEngine: Any = vllm.v1.engine.llm_engine.LLMEngine
ModelRunnerOutput: Any = vllm.v1.outputs.ModelRunnerOutput
MultiModalFeatureSpec: Any = vllm.multimodal.inputs.MultiModalFeatureSpec
PauseState: Any = vllm.v1.core.sched.interface.PauseState
PlaceholderRange: Any = vllm.multimodal.inputs.PlaceholderRange
Request: Any = vllm.v1.request.Request
RequestQueue: Any = vllm.v1.core.sched.request_queue.RequestQueue
RequestStatus: Any = vllm.v1.request.RequestStatus
SamplingParams: Any = vllm.SamplingParams
Scheduler: Any = vllm.v1.core.sched.scheduler.Scheduler
StructuredOutputManager: Any = vllm.v1.structured_output.StructuredOutputManager
TokensPrompt: Any = vllm.TokensPrompt
block_hash_function: Any = vllm.utils.hashing.sha256
block_hasher: Any = vllm.v1.core.kv_cache_utils.get_request_block_hasher
features_in_window: Any = vllm.multimodal.utils.get_mm_features_in_window
prepare_block_hashes: Any = vllm.v1.core.kv_cache_utils.init_none_hash
release_devices: Any = vllm.distributed.cleanup_dist_env_and_memory
# a mixin stands before one of vLLM's schedulers and calls it through super()
SchedulerMixin: Any = object

SCHEDULER_ATTRIBUTES = (
    "waiting",
    "kv_holding_waiting",
    "deferred_waiting",
    "running",
    "requests",
    "max_num_scheduled_tokens",
    "max_num_active_reqs",
    "max_num_encoder_input_tokens",
    "max_model_len",
    "num_waiting_for_streaming_input",
    "num_spec_tokens",
    "num_lookahead_tokens",
    "pause_state",
    "block_size",
    "connector",
    "lora_config",
    "scheduler_config",
    "scheduler_reserve_full_isl",
    "schedule",
    "update_from_output",
    "finish_requests",
    "shutdown",
    "_reserve_prefill_lookahead",
    "_try_schedule_encoder_inputs",
    "_handle_blocked_waiting_request",
    "_handle_stopped_request",
    "add_request",
    "_is_blocked_waiting_status",
    "_get_local_prefix_cache_hit",
    "_ec_transfer_pending",
    "_inflight_prefill_reserved_blocks",
    "_spec_decode_step_blocks",
    "kv_cache_manager.watermark_blocks",
    "kv_cache_manager.empty_kv_cache_blocks",
    "kv_cache_manager.block_pool.get_num_free_blocks",
    "kv_cache_manager.block_pool.num_gpu_blocks",
    "kv_cache_manager.coordinator.get_num_blocks_to_allocate",
    "kv_cache_manager.coordinator.single_type_managers",
    "encoder_cache_manager.cached",
    "encoder_cache_manager.num_freeable_slots",
)
REQUEST_ATTRIBUTES = (
    "request_id",
    "status",
    "priority",
    "num_prompt_tokens",
    "max_tokens",
    "num_tokens",
    "num_tokens_with_spec",
    "num_computed_tokens",
    "num_output_tokens",
    "num_output_placeholders",
    "num_stale_output_tokens",
    "drop_stale_output",
    "num_preemptions",
    "is_prefill_chunk",
    "mm_features",
    "resumable",
    "lora_request",
    "skip_reading_prefix_cache",
    "arrival_time",
    "sampling_params",
    "cache_salt",
    "block_hashes",
    "update_block_hashes",
    "is_finished",
    "trace_headers",
)


class EngineRequest(Protocol):
    """What Paceline reads of one of vLLM's requests; the names are vLLM's."""

    request_id: str
    status: Any
    priority: int  # the lower, the sooner
    arrival_time: float  # the front end's wall clock: for records only, it may be set back
    num_prompt_tokens: int
    max_tokens: int
    num_tokens: int
    num_tokens_with_spec: int
    num_computed_tokens: int
    num_output_tokens: int
    num_output_placeholders: int
    num_stale_output_tokens: int
    drop_stale_output: bool
    num_preemptions: int
    is_prefill_chunk: bool
    mm_features: Sequence[Any]
    resumable: bool  # a streaming session: further turns may follow
    lora_request: Any
    sampling_params: Any
    cache_salt: str | None
    block_hashes: list[Any]
    skip_reading_prefix_cache: bool

    def update_block_hashes(self) -> None:
        """Hash the full blocks that have no hash yet."""
        ...

    def is_finished(self) -> bool:
        """Whether the request has ended, for whatever reason."""
        ...


class StepOutput(Protocol):
    """What Paceline reads of a SchedulerOutput; the names are vLLM's."""

    num_scheduled_tokens: Mapping[str, int]
    total_num_scheduled_tokens: int
    preempted_req_ids: Iterable[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine allows: tokens a step, requests running at once, the largest image that it must not split.

    `decode_tokens` is what one request computes in a step when it decodes: a token, and its drafts under speculation.
    `whole_image_tokens` is 0 for a model without images, or whose images may be computed in parts.
    """

    step_tokens: int
    running_requests: int
    decode_tokens: int = 1
    whole_image_tokens: int = 0


def read_limits(vllm_config: Any) -> EngineLimits:
    """Return the limits of an engine that is about to start; raises EngineError for one that cannot be planned."""
    for refused, sentence in _refusals(vllm_config):
        if refused:
            raise EngineError(sentence)
    config = vllm_config.scheduler_config
    step_tokens = config.max_num_scheduled_tokens or config.max_num_batched_tokens
    return EngineLimits(
        step_tokens=step_tokens,
        running_requests=config.max_num_active_seqs or config.max_num_seqs,
        decode_tokens=1 + vllm_config.num_speculative_tokens,
        whole_image_tokens=_largest_image_tokens(vllm_config) if config.disable_chunked_mm_input else 0,
    )


def engine_number(vllm_config: Any) -> int:
    """Return the number of an engine among those of its data-parallel run; 0 for one alone."""
    return vllm_config.parallel_config.data_parallel_index  # the rank is 0 in every engine of a dense model


def require_attributes(scheduler: Any) -> None:
    """Raise EngineError with every attribute that Paceline relies on and that this vLLM lacks."""
    request = Request(
        request_id="paceline", prompt_token_ids=[0], sampling_params=SamplingParams(max_tokens=1), pooling_params=None
    )
    missing = [f"Scheduler.{name}" for name in SCHEDULER_ATTRIBUTES if not _has(scheduler, name)]
    missing += [f"Request.{name}" for name in REQUEST_ATTRIBUTES if not _has(request, name)]
    if missing:
        raise EngineError(
            f"vLLM {VLLM_VERSION} lacks {', '.join(missing)}, which Paceline's scheduler relies on; "
            f"expected what vLLM {', '.join(TESTED_VERSIONS)} has; install that, or leave --scheduler-cls out"
        )


def _refusals(vllm_config: Any) -> tuple[tuple[bool, str], ...]:
    config, model = vllm_config.scheduler_config, vllm_config.model_config
    return (
        (
            model.runner_type != "generate" or model.is_diffusion,
            f"the engine's runner is {model.runner_type!r}; expected one that generates text token by token; "
            "leave --scheduler-cls out for this model",
        ),
        (
            config.policy != "fcfs",
            f"--scheduling-policy is {config.policy!r}; expected fcfs: the order of requests is Paceline's, which puts a "
            'request\'s priority first anyway; leave the flag out and set "policy" in additional_config',
        ),
        (
            not config.enable_chunked_prefill,
            "chunked prefill is off, by --no-enable-chunked-prefill or because the model does not allow it; "
            "expected it on: a step is filled with chunks; turn it on, or leave --scheduler-cls out",
        ),
        (
            config.long_prefill_token_threshold > 0,
            f"--long-prefill-token-threshold is {config.long_prefill_token_threshold}; expected 0: "
            'set "max_chunk_tokens" in additional_config instead',
        ),
        (
            model.is_mm_prefix_lm and not config.disable_chunked_mm_input,
            "this model attends to the tokens of an image in both directions, so that an image must not be split; "
            "expected --disable-chunked-mm-input",
        ),
        (
            vllm_config.cache_config.mamba_cache_mode == "align",
            "the Mamba cache mode is 'align', whose chunks end where vLLM says; expected 'none' or 'all'; "
            "set --mamba-cache-mode, or leave --scheduler-cls out",
        ),
    )


def _largest_image_tokens(vllm_config: Any) -> int:
    if not vllm_config.model_config.supports_multimodal_inputs:
        return 0
    budget = vllm.multimodal.encoder_budget.MultiModalBudget(vllm_config, vllm.multimodal.MULTIMODAL_REGISTRY)
    return max(budget.mm_max_toks_per_item.values(), default=0)


def _has(owner: object, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True
