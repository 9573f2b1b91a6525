"""What Paceline's worker relies on in vLLM: apart from `relied_on`, for a scheduler's process loads no model."""

# pyright: reportMissingImports=false
from typing import Any

from paceline.errors import EngineError
from paceline.vllm_plugin import relied_on

import vllm.config  # isort: skip
import vllm.forward_context  # isort: skip
from vllm.platforms import current_platform  # isort: skip

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as BaseWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as BaseWorker

EngineWorker: Any = BaseWorker
set_forward_context: Any = vllm.forward_context.set_forward_context
NO_GRAPH: Any = vllm.config.CUDAGraphMode.NONE
FIRST_RUNNER, SECOND_RUNNER = ("_prepare_inputs", "_model_forward", "input_batch", "attn_groups"), ("prepare_inputs",)


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
    parallel, speculation = vllm_config.parallel_config, vllm_config.speculative_config
    scheduler = str(vllm_config.scheduler_config.scheduler_cls)
    refusals = {
        "layers are spread over pipeline stages; expected --pipeline-parallel-size 1": parallel.pipeline_parallel_size
        > 1,
        "experts are spread over devices; leave --enable-expert-parallel out": parallel.enable_expert_parallel,
        f"drafts come from {getattr(speculation, 'method', None)!r}, whose model may share layers; expected ngram or none": (
            speculation is not None and speculation.method != "ngram"
        ),
        "adapters are on, which were not tested with knobs; leave --enable-lora out": vllm_config.lora_config
        is not None,
        "--scheduler-cls is not Paceline's, which keeps cached prefixes of different knobs apart; set it to "
        "paceline.vllm_plugin.scheduler or paceline.vllm_plugin.stock": "paceline.vllm_plugin" not in scheduler,
    }
    for problem, holds in refusals.items():
        if holds:
            raise EngineError(
                f"the knobs of single requests cannot be steered in this engine: {problem}; or leave --worker-cls out"
            )


def only_builder(runner: Any) -> Any:
    """Return the builder of the one kind of attention that a model has; raises EngineError for several."""
    groups = [group for of_cache in runner.attn_groups for group in of_cache]
    if len(groups) != 1:
        raise EngineError(
            f"this model has {len(groups)} kinds of attention; expected one, whose metadata can be made for some of a step's "
            "requests; serve it without --worker-cls"
        )
    return groups[0].get_metadata_builder()
