"""What Molmo's own code lacks under transformers 5, put around its model class without an edit.

Its cache is a list of (key, value) tuples, one a block, the past length that of the first; `generate()` and all of Paceline
hold a DynamicCache. Here the tensors of one are handed on as the other, neither copied, and a block that is passed through gets
an empty entry of the right length.
"""

from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from paceline.models.skip_cache import CACHE_NAME

Entry = tuple[torch.Tensor, torch.Tensor]
OWN: Any = GenerationMixin  # its methods are typed for a model


class MolmoShims(GenerationMixin):
    """Stands before Molmo's model class and gives it the interface of transformers 5."""

    all_tied_weights_keys: dict[str, str] = {}  # noqa: RUF012 transformers sets it in post_init, which Molmo never calls
    # Molmo's own expect the generate() of transformers 4
    generate = OWN.generate
    prepare_inputs_for_generation = OWN.prepare_inputs_for_generation
    _update_model_kwargs_for_generation = OWN._update_model_kwargs_for_generation

    def tie_weights(self, *_arguments: object, **_options: object) -> None:
        """Tie nothing: Molmo uses the embedding as its head where it is one."""

    def get_decoder(self) -> nn.Module:
        """Return the module that runs the blocks."""
        inner: Any = self
        return inner.model

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        image_masks: torch.Tensor | None = None,
        image_input_idx: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Return the logits (batch, sequence, vocabulary) of ids or embeddings, with the key-value cache that they went into."""
        own: Any = self
        cache: Any = others.pop(CACHE_NAME, None)
        if cache is None and (own.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=own.config)
        past = 0 if cache is None else int(cache.get_seq_length())
        new = inputs_embeds if input_ids is None else input_ids
        assert new is not None
        # transformers drops a mask of ones, without which Molmo builds a bias that is too short for a cache
        mask_BL = _mask(attention_mask, new, past)
        if position_ids is None:
            position_ids = (mask_BL.cumsum(-1) - 1).clamp(min=0)
        pictures = {"images": images, "image_masks": image_masks, "image_input_idx": image_input_idx}
        made: Any = super().forward(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=mask_BL,
            position_ids=position_ids[:, -new.shape[1] :],
            past_key_values=_entries(cache, past, new) if past else None,
            use_cache=cache is not None,
            last_logits_only=logits_to_keep == 1,
            return_dict=True,
            **({} if past else pictures),
        )
        if cache is not None:
            _store(cache, getattr(made, CACHE_NAME))
        return CausalLMOutputWithPast(logits=made.logits, **{CACHE_NAME: cache})


def passed_through(x: torch.Tensor, *_arguments: object, **_options: object) -> tuple[torch.Tensor, Entry]:
    """Hand on the hidden states (batch, sequence, hidden) of a block that is left out, with an empty cache entry."""
    return x, (_empty(x, x.shape[1]), _empty(x, x.shape[1]))


def with_shims(model_class: type) -> type:
    """Return Molmo's model class behind the shims."""
    return type(model_class.__name__, (MolmoShims, model_class), {})


def _mask(given: torch.Tensor | None, new: torch.Tensor, past: int) -> torch.Tensor:
    return new.new_ones((new.shape[0], past + new.shape[1]), dtype=torch.long) if given is None else given


def _entries(cache: Any, past: int, new: torch.Tensor) -> list[Entry]:
    filled = [layer for layer in cache.layers if layer.is_initialized and layer.keys.numel()]
    like = filled[0].keys
    empty = like.new_empty((new.shape[0], 1, past, 0))
    kept = {id(layer) for layer in filled}
    return [(layer.keys, layer.values) if id(layer) in kept else (empty, empty) for layer in cache.layers]


def _store(cache: Any, entries: list[Entry]) -> None:
    while len(cache.layers) < len(entries):  # made without a config
        cache.layers.append(DynamicLayer())
    for layer, (keys, values) in zip(cache.layers, entries, strict=True):
        if keys.shape[-1] == 0:
            continue
        if not layer.is_initialized:
            layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values


def _empty(like: torch.Tensor, length: int) -> torch.Tensor:
    return like.new_empty((like.shape[0], 1, length, 0))
