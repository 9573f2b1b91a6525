"""Requests in one batch, on every family: n copies of one request go through encoder and first forward together."""

import torch

from paceline.measure.load import effects_under_load
from paceline.models.families.joining import Several, joined
from paceline.records import KnobConfig


@torch.no_grad()
def test_a_batch_of_copies_gives_every_row_the_logits_of_one(family):
    parts, inputs = family.model.parts, family.request.inputs
    batch = joined([inputs] * 3, Several(along=parts.family.several.along))
    one_1V, all_3V = (parts.model(**each).logits[:, -1] for each in (inputs, batch))
    assert all_3V.shape[0] == 3 and (all_3V - one_1V).abs().max() < 1e-4


def test_knobs_are_timed_with_several_requests_in_one_batch(family):
    ranking = [index for index in (5, 4, 1) if index not in family.model.parts.protected_blocks]
    full, low = (KnobConfig(tier=family.model.tiers[0], top_k=None, num_active_blocks=blocks) for blocks in (6, 5))
    inputs = dict.fromkeys((full, low), family.request.inputs)
    (effect,) = effects_under_load(family.model, inputs, full=full, low=low, ranking=ranking, pairs=1, in_flight=(2,))
    assert effect.reason is None and effect.in_flight == 2 and effect.full_ms > 0 and effect.low_ms > 0
    assert effect.saved == 1 - effect.low_ms / effect.full_ms
