"""What every family keeps, on a tiny random model of each: counts told ahead, caches that agree, stages, restoration."""

from contextlib import suppress

import pytest
import torch
from PIL import Image

from paceline.errors import PictureError
from paceline.measure.cache_check import cached_against_uncached
from paceline.measure.clock import HostClock
from paceline.measure.one_pass import answer_measured
from paceline.models.knobs import applied
from paceline.records import TIERS, KnobConfig

SIDES = [(1, 1), (2, 900), (16, 16), (17, 16), (33, 900), (900, 17), (4000, 300), (300, 4000), (160, 120), (640, 480)]
SHAPES = [*SIDES, *((48 + 97 * step, 32 + 61 * (step * 7 % 20)) for step in range(20))]
SKIPS = [{1}, {2}, {0}, {0, 1}, {1, 2, 3}, {0, 1, 2}, {3, 4}, {1, 4}]
RANKING = (1, 3, 2, 4, 5)


def counted(family, size, tier):
    """Return image tokens of a picture (told ahead, used), or None twice where it is refused."""
    told = used = None
    picture = Image.new("RGB", size)
    with suppress(PictureError):
        told = family.model.token_features(picture, family.prompt).vision_tokens[tier]
    try:
        used = family.model.prepare(picture, family.prompt, tier)
    except PictureError:
        return told, None
    ids = used.inputs["input_ids"]
    assert int((ids == family.model.parts.model.config.image_token_id).sum()) == used.vision_tokens
    return told, used.vision_tokens


@pytest.mark.parametrize("tier", TIERS)
def test_image_tokens_told_ahead_are_those_used_and_within_the_cap(family, tier):
    found = {size: counted(family, size, tier) for size in SHAPES}
    assert all(told == used for told, used in found.values()), found
    carried = [used for _told, used in found.values() if used is not None]
    assert len(carried) >= 25 and max(carried) <= family.model.tier_token_caps[tier]


def test_a_higher_tier_gives_more_image_tokens(family):
    tokens = [family.model.prepare(family.picture, family.prompt, tier).vision_tokens for tier in TIERS]
    assert tokens[0] < tokens[1] < tokens[2]


def test_placeholders_are_as_many_as_the_features_of_the_encoder(family):
    """transformers raises ValueError in forward where they differ; what matters here is that none is needed less."""
    request = family.model.prepare(family.picture, family.prompt, "high")
    with torch.no_grad():
        logits = family.model.parts.model(**request.inputs).logits
    assert logits.isfinite().all() and logits.shape[1] == request.inputs["input_ids"].shape[1]


@pytest.mark.parametrize("skipped", SKIPS, ids=str)
def test_cached_equals_uncached_while_blocks_are_skipped(family, skipped):
    request = family.model.prepare(family.picture, family.prompt, "low")
    found = cached_against_uncached(family.model.parts, request, skipped=frozenset(skipped))
    assert set(found) == {"plain", "manual", "chunked", "left_padded"}
    own = cached_against_uncached(family.model.parts, request, skipped=frozenset())
    supported = {mode: difference for mode, difference in found.items() if own[mode] < 1e-3}
    assert {"plain", "manual"} <= set(supported) and all(each < 1e-3 for each in supported.values()), (found, own)


@torch.no_grad()
def test_knobs_change_the_logits_and_the_model_comes_back_bit_for_bit(family):
    parts = family.model.parts
    inputs = family.model.prepare(family.picture, family.prompt, "low").inputs
    before = parts.model(**inputs).logits
    turned = [KnobConfig(tier="low", top_k=None, num_active_blocks=3)]
    if parts.routers:
        turned.append(KnobConfig(tier="low", top_k=1, num_active_blocks=None))
    for config in turned:
        with applied(parts, config, RANKING):
            assert (parts.model(**inputs).logits - before).abs().max() > 0
        assert torch.equal(parts.model(**inputs).logits, before)


def test_every_stage_takes_time_and_the_stages_close_on_the_total(family):
    config = KnobConfig(tier="high", top_k=None, num_active_blocks=6)
    answers = [
        answer_measured(
            family.model, family.picture, family.prompt, config,
            ranking=RANKING, max_new_tokens=4, clock=HostClock(),
        )
        for _ in range(3)
    ]  # fmt: skip
    # one pass may meet a stall of the machine between two clock readings, not all three
    assert min(each.times.closure for each in answers) <= 0.01
    for each in answers:
        assert each.times.vision_ms > 0 and each.times.llm_prefill_ms > 0
        assert each.times.output_tokens == 1 or each.times.decode_ms > 0
