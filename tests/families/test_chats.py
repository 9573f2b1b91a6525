"""Chats on every family: a system message and a history, with a picture or without one."""

import time
from types import SimpleNamespace

import pytest
from test_families import ThreadClock

from paceline.errors import InvalidValueError, ModelError
from paceline.measure import one_pass
from paceline.measure.cache_check import cached_against_uncached
from paceline.measure.greedy import greedy
from paceline.models.probe import encoder_features

HISTORY = [
    {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
    {"role": "user", "content": [{"type": "text", "text": "What can you read?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Digits."}]},
]


def asked(*pictures):
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return [*HISTORY, {"role": "user", "content": [*parts, {"type": "text", "text": "Read them."}]}]


def test_a_chat_is_measured_with_a_picture_and_without_one(family, monkeypatch):
    monkeypatch.setattr(one_pass, "time", SimpleNamespace(perf_counter=time.thread_time))
    model, tier = family.model, family.model.tiers[0]
    if model.parts.family.prompt is not None:
        with pytest.raises(ModelError, match="no chat template"):
            model.prepare_chat(asked(), tier)
        return
    seen, blind = model.prepare_chat(asked(family.picture), tier), model.prepare_chat(asked(), None)
    one = model.prepare(family.picture, family.prompt, tier)
    assert seen.image_tokens == one.image_tokens == encoder_features(model, seen) and seen.text_tokens > one.text_tokens
    assert blind.vision_tokens == blind.image_tokens == 0 and blind.target_vision_tokens is None
    assert blind.text_tokens == blind.inputs["input_ids"].shape[1] and "pixel_values" not in blind.inputs
    generation = greedy(model.parts.model, 3)
    for request in (seen, blind):
        _ids, times = one_pass.measure_generate(model.parts, request.inputs, generation=generation, clock=ThreadClock())
        assert times.closure <= 0.01 and (times.vision_ms > 0) == (request is seen) and times.llm_prefill_ms > 0
    ranking = [index for index in (5, 4, 1) if index not in model.parts.protected_blocks]
    assert cached_against_uncached(model.parts, blind, skipped=frozenset(ranking[:1]))["plain"] < 1e-3


def test_two_pictures_and_special_tokens_in_a_chat_are_refused(digits, questions):
    picture = questions[0].picture
    with pytest.raises(InvalidValueError, match="one picture or none"):
        digits.prepare_chat(asked(picture, picture), "low")
    with pytest.raises(InvalidValueError, match="special token"):
        digits.prepare_chat([{"role": "user", "content": "Read <|image_pad|> them."}], None)
