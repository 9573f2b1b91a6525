"""vLLM's requests, and its encoder cache, as the step planner knows them."""

from collections.abc import Sequence
from typing import Any

from paceline.schedule.encoder import EncoderBudget, PromptImage
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.vllm_plugin.relied_on import EngineRequest, RequestStatus, features_in_window
from paceline.vllm_plugin.waiting import Queueing


def prefill_request(
    request: EngineRequest,
    queueing: Queueing,
    *,
    context_tokens: int | None = None,
    images: tuple[PromptImage, ...] = (),
) -> PrefillRequest:
    """Return a request whose prompt is not fully computed; `context_tokens` counts what the prefix cache holds too."""
    computed_here = request.num_computed_tokens > 0
    computed = request.num_computed_tokens if context_tokens is None else context_tokens
    return PrefillRequest(
        request_id=request.request_id,
        queue_number=queueing.number,
        arrival_seconds=queueing.seconds,
        prompt_tokens=request.num_prompt_tokens,
        remaining_tokens=max(1, request.num_tokens - computed),
        context_tokens=computed,
        resumed=request.num_preemptions > 0 or (computed_here and request.status != RequestStatus.RUNNING),
        priority=request.priority,
        images=images,
        ttft_budget_seconds=queueing.ttft_budget_seconds,
    )


def decode_load(requests: Sequence[EngineRequest]) -> DecodeLoad:
    """Return what the decoding requests compute together."""
    context = sum([request.num_computed_tokens for request in requests])
    return DecodeLoad(tokens=sum(map(decode_tokens, requests)), context_tokens=context)


def decode_tokens(request: EngineRequest) -> int:
    """Return how many tokens a decoding request computes next: one and its drafts; 0 when it only awaits its output."""
    awaited = request.num_output_placeholders
    if awaited and request.num_computed_tokens + 2 - awaited >= request.num_prompt_tokens + request.max_tokens:
        return 0  # the step before ends it for certain: vLLM leaves it out by the same reckoning
    return max(0, request.num_tokens_with_spec + awaited - request.num_computed_tokens)


def encoder_budget(scheduler: Any) -> EncoderBudget:
    """Return what the encoder may do in the next step; what is cached for no unfinished request makes room."""
    return EncoderBudget(
        compute_embeds=scheduler.max_num_encoder_input_tokens,
        cache_embeds=scheduler.encoder_cache_manager.num_freeable_slots,
    )


def prompt_images(request: EngineRequest, cache: Any, *, start: int, end: int) -> tuple[PromptImage, ...]:
    """Return the images with tokens between `start` and `end`, each with what it costs in view of vLLM's encoder cache."""
    features = request.mm_features
    first, after = features_in_window(features, start=start, end=end)
    return tuple(_prompt_image(feature, cache) for feature in features[first:after])


def _prompt_image(feature: Any, cache: Any) -> PromptImage:
    place = feature.mm_position
    embeds = place.get_num_embeds()
    users = cache.cached.get(feature.identifier)  # None: not cached; empty: cached for nobody, it can be evicted
    return PromptImage(
        identifier=feature.identifier,
        start=place.offset,
        end=place.offset + place.length,
        compute_embeds=embeds if users is None else 0,
        cache_embeds=0 if users else embeds,
    )
