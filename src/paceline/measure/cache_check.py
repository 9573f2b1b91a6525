"""Does a key-value cache give the same logits as none, in every way of decoding, while blocks are passed through?

Shapes: B batch, L sequence, H hidden, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from paceline.measure.greedy import greedy, own_settings_aside
from paceline.models.critical_section import held
from paceline.models.knobs import blocks_passed_through
from paceline.models.loading import PreparedRequest
from paceline.models.skip_cache import CACHE_NAME
from paceline.models.structure import ModelParts

PROMPT_TOKENS, NEW_TOKENS, CHUNK_TOKENS, PADDING = 24, 5, 7, 6


@torch.no_grad()
def cached_against_uncached(
    parts: ModelParts, request: PreparedRequest, *, skipped: frozenset[int], seed: int = 0
) -> dict[str, float]:
    """Return max |logit, cached - logit, uncached| for plain, left-padded, chunked and manual decoding.

    `plain` runs `generate()` on `request`; the others drive the decoder with random tokens. Nothing skipped is a valid
    case too: it shows the model's own rounding.
    """
    if not skipped:
        with held(parts.model, "plain passes"):
            return _all_modes(parts, request, seed)
    with blocks_passed_through(parts, skipped):
        return _all_modes(parts, request, seed)


def _all_modes(parts: ModelParts, request: PreparedRequest, seed: int) -> dict[str, float]:
    random = torch.Generator().manual_seed(seed)
    embed: Any = parts.model.get_input_embeddings()
    ids_BL = torch.randint(parts.vocabulary, (2, PROMPT_TOKENS + NEW_TOKENS), generator=random).to(parts.device)
    embeds_BLH = embed(ids_BL)
    decoded = {name: mode(parts, embeds_BLH) for name, mode in MODES.items()}
    return {"plain": _plain(parts, request), **decoded}


def _plain(parts: ModelParts, request: PreparedRequest) -> float:
    model: Any = parts.model
    generation = greedy(model, NEW_TOKENS)
    generation.return_dict_in_generate = generation.output_logits = True
    # a model may write an image token or a border by itself; the pass without a cache would then miss a picture for it
    generation.suppress_tokens = list(parts.media_token_ids)
    with own_settings_aside(model):
        made = model.generate(**request.inputs, generation_config=generation)
    cached_LV = torch.cat(made.logits)
    prompt = request.inputs["input_ids"].shape[1]
    whole = {**request.inputs, "input_ids": made.sequences, "attention_mask": torch.ones_like(made.sequences)}
    whole |= parts.token_type_ids(made.sequences, prompt_tokens=prompt)
    uncached_LV = model(**whole, use_cache=False).logits[0, prompt - 1 : -1]
    return _difference(cached_LV, uncached_LV)


def _manual(parts: ModelParts, embeds_BLH: torch.Tensor) -> float:
    """Feed the prompt, then token by token, with a DynamicCache that the caller made."""
    cache = DynamicCache(config=parts.text_config)
    pieces = [PROMPT_TOKENS, *[1] * NEW_TOKENS]
    return _in_pieces(parts, embeds_BLH, pieces, mask_BL=None, cache=cache)


def _chunked(parts: ModelParts, embeds_BLH: torch.Tensor) -> float:
    """Feed the prompt in chunks, as chunked prefill does, with the cache that the model makes."""
    whole, rest = divmod(embeds_BLH.shape[1], CHUNK_TOKENS)
    return _in_pieces(parts, embeds_BLH, [CHUNK_TOKENS] * whole + [rest] * bool(rest), mask_BL=None, cache=None)


def _left_padded(parts: ModelParts, embeds_BLH: torch.Tensor) -> float:
    """Decode a batch whose second row is shorter and padded on the left."""
    mask_BL = torch.ones(embeds_BLH.shape[:2], dtype=torch.long, device=embeds_BLH.device)
    mask_BL[1, :PADDING] = 0
    return _in_pieces(parts, embeds_BLH, [PROMPT_TOKENS, *[1] * NEW_TOKENS], mask_BL=mask_BL, cache=None)


MODES: dict[str, Callable[[ModelParts, torch.Tensor], float]] = {
    "manual": _manual,
    "chunked": _chunked,
    "left_padded": _left_padded,
}


def _in_pieces(
    parts: ModelParts,
    embeds_BLH: torch.Tensor,
    pieces: list[int],
    *,
    mask_BL: torch.Tensor | None,
    cache: DynamicCache | None,
) -> float:
    decoder: Any = parts.decoder
    uncached_BLV = _logits(parts, decoder(inputs_embeds=embeds_BLH, attention_mask=mask_BL, use_cache=False))
    outputs: list[torch.Tensor] = []
    past: Any = (
        cache if cache is not None or _makes_a_cache(decoder, embeds_BLH) else DynamicCache(config=parts.text_config)
    )
    at = 0
    for piece in pieces:
        mask = None if mask_BL is None else mask_BL[:, : at + piece]
        out = decoder(
            inputs_embeds=embeds_BLH[:, at : at + piece], attention_mask=mask, use_cache=True, **{CACHE_NAME: past}
        )
        outputs.append(_logits(parts, out))
        past, at = getattr(out, CACHE_NAME), at + piece
    seen_BL = torch.ones_like(uncached_BLV[..., 0], dtype=torch.bool) if mask_BL is None else mask_BL.bool()
    return _difference(torch.cat(outputs, dim=1)[seen_BL], uncached_BLV[seen_BL])


def _logits(parts: ModelParts, out: Any) -> torch.Tensor:
    to_logits: Any = parts.model.get_output_embeddings()
    return out.logits if parts.decoder is parts.model else to_logits(out.last_hidden_state)


def _makes_a_cache(decoder: Any, embeds_BLH: torch.Tensor) -> bool:
    """Tell whether a decoder that is given none makes a cache: some leave it to generate()."""
    return getattr(decoder(inputs_embeds=embeds_BLH[:, :1], use_cache=True), CACHE_NAME) is not None


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max())
