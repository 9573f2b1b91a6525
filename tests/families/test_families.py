"""What every family keeps, on a tiny random model of each: counts told ahead, caches that agree, stages, restoration."""

import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from thread_clock import ThreadClock
from tiny_models import TINY

from paceline.errors import ModelError, PictureError
from paceline.measure import one_pass
from paceline.measure.cache_check import cached_against_uncached
from paceline.measure.clock import HostClock
from paceline.models.families.declared import FAMILIES
from paceline.models.importance import block_influence, rank_blocks
from paceline.models.knobs import applied
from paceline.models.probe import encoder_features
from paceline.records import KnobConfig

SIDES = [(1, 1), (2, 900), (16, 16), (17, 16), (33, 900), (900, 17), (4000, 300), (300, 4000), (160, 120), (640, 480)]
SHAPES = [*SIDES, *((48 + 97 * step, 32 + 61 * (step * 7 % 20)) for step in range(20))]
SKIPS = [{1}, {2}, {0}, {0, 1}, {1, 2, 3}, {0, 1, 2}, {3, 4}, {1, 4}]
RANKING = (1, 2, 4, 5)
# the model's own design: a prefix sees itself whole, so it cannot be fed in pieces
WHOLE_PROMPTS = {"paligemma"}


def test_every_family_has_a_tiny_model():
    assert {name.split(" ")[0] for name in TINY} == set(FAMILIES) and len(FAMILIES) >= 40


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
    placeholders = int((used.inputs["input_ids"] == family.model.parts.image_token_id).sum())
    assert placeholders == used.image_tokens == encoder_features(family.model, used), (size, tier)
    return told, used.vision_tokens


def test_image_tokens_told_ahead_are_those_used_those_of_the_encoder_and_within_the_cap(family):
    tiers = family.model.tiers
    found = {size: [counted(family, size, tier) for tier in tiers] for size in SHAPES}
    assert all(told == used for each in found.values() for told, used in each), found
    carried = [[used for _told, used in each] for each in found.values() if all(used is not None for _, used in each)]
    assert len(carried) >= 25, found
    assert all(used == sorted(used) for used in carried), found
    if family.model.parts.family.has_tiers:
        caps = [family.model.tier_token_caps[tier] for tier in tiers]
        assert all(tokens <= cap for used in carried for tokens, cap in zip(used, caps, strict=True)), found
        assert any(used[0] < used[-1] for used in carried), found


def test_a_family_without_tiers_refuses_one_and_says_why(family):
    if family.model.parts.family.has_tiers:
        return
    with pytest.raises(ModelError, match="every picture has the same number of image tokens"):
        family.model.prepare(family.picture, family.prompt, "low")


@pytest.mark.parametrize("skipped", SKIPS, ids=lambda skipped: "skips_" + "_".join(map(str, sorted(skipped))))
def test_cached_equals_uncached_while_blocks_are_skipped(family, skipped):
    parts = family.model.parts
    if skipped & parts.protected_blocks:
        with pytest.raises(ModelError, match="fill a key-value cache that later blocks"):
            cached_against_uncached(parts, family.request, skipped=frozenset(skipped))
        return
    found = cached_against_uncached(parts, family.request, skipped=frozenset(skipped))
    supported = {mode: difference for mode, difference in found.items() if family.own[mode] < 1e-3}
    needed = {"plain"} if family.name in WHOLE_PROMPTS else {"plain", "manual", "chunked"}
    assert needed <= set(supported), (found, family.own)
    assert all(each < 1e-3 for each in supported.values()), (found, family.own)


@torch.no_grad()
def test_knobs_change_the_logits_and_the_model_comes_back_bit_for_bit(family, monkeypatch):
    parts, inputs = family.model.parts, family.request.inputs
    before = parts.model(**inputs).logits
    with applied(parts, KnobConfig(tier=None, top_k=None, num_active_blocks=3), ranking_of(parts)):
        assert (parts.model(**inputs).logits - before).abs().max() > 0
    assert torch.equal(parts.model(**inputs).logits, before)
    if parts.routers:
        chosen, topk = [], torch.topk

        def recorded(scores, k, *arguments, **options):
            chosen.append(k)
            return topk(scores, k, *arguments, **options)

        monkeypatch.setattr(torch, "topk", recorded)
        with applied(parts, KnobConfig(tier=None, top_k=1, num_active_blocks=None), RANKING):
            assert (parts.model(**inputs).logits - before).abs().max() > 0
        assert 1 in chosen and parts.native_top_k not in chosen, chosen
        assert torch.equal(parts.model(**inputs).logits, before) and parts.native_top_k in chosen


def ranking_of(parts):
    return tuple(index for index in (1, 2, 4, 5, 3) if index not in parts.protected_blocks)


def test_a_ranking_by_influence_has_every_block_that_may_be_skipped(family):
    parts = family.model.parts
    ranking = rank_blocks(block_influence(parts, [family.request.inputs]), protected=parts.protected_blocks)
    assert set(ranking) == set(range(1, 6)) - parts.protected_blocks


def test_every_stage_takes_time_and_the_stages_close_on_the_total(family, monkeypatch):
    monkeypatch.setattr(one_pass, "time", SimpleNamespace(perf_counter=time.thread_time))
    config = KnobConfig(tier=family.model.tiers[-1], top_k=None, num_active_blocks=6)
    answer = one_pass.answer_measured(
        family.model, family.picture, family.prompt, config, ranking=RANKING, max_new_tokens=4, clock=ThreadClock()
    )
    times = answer.times
    assert times.closure <= 0.01
    assert times.vision_ms > 0 and times.llm_prefill_ms > 0 and times.vision_to_decoder_ms > 0
    assert times.output_tokens == 1 or times.decode_ms > 0


def test_a_model_that_writes_image_tokens_by_itself_is_measured_like_any_other(family):
    """Bad luck of random weights: the image token has the highest logit at every step."""
    model = family.model.parts.model

    def always(_module, _arguments, logits):
        logits[..., family.model.parts.image_token_id] = 100.0
        return logits

    handle = model.get_output_embeddings().register_forward_hook(always)
    try:
        config = KnobConfig(tier=family.model.tiers[0], top_k=None, num_active_blocks=5)
        ranking = ranking_of(family.model.parts)
        answer = one_pass.answer_measured(
            family.model, family.picture, family.prompt, config, ranking=ranking, max_new_tokens=3, clock=HostClock()
        )
        found = cached_against_uncached(family.model.parts, family.request, skipped=frozenset(ranking[:1]))
    finally:
        handle.remove()
    assert answer.times.output_tokens == 3 and found["plain"] < 1e-3
