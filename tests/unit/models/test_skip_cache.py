import numpy as np
import pytest
import torch
from transformers import DynamicCache, Qwen3Config, StaticCache

from paceline.errors import ModelError
from paceline.measure.cache_check import cached_against_uncached
from paceline.models.knobs import blocks_passed_through, skipped_blocks
from paceline.models.skip_cache import SkipAwareCache

LIMIT = 1e-3
RANKING = (7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1)


def skip_sets_with_early_blocks():
    random = np.random.default_rng(3407)
    sets = []
    for _ in range(10):
        early = random.choice([0, 1, 2], size=int(random.integers(1, 4)), replace=False)
        later = random.choice(np.arange(3, 16), size=int(random.integers(0, 8)), replace=False)
        sets.append(frozenset(int(index) for index in (*early, *later)))
    return sets


@pytest.mark.parametrize("blocks", [8, 10, 12, 14, 16])
def test_cached_and_uncached_logits_agree_over_the_grids_block_counts(digits, request_high, blocks):
    skipped = skipped_blocks(16, blocks, digits.block_ranking or RANKING)
    found = cached_against_uncached(digits.parts, request_high, skipped=skipped)
    assert set(found) == {"plain", "left_padded", "chunked", "manual"}
    assert max(found.values()) < LIMIT, found


@pytest.mark.parametrize(
    "skipped", skip_sets_with_early_blocks(), ids=lambda skipped: "-".join(map(str, sorted(skipped)))
)
def test_cached_and_uncached_logits_agree_when_early_blocks_are_skipped(digits, request_high, skipped):
    """Block 0 among them: the knob never skips it, the cache must be right even so."""
    found = cached_against_uncached(digits.parts, request_high, skipped=skipped)
    assert max(found.values()) < LIMIT, found


def test_without_the_aware_cache_skipping_an_early_block_is_silently_wrong(digits, request_high, monkeypatch):
    """The check itself can fail: take the awareness away and it does."""
    monkeypatch.setattr(SkipAwareCache, "get_seq_length", DynamicCache.get_seq_length)
    monkeypatch.setattr(SkipAwareCache, "get_mask_sizes", DynamicCache.get_mask_sizes)
    monkeypatch.setattr(SkipAwareCache, "get_query_offset", DynamicCache.get_query_offset)
    found = cached_against_uncached(digits.parts, request_high, skipped=frozenset({0, 5}))
    assert max(found.values()) > LIMIT


def hybrid_config():
    return Qwen3Config(
        num_hidden_layers=6,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 3,
        use_sliding_window=True,
    )


def test_a_skipped_layer_answers_as_the_first_live_layer_of_its_own_class():
    cache = SkipAwareCache(config=hybrid_config(), skipped=frozenset({0, 1}))
    state = torch.zeros(1, 1, 20, 16)
    for live in (2, 3, 4, 5):
        cache.update(state, state, live)
    assert cache.get_seq_length(0) == cache.get_seq_length(1) == 20
    assert cache.get_mask_sizes(1, 0) == cache.layers[2].get_mask_sizes(1)  # sliding: a window long
    assert cache.get_mask_sizes(1, 1) == cache.layers[3].get_mask_sizes(1) == (21, 0)  # full: all of it
    assert cache.get_mask_sizes(1, 0) != cache.get_mask_sizes(1, 1)
    assert cache.is_initialized and cache.cached_tokens(0) == 0


def test_cropping_leaves_skipped_layers_alone():
    cache = SkipAwareCache(config=Qwen3Config(num_hidden_layers=3), skipped=frozenset({1}))
    state = torch.zeros(1, 1, 10, 8)
    for live in (0, 2):
        cache.update(state, state, live)
    cache.crop(-4)
    assert cache.get_seq_length(0) == cache.get_seq_length(1) == cache.get_seq_length(2) == 6


def test_a_view_shares_tokens_with_the_cache_it_was_made_over(digits):
    config = digits.parts.text_config
    for plain in (DynamicCache(config=config), DynamicCache()):
        view = SkipAwareCache.over(plain, config=config, skipped=frozenset({3}))
        view.update(torch.zeros(1, 2, 5, 32), torch.zeros(1, 2, 5, 32), 0)
        assert plain.get_seq_length() == view.get_seq_length() == 5
        assert SkipAwareCache.over(view, config=config, skipped=frozenset({3})) is view


def test_a_cache_of_another_configuration_is_refused(digits):
    config = digits.parts.text_config
    used = DynamicCache(config=config)
    used.update(torch.zeros(1, 2, 5, 32), torch.zeros(1, 2, 5, 32), 3)
    with pytest.raises(ModelError, match="belongs to one configuration"):
        SkipAwareCache.over(used, config=config, skipped=frozenset({3}))
    with pytest.raises(ModelError, match="belongs to one configuration"):
        SkipAwareCache.over(
            SkipAwareCache(config=config, skipped=frozenset({2})), config=config, skipped=frozenset({3})
        )


def test_a_static_cache_is_refused_while_blocks_are_skipped(digits, request_high):
    cache = StaticCache(config=digits.parts.text_config, max_cache_len=256)
    with (
        blocks_passed_through(digits.parts, frozenset({4})),
        pytest.raises(ModelError, match="StaticCache does not stay right"),
        torch.no_grad(),
    ):
        digits.parts.model(**request_high.inputs, past_key_values=cache)


def test_plain_generate_gets_an_aware_cache_by_itself(digits, request_high):
    with blocks_passed_through(digits.parts, frozenset({4})):
        made = digits.parts.model.generate(**request_high.inputs, max_new_tokens=2, return_dict_in_generate=True)
    assert isinstance(made.past_key_values, SkipAwareCache)
    assert made.past_key_values.cached_tokens(4) == 0 < made.past_key_values.cached_tokens(5)
