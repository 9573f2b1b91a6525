"""`AdaptiveModel.generate(messages=…)`: chats with any number of pictures, under a budget that is the request's."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_models import TokenLinear
from learned_controllers import chooser_of_scores, synthetic_bounds
from PIL import Image
from runtime_models import LARGE, RANKING, SMALL, adaptive, learned

from paceline.control.estimated import BoundController
from paceline.errors import BudgetTooSmallError, InvalidValueError, PacelineWarning, PictureError
from paceline.runtime import AdaptiveModel

SIZES = st.tuples(st.integers(16, 320), st.integers(16, 320))


def noise(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chat(*pictures, system="Be short."):
    parts = [{"type": "image", "image": picture} for picture in pictures]
    asked = {"role": "user", "content": [*parts, {"type": "text", "text": "Read the digits."}]}
    return [{"role": "system", "content": system}, asked]


def bound(digits, rates=(0.001, 0.002)):
    model = TokenLinear(dict(zip((SMALL, LARGE), rates, strict=True)))
    bounds = synthetic_bounds(
        (SMALL, LARGE), accuracies=(0.5, 0.9), provenance=({"model": "digits", "block_ranking": RANKING},)
    )
    controller = BoundController(model=model, bounds=bounds)
    return AdaptiveModel(model=digits, controller=controller, max_new_tokens=2)


def test_a_chat_of_one_question_is_answered_as_the_question_is(digits, questions):
    model, question = adaptive(digits), questions[0]
    alone = [
        {
            "role": "user",
            "content": [*chat(question.picture)[1]["content"][:1], {"type": "text", "text": question.prompt}],
        }
    ]
    one = model.generate(question.picture, question.prompt, latency_budget_ms=1e5)
    other = model.generate(messages=alone, latency_budget_ms=1e5)
    counted = ("text", "config", "vision_tokens", "text_tokens", "promised", "predicted_ms", "bound_ms", "outside")
    assert [getattr(one, name) for name in counted] == [getattr(other, name) for name in counted] and other.promised


def test_a_chat_with_one_picture_is_promised_what_a_question_is(digits, questions):
    answer = bound(digits).generate(messages=chat(questions[0].picture), latency_budget_ms=1e5)
    assert answer.promised and answer.bound_ms > answer.predicted_ms and answer.outside == ()


@pytest.mark.parametrize("count", [2, 3])
def test_nothing_is_promised_of_several_pictures_and_the_budget_is_spent_on_all_of_them(digits, questions, count):
    model, pictures = bound(digits), [question.picture for question in questions[:count]]
    told = model.model.chat_features(chat(*pictures), look=False)
    answer = model.generate(messages=chat(*pictures), latency_budget_ms=1e5)
    assert not answer.promised and answer.bound_ms is None and answer.outside == ("pictures",)
    assert answer.config == LARGE and answer.times.vision_ms > 0
    assert answer.vision_tokens == told.vision_tokens["high"] and answer.text_tokens == told.text_tokens
    assert answer.predicted_ms == pytest.approx(0.002 * (answer.vision_tokens + answer.text_tokens))
    assert model.controller.drift.factor == 1.0  # what nothing was promised of teaches nothing


def test_a_budget_that_one_picture_keeps_leads_to_less_for_several(digits, questions):
    model, picture = bound(digits), questions[0].picture
    budget_ms = model.decide(messages=chat(picture), latency_budget_ms=1e5).bound_ms
    assert model.decide(messages=chat(picture), latency_budget_ms=budget_ms).config == LARGE
    assert model.decide(messages=chat(picture, picture), latency_budget_ms=budget_ms).config == SMALL
    with pytest.raises(BudgetTooSmallError):
        model.decide(messages=chat(*[picture] * 40), latency_budget_ms=budget_ms, strict=True)


def test_a_request_without_a_picture_has_no_tier_and_no_vision_stage(digits):
    for model in (adaptive(digits), bound(digits), learned_model(digits)):
        answer = model.generate(messages=chat(), latency_budget_ms=1e5)
        assert answer.config == replace(LARGE, tier=None) and answer.vision_tokens == 0
        assert answer.times.vision_ms == 0 and not answer.promised and answer.bound_ms is None
        assert answer.measured_ms == answer.times.prefill_ms > 0 and answer.outside == ("pictures",)


def learned_model(digits):
    chooser = chooser_of_scores({SMALL: 0.9, LARGE: 0.6})
    return AdaptiveModel(model=digits, controller=learned(chooser), max_new_tokens=2)


def test_a_learned_controller_looks_at_one_picture_and_leaves_other_requests_to_the_bound(digits, questions):
    model, picture = learned_model(digits), questions[0].picture
    one = model.decide(messages=chat(picture), latency_budget_ms=1e5)
    assert (one.config, one.refused, one.within_budget) == (SMALL, False, True)
    several = model.decide(messages=chat(picture, picture), latency_budget_ms=1e5)
    assert (several.config, several.refused, several.within_budget) == (LARGE, True, False)
    with pytest.warns(PacelineWarning):
        assert not model.decide(messages=chat(picture, picture), latency_budget_ms=1e-3).within_budget


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(SIZES, max_size=4), budget_ms=st.floats(2, 200))
def test_tokens_told_ahead_are_those_used(digits, sizes, budget_ms):
    messages = chat(*(noise(size) for size in sizes))
    model = adaptive(digits)
    decision = model.decide(messages=messages, latency_budget_ms=max(budget_ms, 12))
    told = digits.chat_features(messages, look=False)
    used = digits.prepare_chat(messages, decision.config.tier)
    tier = decision.config.tier or "low"
    assert used.vision_tokens == told.vision_tokens[tier] and used.text_tokens == told.text_tokens
    assert (decision.config.tier is None) == (not sizes)
    assert used.vision_tokens <= len(sizes) * digits.tier_token_caps[tier]


def test_pictures_of_a_chat_may_be_paths_and_warm_up_takes_messages(digits, questions, picture_path):
    model = adaptive(digits)
    by_path = [
        {"role": "user", "content": [{"type": "image", "path": str(picture_path)}, {"type": "text", "text": "Read."}]}
    ]
    opened = [
        {
            "role": "user",
            "content": [{"type": "image", "image": questions[0].picture}, {"type": "text", "text": "Read."}],
        }
    ]
    model.warm_up(messages=by_path, latency_budgets_ms=[12.0], runs=1)
    texts = {model.generate(messages=each, latency_budget_ms=1e5).text for each in (by_path, opened)}
    assert len(texts) == 1


def test_a_request_is_a_question_or_a_chat(digits, questions):
    model, picture = adaptive(digits), questions[0].picture
    wrong = [
        {},
        {"image": picture},
        {"prompt": "Read."},
        {"image": picture, "prompt": "Read.", "messages": chat()},
        {"image": picture, "prompt": "Read.", "template_arguments": {"enable_thinking": False}},
        {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}]},
    ]
    for request in wrong:
        with pytest.raises(InvalidValueError):
            model.generate(**request, latency_budget_ms=1e5)


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def in_modes(grey):
    """Return one grey picture as it stands in files of many kinds; every one looks the same."""
    rgb = grey.convert("RGB")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    alpha = rgb.convert("RGBA")
    other = Image.new("RGB", grey.size, (200, 10, 10))
    return {
        "L": grey,
        "palette": saved(grey.convert("P"), "GIF"),
        "LA": grey.convert("LA"),
        "RGBA": saved(alpha, "PNG"),
        "RGBX": rgb.convert("RGBX"),
        "16 bit": saved(sixteen, "PNG"),
        "animated": saved(rgb.convert("P"), "GIF", save_all=True, append_images=[other.convert("P")]),
    }


def test_a_picture_in_any_mode_is_answered_as_the_same_in_rgb(digits, questions, tmp_path):
    grey, model = questions[0].picture.convert("L").quantize(64).convert("L"), adaptive(digits)
    rgb = grey.convert("RGB")
    wanted = model.generate(rgb, "Read the digits.", latency_budget_ms=1e5)
    both = model.generate(messages=chat(rgb, rgb), latency_budget_ms=1e5)
    pictures = in_modes(grey)
    for name, picture in pictures.items():
        answer = model.generate(picture, "Read the digits.", latency_budget_ms=1e5)
        assert (answer.text, answer.vision_tokens) == (wanted.text, wanted.vision_tokens), name
    for name in ("palette", "16 bit"):
        answer = model.generate(messages=chat(pictures[name], rgb), latency_budget_ms=1e5)
        assert (answer.text, answer.vision_tokens) == (both.text, both.vision_tokens), name
    cmyk = tmp_path / "picture.jpg"
    rgb.convert("CMYK").save(cmyk, quality=95)  # inks round: it is near, not the same
    assert model.generate(cmyk, "Read the digits.", latency_budget_ms=1e5).vision_tokens == wanted.vision_tokens
    with pytest.raises(PictureError, match="floating-point"):
        model.generate(rgb.convert("F"), "Read the digits.", latency_budget_ms=1e5)


def test_a_transparent_picture_is_seen_on_white(digits, questions):
    model, picture = adaptive(digits), questions[0].picture.convert("RGBA")
    clear = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    white = Image.new("RGB", picture.size, "white")
    texts = {model.generate(each, "Read the digits.", latency_budget_ms=1e5).text for each in (clear, white)}
    assert len(texts) == 1
