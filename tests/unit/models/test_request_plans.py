"""Tokens told without the model, beside those that the model's own preparation makes."""

import pytest
from PIL import Image

from paceline.errors import InvalidValueError, PictureError
from paceline.models.loading import load_model, load_request_plans

QUESTION = "How many digits are there, and which is the largest of them?"


@pytest.fixture(scope="module")
def digits():
    return load_model("digits", device="cpu"), load_request_plans("digits")


def asked(text):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("size", [(32, 32), (300, 200), (64, 640), (33, 900)])
def test_tokens_are_those_that_the_model_prepares(digits, size):
    model, plans = digits
    picture = Image.new("RGB", size)
    found = plans.plans([size])
    assert tuple(found) == plans.tiers == model.tiers
    for tier, plan in found.items():
        prepared = model.prepare(picture, QUESTION, tier)
        assert plan.tokens == prepared.vision_tokens
        assert plans.text_tokens(asked(QUESTION)) == prepared.text_tokens


@pytest.mark.parametrize("sizes", [[(300, 200)] * 3, [(32, 32), (300, 200)], [(300, 200), (64, 640), (200, 200)]])
def test_tokens_of_several_pictures_are_those_that_the_model_prepares(digits, sizes):
    model, plans = digits
    pictures = [{"type": "image", "image": Image.new("RGB", size)} for size in sizes]
    chat = [{"role": "user", "content": [*pictures, {"type": "text", "text": QUESTION}]}]
    for tier, plan in plans.plans(sizes).items():
        prepared = model.prepare_chat(chat, tier)
        assert plan.tokens == prepared.vision_tokens
        assert plans.text_tokens(
            [{**chat[0], "content": asked(QUESTION)[0]["content"][:1] * len(sizes) + chat[0]["content"][-1:]}]
        ) == (prepared.text_tokens)


def test_a_cap_of_one_picture_holds_the_others_too_where_all_have_the_same_arguments(digits):
    _, plans = digits
    low = plans.plans([(300, 200)])["low"]
    found = plans.plans([(300, 200), (300, 200)], caps=[None, plans.smallest_cap])
    assert found["high"] == found["low"] and found["high"].tokens == 2 * low.tokens


def test_a_cap_is_never_exceeded(digits):
    _, plans = digits
    for cap in (3, 12, 13, 40, 95, 96, 500):
        capped, whole = plans.plans([(300, 200)], caps=[cap]), plans.plans([(300, 200)])
        assert all(capped[tier].tokens <= min(cap, whole[tier].tokens) for tier in plans.tiers)


@pytest.mark.parametrize("longest_edge", [1024, 4096, 9000, 12544, 20_000, 25_600, 10**9])
def test_a_callers_limits_are_a_cap_of_tokens(digits, longest_edge):
    _, plans = digits
    for arguments in ({"size": {"longest_edge": longest_edge, "shortest_edge": 1}}, {"max_pixels": longest_edge}):
        cap = plans.cap_under(300, 200, arguments)
        assert 0 < cap <= 100
        for plan in plans.plans([(300, 200)], caps=[cap]).values():
            assert plan.arguments["size"]["longest_edge"] <= longest_edge


@pytest.mark.parametrize(
    "arguments", [{"other": 1}, {"size": {"longest_edge": 1}}, {"size": 3}, {"size": {"longest_edge": "x"}}]
)
def test_limits_that_no_tokens_follow_from_are_refused(digits, arguments):
    _, plans = digits
    with pytest.raises(PictureError, match="expected limits of size"):
        plans.plans([(300, 200)], caps=[plans.cap_under(300, 200, arguments)])


def test_pictures_that_no_tier_carries_are_refused(digits):
    _, plans = digits
    for size in ((3, 3), (10_000, 10_000), (10, 5000)):
        with pytest.raises(PictureError):
            plans.plans([size])


def test_a_long_text_is_counted_by_its_beginning_and_a_chat_no_template_takes_by_its_texts(digits):
    _, plans = digits
    sentence = "count the digits "
    per_letter = plans.text_tokens(asked(sentence * 100)) / len(sentence * 100)
    assert plans.text_tokens(asked(sentence * 10_000)) == pytest.approx(per_letter * len(sentence * 10_000), rel=0.02)
    odd = [{"role": "user", "content": "one two"}]
    assert plans.text_tokens(odd) > 0


@pytest.mark.parametrize("text", ["\ud800", "one \udfff two", "\ud83d" * 5000, "one \U0001f600 two"])
def test_half_a_surrogate_pair_is_counted_as_one_letter_that_is_not_known(digits, text):
    """JSON can say it and no tokenizer takes it: the server refuses it, whether a budget is asked for or not."""
    _, plans = digits
    told = "".join("?" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
    assert plans.text_tokens(asked(text)) == plans.text_tokens(asked(told)) > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"chat_template": "{{ 'word ' * 999 }}"},
        {"tokenize": True},
        {"chat_template": 7, "continue_final_message": True},
    ],
    ids=str,
)
def test_arguments_that_fill_the_template_are_not_a_clients(digits, arguments):
    """Another template would run as a program of whoever sends it, for hours if they like."""
    _, plans = digits
    assert plans.text_tokens(asked(QUESTION), arguments=arguments) == plans.text_tokens(asked(QUESTION))


def test_a_template_is_no_argument_of_a_chat(digits):
    model, _ = digits
    picture = {"type": "image", "image": Image.new("RGB", (64, 64))}
    chat = [{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}]
    with pytest.raises(InvalidValueError, match="a name that the chat template of 'digits' reads"):
        model.prepare_chat(chat, "low", template_arguments={"chat_template": "{{ 1 }}"})
