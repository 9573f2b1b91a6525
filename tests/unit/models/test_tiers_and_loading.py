import sys

import pytest
from PIL import Image
from transformers import BertConfig, LlamaConfig

from paceline.errors import InvalidValueError, ModelError, PictureError, UnknownChoiceError
from paceline.models.families.family import TIER_TOKEN_CAPS
from paceline.models.grid import default_grid, grid_of
from paceline.models.importance import block_influence, rank_blocks
from paceline.models.loading import load_model
from paceline.models.pictures import LARGEST_PIXELS, check_pixels, open_picture
from paceline.records import TIERS


@pytest.mark.parametrize("size", [(160, 160), (192, 128), (128, 192), (640, 480), (33, 900), (2000, 2000)])
@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_caps_the_image_tokens_whatever_the_picture(digits, size, tier):
    prepared = digits.prepare(Image.new("RGB", size), "Read the digits.", tier)
    cap = digits.tier_token_caps[tier]
    assert prepared.target_vision_tokens == cap
    assert 1 <= prepared.vision_tokens <= cap
    ids = prepared.inputs["input_ids"]
    assert int((ids == digits.parts.model.config.image_token_id).sum()) == prepared.vision_tokens
    assert prepared.text_tokens + prepared.vision_tokens == ids.shape[1]


@pytest.mark.parametrize("size", [(160, 160), (192, 128), (640, 480), (33, 900), (900, 17), (16, 16), (2000, 2000)])
@pytest.mark.parametrize("prompt", ["Read the digits.", "How many digits are there?"])
def test_the_features_of_a_request_are_the_token_counts_that_preparing_it_gives(digits, size, prompt):
    picture = Image.new("RGB", size)
    features = digits.features(picture, prompt)
    prepared = {tier: digits.prepare(picture, prompt, tier) for tier in TIERS}
    assert features.vision_tokens == {tier: request.vision_tokens for tier, request in prepared.items()}
    assert {request.text_tokens for request in prepared.values()} == {features.text_tokens}


def test_a_request_that_cannot_be_prepared_has_no_features(digits):
    with pytest.raises(PictureError, match="at least 16 a side"):
        digits.features(Image.new("RGB", (4, 4)), "Read the digits.")
    with pytest.raises(InvalidValueError, match="a question about the picture"):
        digits.features(Image.new("RGB", (160, 160)), " ")


def test_tiers_of_a_large_picture_use_most_of_their_cap(digits):
    for tier in TIERS:
        prepared = digits.prepare(Image.new("RGB", (800, 800)), "Count the digits.", tier)
        assert prepared.vision_tokens >= 0.75 * digits.tier_token_caps[tier]


def test_a_model_that_says_nothing_has_the_specified_caps(dense):
    assert dense.tier_token_caps == TIER_TOKEN_CAPS == {"low": 576, "medium": 1296, "high": 2304}


def test_an_unknown_tier_names_the_close_one(digits):
    with pytest.raises(UnknownChoiceError, match="did you mean 'high'") as raised:
        digits.prepare(Image.new("RGB", (160, 160)), "Read the digits.", "hgih")
    assert raised.value.value == "hgih" and raised.value.expected == TIERS


@pytest.mark.parametrize(("size", "remedy"), [((20_000, 20_000), "scale it down"), ((4000, 15), "crop it")])
def test_a_picture_too_large_or_too_long_is_refused_with_the_remedy(size, remedy):
    with pytest.raises(PictureError, match=remedy):
        check_pixels(*size)


@pytest.mark.parametrize("size", [(1, 1), (15, 200)])
def test_a_picture_smaller_than_an_image_token_is_refused_with_the_remedy(digits, size):
    with pytest.raises(PictureError, match="at least 16 a side.*scale it up"):
        digits.prepare(Image.new("RGB", size), "Read the digits.", "low")


def test_a_huge_picture_is_refused_before_its_pixels_are_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert LARGEST_PIXELS < 20_000 * 20_000
    with pytest.raises(PictureError, match="scale it down"):
        open_picture(path)


def test_missing_and_broken_pictures(tmp_path):
    with pytest.raises(PictureError, match="there is no picture at"):
        open_picture(tmp_path / "none.png")
    for content in (b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"):
        path = tmp_path / "broken.png"
        path.write_bytes(content)
        with pytest.raises(PictureError, match="not a picture that can be read"):
            open_picture(path)
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(PictureError, match="not a picture that can be read"):
        open_picture(whole)


@pytest.mark.parametrize("prompt", ["", "  ", "Read <|image_pad|> the digits."])
def test_prompts_that_would_break_the_request_are_refused(digits, prompt):
    with pytest.raises(InvalidValueError, match="prompt"):
        digits.prepare(Image.new("RGB", (160, 160)), prompt, "low")


@pytest.mark.parametrize("config", [LlamaConfig(), BertConfig()], ids=["llama", "bert"])
def test_a_model_without_a_vision_tower_is_refused_before_its_weights_are_read(tmp_path, config):
    config.save_pretrained(tmp_path)  # no weights beside it
    with pytest.raises(ModelError, match="no vision tower"):
        load_model(str(tmp_path))


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(str(tmp_path / "nowhere"))
    with pytest.raises(UnknownChoiceError, match="device"):
        load_model("digits", device="tpu")
    with pytest.raises(UnknownChoiceError, match="dtype"):
        load_model("digits", dtype="float31")


def test_the_default_grid_has_27_configurations_and_a_dense_model_no_top_k(digits, dense):
    assert len(default_grid(digits).configurations()) == 27
    grid = default_grid(dense)
    assert grid.top_ks == (None,) and grid.block_counts == (3, 4) and len(grid.configurations()) == 6
    with pytest.raises(InvalidValueError, match="top_k is 99"):
        grid_of(digits, tiers=None, top_ks=[99], block_counts=None)


def test_block_influence_is_zero_for_a_block_that_adds_nothing(digits, request_high):
    block = digits.parts.blocks[9]
    block.forward = lambda hidden_states, *_args, **_kwargs: hidden_states
    try:
        influence = block_influence(digits.parts, [request_high.inputs])
    finally:
        del block.forward
    assert len(influence) == 16 and influence[9] == pytest.approx(0, abs=1e-6)
    assert all(each > 1e-4 for index, each in enumerate(influence) if index != 9)
    assert rank_blocks(influence)[0] == 9 and 0 not in rank_blocks(influence)
    with pytest.raises(InvalidValueError, match="calibration set"):
        block_influence(digits.parts, [])


def test_loading_needs_no_torchvision():
    assert "torchvision" not in sys.modules
