"""What Paceline's worker relies on in vLLM: apart from `relied_on`, for a scheduler's process loads no model."""

# pyright: reportMissingImports=false
import copy
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch

from paceline.errors import EngineError
from paceline.vllm_plugin import relied_on

import vllm.config  # isort: skip
import vllm.forward_context  # isort: skip
import vllm.v1.attention.backend  # isort: skip
import vllm.v1.kv_cache_interface  # isort: skip
from vllm.platforms import current_platform  # isort: skip

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as BaseWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as BaseWorker

EngineWorker: Any = BaseWorker
set_forward_context: Any = vllm.forward_context.set_forward_context
AttentionSpec: Any = vllm.v1.kv_cache_interface.AttentionSpec
CommonAttentionMetadata: Any = vllm.v1.attention.backend.CommonAttentionMetadata
# those whose builders keep nothing of a step, but for captured graphs; the second and third by reading
PLANLESS_BACKENDS = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")
NO_GRAPH: Any = vllm.config.CUDAGraphMode.NONE
FIRST_RUNNER, SECOND_RUNNER = ("_prepare_inputs", "_model_forward", "input_batch", "attn_groups"), ("prepare_inputs",)


def device_type() -> str:
    """Return the kind of device that this vLLM computes on, as torch calls it."""
    return str(current_platform.device_type)


def forward_context() -> Any:
    """Return the context of the step that runs: what each layer's attention is told, and whether graphs are used."""
    return vllm.forward_context.get_forward_context()


def require_runner(runner: Any, *, eager: bool) -> bool:
    """Return whether a model runner is vLLM's first; raises EngineError for one that Paceline cannot follow."""
    if all(hasattr(runner, name) for name in FIRST_RUNNER):
        return True
    if all(hasattr(runner, name) for name in SECOND_RUNNER) and eager:
        return False
    raise EngineError(
        f"vLLM {relied_on.VLLM_VERSION} runs this model with {type(runner).__name__}, which Paceline's worker follows with "
        "--enforce-eager alone; add that flag, set VLLM_USE_V2_MODEL_RUNNER=0, or serve without --worker-cls"
    )


def refuse_engine(vllm_config: Any) -> None:
    """Raise EngineError for an engine whose requests cannot have knobs of their own."""
    for problem, holds in (_of_devices(vllm_config) | _of_requests(vllm_config)).items():
        if holds:
            raise EngineError(
                f"the knobs of single requests cannot be steered in this engine: {problem}; or leave --worker-cls out"
            )


def _of_devices(vllm_config: Any) -> dict[str, bool]:
    parallel = vllm_config.parallel_config
    data = parallel.data_parallel_size
    return {
        "layers are spread over pipeline stages; expected --pipeline-parallel-size 1": (
            parallel.pipeline_parallel_size > 1
        ),
        # a dense model's engines are independent, and have a size of 1 here
        f"{data} engines compute their experts together, each on the others' rows; expected --data-parallel-size 1": (
            data > 1
        ),
        "a request's tokens are spread over devices (context parallel); expected --prefill-context-parallel-size and "
        "--decode-context-parallel-size 1": (
            parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1
        ),
        "experts are spread over devices; leave --enable-expert-parallel out": parallel.enable_expert_parallel,
        "a step is computed in two halves (--enable-dbo, --ubatch-size); leave these out": parallel.use_ubatching,
    }


def _of_requests(vllm_config: Any) -> dict[str, bool]:
    speculation, model = vllm_config.speculative_config, vllm_config.model_config
    scheduler = str(vllm_config.scheduler_config.scheduler_cls)
    method = getattr(speculation, "method", None)
    return {
        f"drafts come from {method!r}, whose model may share layers; expected ngram or none": (
            speculation is not None and method != "ngram"
        ),
        "adapters are on, which were not tested with knobs; leave --enable-lora out": (
            vllm_config.lora_config is not None
        ),
        "keys and values are exchanged with other engines, which know no knobs; leave --kv-transfer-config out": (
            vllm_config.kv_transfer_config is not None
        ),
        "this model attends to the tokens of a picture in both directions; expected one that sees each token's past": (
            model.is_mm_prefix_lm
        ),
        "this model's decoder reads an encoder's keys and values; expected a decoder alone": model.is_encoder_decoder,
        f"its runner is {model.runner_type!r}; expected one that generates text": model.runner_type != "generate",
        "--kv-sharing-fast-prefill computes some rows of some layers; leave it out": (
            vllm_config.cache_config.kv_sharing_fast_prefill
        ),
        "--scheduler-cls is not Paceline's, which keeps cached prefixes of different knobs apart; set it to "
        "paceline.vllm_plugin.scheduler or paceline.vllm_plugin.stock": "paceline.vllm_plugin" not in scheduler,
    }


def attention_builders(runner: Any, known_fields: Iterable[str]) -> tuple[Any, Any]:
    """Return the builder of metadata of the one kind of attention that a model has, and another of the same kind.

    The other keeps no buffers for captured graphs. `known_fields` are those of a step's metadata that the caller tells
    apart. Raises EngineError for several kinds, for one that may keep a step's plan, and for unknown fields.
    """
    _require_fields(known_fields)
    groups = [group for of_cache in runner.attn_groups for group in of_cache]
    names = sorted(group.backend.get_name() for group in groups)
    if len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, AttentionSpec):
        raise EngineError(
            f"this model has {len(groups)} kinds of attention or state ({', '.join(names)}); expected one attention alone, whose "
            "metadata can be made for some of a step's requests; serve it without --worker-cls"
        )
    if names[0] not in PLANLESS_BACKENDS:
        raise EngineError(
            f"attention runs by {names[0]}, which may keep the plan of one step only; expected one of "
            f"{', '.join(PLANLESS_BACKENDS)}: set --attention-backend, or serve without --worker-cls"
        )
    builder = groups[0].get_metadata_builder()
    plain = copy.copy(builder.vllm_config)
    # not by assignment, which may validate
    vars(plain)["compilation_config"] = compilation = copy.copy(plain.compilation_config)
    vars(compilation)["cudagraph_mode"] = NO_GRAPH
    return builder, type(builder)(builder.kv_cache_spec, builder.layer_names, plain, builder.device)


def _require_fields(known: Iterable[str]) -> None:
    found = {field.name for field in fields(CommonAttentionMetadata)}
    odd = sorted(found.symmetric_difference(known))
    if odd:
        raise EngineError(
            f"vLLM {relied_on.VLLM_VERSION} describes a step otherwise ({', '.join(odd)}) than Paceline's worker knows; expected "
            f"what vLLM {', '.join(relied_on.TESTED_VERSIONS)} has; install that, or leave --worker-cls out"
        )


def run_alone(vllm_config: Any, runner: Any, layer: Any) -> Any:
    """Return what a decoder layer hands on of one token, outside of any request, told nothing but LAYER_INPUTS."""
    hidden_TH = torch.zeros(
        (1, vllm_config.model_config.get_hidden_size()), dtype=vllm_config.model_config.dtype, device=runner.device
    )
    positions = torch.zeros(
        (3, 1) if vllm_config.model_config.uses_mrope else (1,), dtype=torch.int64, device=runner.device
    )
    with torch.inference_mode(), set_forward_context(None, vllm_config, num_tokens=1):
        return layer.forward(positions=positions, hidden_states=hidden_TH, residual=hidden_TH.clone())
