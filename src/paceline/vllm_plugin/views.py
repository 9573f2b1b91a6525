"""vLLM's requests as the step planner knows them."""

from collections.abc import Sequence

from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.vllm_plugin.relied_on import EngineRequest


def prefill_request(
    request: EngineRequest, *, context_tokens: int | None = None, indivisible_tokens: int = 0
) -> PrefillRequest:
    """Return a request whose prompt is not fully computed; `context_tokens` counts what the prefix cache holds too."""
    computed = request.num_computed_tokens if context_tokens is None else context_tokens
    return PrefillRequest(
        request_id=request.request_id,
        arrival_seconds=request.arrival_time,
        prompt_tokens=request.num_prompt_tokens,
        remaining_tokens=max(1, request.num_tokens - computed),
        context_tokens=computed,
        resumed=request.num_preemptions > 0,
        indivisible_tokens=indivisible_tokens,
    )


def decode_load(requests: Sequence[EngineRequest], *, with_drafts: bool) -> DecodeLoad:
    """Return what the decoding requests compute together: one token each, or what their drafts come to."""
    context = sum([request.num_computed_tokens for request in requests])
    tokens = sum([_draft_tokens(request) for request in requests]) if with_drafts else len(requests)
    return DecodeLoad(tokens=tokens, context_tokens=context)


def _draft_tokens(request: EngineRequest) -> int:
    # with steps in flight there may be nothing to compute: the placeholders of tokens to come say so
    return max(0, request.num_tokens_with_spec + request.num_output_placeholders - request.num_computed_tokens)


def image_tokens_ahead(request: EngineRequest, context_tokens: int) -> int:
    """Return how many tokens are left of the image, or other item, that the next token belongs to; 0 for text."""
    for feature in request.mm_features:
        start = feature.mm_position.offset
        end = start + feature.mm_position.length
        if start <= context_tokens < end:
            return end - context_tokens
    return 0
