"""A key-value cache that stays right when decoder blocks are passed through.

transformers asks one layer of the cache for its length, mask sizes and query offset, and takes the first layer of the
wanted kind for that. A block that is passed through never writes its layer, so that layer answers 0 for ever: masks and
positions of every later step are then wrong, without an error. Here such questions go to the first *live* layer of the
same cache layer class. A linear-attention layer has no length at all, and a cache may have fewer layers than the model has
blocks (shared key-values): both are answered for by the first live attention layer.
"""

from typing import Any

from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin
from transformers.modeling_outputs import BaseModelOutputWithPast

from paceline.errors import ModelError

CACHE_NAMES = ("cache", "past_key_values")  # since transformers 5.20, and before
# the name under which a model takes its key-value cache and returns it
CACHE_NAME = CACHE_NAMES[0] if hasattr(BaseModelOutputWithPast, "cache") else CACHE_NAMES[1]


class SkipAwareCache(DynamicCache):
    """A DynamicCache that answers for passed-through layers with the first live layer of the same class."""

    def __init__(self, *, config: PreTrainedConfig, skipped: frozenset[int]) -> None:
        super().__init__(config=config)
        self.skipped = skipped
        self._live_twin = self._pair_with_live_layers()

    @classmethod
    def over(cls, cache: Cache, *, config: PreTrainedConfig, skipped: frozenset[int]) -> "SkipAwareCache":
        """Return a skip-aware view over `cache` that shares its layers, so that both see every token.

        Raises ModelError when the cache is of another kind or already holds tokens of a block that is now skipped.
        """
        if isinstance(cache, SkipAwareCache):
            if cache.skipped != skipped:
                raise ModelError(
                    f"this key-value cache was filled with blocks {sorted(cache.skipped)} skipped, and now "
                    f"{sorted(skipped)} are; a cache belongs to one configuration: start from an empty one"
                )
            return cache
        if type(cache) is not DynamicCache:
            raise ModelError(
                f"a {type(cache).__name__} does not stay right when decoder blocks are skipped; expected a DynamicCache: "
                "call generate() without cache_implementation, or keep all blocks active"
            )
        view = cls(config=config, skipped=skipped)
        if cache.layers:
            view.layers = cache.layers
        else:  # a cache made without a config grows its layers at the first update
            cache.layers = view.layers
        if any(view.cached_tokens(index) for index in skipped):
            raise ModelError(
                "this key-value cache holds tokens of blocks that are skipped now; a cache belongs to one "
                "configuration: start from an empty one"
            )
        return view

    def cached_tokens(self, layer_idx: int) -> int:
        """Return the tokens that this very layer holds; 0 for one that is passed through or counts none."""
        attends = layer_idx < len(self.layers) and isinstance(self.layers[layer_idx], CacheLayerMixin)
        return super().get_seq_length(layer_idx) if attends else 0

    def _pair_with_live_layers(self) -> dict[int, int]:
        first_live: dict[type, int] = {}
        for index, layer in enumerate(self.layers):
            if index not in self.skipped and isinstance(layer, CacheLayerMixin):
                first_live.setdefault(type(layer), index)
        if not first_live:
            raise ModelError(
                f"with blocks {sorted(self.skipped)} skipped no attention layer stays active, and nothing in the key-value "
                "cache knows how long it is; expected at least one: keep more blocks active"
            )
        any_live = min(first_live.values())
        return {
            index: first_live.get(type(layer), any_live)
            for index, layer in enumerate(self.layers)
            if index in self.skipped or not isinstance(layer, CacheLayerMixin)
        }

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Return whether a linear-attention layer has seen tokens: the last live one when none is named."""
        if layer_idx is not None:
            return super().has_previous_state(layer_idx, state_idx)
        linear = [
            index
            for index, layer in enumerate(self.layers)
            if index not in self.skipped and isinstance(layer, LinearAttentionCacheLayerMixin)
        ]
        # with every such layer skipped, the attention layers know whether a token was seen
        return super().has_previous_state(linear[-1], state_idx) if linear else self.get_seq_length() > 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the tokens cached so far."""
        return super().get_seq_length(self._live_twin.get(layer_idx, layer_idx))

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the key length and offset that the attention mask of this layer needs."""
        return super().get_mask_sizes(query_length, self._live_twin.get(layer_idx, layer_idx))

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the position of the first new token."""
        return super().get_query_offset(self._live_twin.get(layer_idx, layer_idx))

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end of every live layer; a passed-through layer has none."""
        for layer in self._live_layers():
            layer.crop(tokens_to_remove)

    @property
    def is_initialized(self) -> bool:
        """Whether every live layer holds tokens."""
        return all(layer.is_initialized for layer in self._live_layers())

    def _live_layers(self) -> list[Any]:
        return [layer for index, layer in enumerate(self.layers) if index not in self.skipped]
