"""What stands in for a model when vLLM's schedulers run without one: a KV cache by numbers, prompts and outputs by sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from paceline.vllm_plugin.relied_on import (
    EngineRequest,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    ModelRunnerOutput,
    MultiModalFeatureSpec,
    PlaceholderRange,
    Request,
    SamplingParams,
    StepOutput,
    block_hash_function,
    block_hasher,
    prepare_block_hashes,
)
from paceline.vllm_plugin.request_knobs import budget_asked

TOKEN = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeUpImage:
    """An image in a prompt, one embedding a token; images of one content are the same to a cache."""

    offset: int
    tokens: int
    content: str


def made_up_cache(blocks: int, block_tokens: int) -> Any:
    """Return the configuration of a KV cache of one kind of attention, of `blocks` with `block_tokens` tokens each."""
    spec = FullAttentionSpec(block_size=block_tokens, num_kv_heads=1, head_size=32, dtype=torch.float32)
    groups = [KVCacheGroupSpec(["layer"], spec)]
    return KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)


def made_up_request(
    name: str,
    prompt: Sequence[int],
    *,
    output_tokens: int,
    block_tokens: int,
    images: Sequence[MadeUpImage] = (),
    priority: int = 0,
    arrival_time: float = 0.0,
    ttft_budget_ms: float | None = None,
) -> EngineRequest:
    """Return one of vLLM's requests; `arrival_time` is the front end's wall clock, `block_tokens` the KV cache's."""
    prepare_block_hashes(block_hash_function)
    return Request(
        request_id=name,
        prompt_token_ids=list(prompt),
        sampling_params=SamplingParams(
            max_tokens=output_tokens,
            ignore_eos=True,
            extra_args=budget_asked(ttft_budget_ms),
        ),
        pooling_params=None,
        arrival_time=arrival_time,
        priority=priority,
        mm_features=[_feature(image) for image in images],
        block_hasher=block_hasher(block_tokens, block_hash_function),
    )


def made_up_output(output: StepOutput, sampled: Sequence[str]) -> Any:
    """Return what a model might have: one token for each of the requests `sampled`, none for the others of the step."""
    names, with_token = list(output.num_scheduled_tokens), set(sampled)
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=[[TOKEN] if name in with_token else [] for name in names],
    )


def _feature(image: MadeUpImage) -> Any:
    return MultiModalFeatureSpec(
        data=None,
        modality="image",
        identifier=image.content,
        mm_position=PlaceholderRange(offset=image.offset, length=image.tokens),
    )
