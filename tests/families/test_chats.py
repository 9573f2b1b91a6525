"""Chats on every family: a system message and a history, with a picture or without one."""

import time
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from test_families import ThreadClock

from paceline.errors import InvalidValueError, ModelError, PictureError
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


def test_several_pictures_are_counted_ahead_encoded_as_each_alone_and_cached_right(family):
    model, tier = family.model, family.model.tiers[-1]
    if model.parts.family.prompt is not None:
        with pytest.raises(ModelError, match="one question about one picture"):
            model.prepare_chat(asked(*PICTURES), tier)
        return
    chat = asked(*PICTURES)
    chat.insert(
        1, {"role": "user", "content": [{"type": "image", "image": PICTURES[0]}, {"type": "text", "text": "?"}]}
    )
    request, told = model.prepare_chat(chat, tier), model.chat_features(chat, look=False)
    placeholders = int((request.inputs["input_ids"] == model.parts.image_token_id).sum())
    assert placeholders == request.image_tokens == encoder_features(model, request)
    assert told.vision_tokens[tier] == request.vision_tokens and told.text_tokens == request.text_tokens
    assert told.pictures == 3 and request.target_vision_tokens == model.tier_token_caps.get(tier)
    singles = [model.prepare_chat(asked(picture), tier) for picture in (PICTURES[0], *PICTURES)]
    if model.parts.family.several.tiers is None:
        assert request.image_tokens == sum(each.image_tokens for each in singles)
        together, alone = features_of(model, request), torch.cat([features_of(model, each) for each in singles])
        assert (together - alone).abs().max() < 1e-5
    if model.parts.family.has_tiers:
        assert request.image_tokens <= 3 * model.tier_token_caps[tier]
    skipped = frozenset([index for index in (4, 1) if index not in model.parts.protected_blocks][:1])
    assert cached_against_uncached(model.parts, request, skipped=skipped)["plain"] < 1e-3


PICTURES = tuple(Image.effect_noise(size, 80).convert("RGB") for size in ((60, 150), (300, 90)))


@torch.no_grad()
def features_of(model, request):
    """Return the encoder's features of all pictures of a request (image tokens, hidden)."""
    encode = model.parts.image_encoder_owner.get_image_features
    found = encode(**{name: request.inputs[name] for name in signature(encode).parameters if name in request.inputs})
    pooled = getattr(found, "pooler_output", found)
    return torch.cat(list(flattened(found.deepstack_features[0][1] if pooled is None else pooled)))


def flattened(found):
    if isinstance(found, torch.Tensor):
        yield found.reshape(-1, found.shape[-1])
    else:
        for each in found:
            yield from flattened(each)


def test_special_tokens_in_a_chat_and_what_is_no_chat_are_refused(digits, questions):
    picture = questions[0].picture
    refused = [
        ("special token", [{"role": "user", "content": "Read <|image_pad|> them."}]),
        ("a list of messages", []),
        ("a list of messages", "Read them."),
        ("message 1 is .* a role", [{"content": "Read them."}]),
        ("content of message 2", [*asked()[:1], {"role": "user", "content": None}]),
        ("part of message 1", [{"role": "user", "content": [{"type": "video", "video": "film.mp4"}]}]),
        ("part of message 1", [{"role": "user", "content": [{"type": "image"}]}]),
        ("part of message 1", [{"role": "user", "content": [{"type": "image", "image": picture, "path": "a.png"}]}]),
        ("part of message 1", [{"role": "user", "content": ["Read them."]}]),
    ]
    for match, messages in refused:
        with pytest.raises(InvalidValueError, match=match):
            digits.prepare_chat(messages, "low")
    with pytest.raises(PictureError, match="no picture at"):
        digits.prepare_chat([{"role": "user", "content": [{"type": "image", "path": "missing.png"}]}], "low")


def test_template_arguments_must_be_read_by_the_template(digits):
    for name in ("enable_thinkin", "tokenize", "add_generation_prompt", "not a name"):
        with pytest.raises(InvalidValueError, match="template argument"):
            digits.prepare_chat(asked(), None, template_arguments={name: True})
