import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from paceline.datasets import DIGIT_SETS, digit_questions
from paceline.models.features import picture_features, project_tokens, prompt_embedding
from paceline.records import PICTURE_RANGES
from paceline.request_vector import RANGES, request_vector

MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F")


def drawn(boxes, size=(160, 160), ground=0, ink=255):
    """A synthetic picture of filled boxes (left, top, width, height)."""
    levels = np.full((size[1], size[0]), ground, dtype=np.uint8)
    for left, top, width, height in boxes:
        levels[top : top + height, left : left + width] = ink
    return Image.fromarray(levels)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 300), st.integers(1, 300)), fill=st.integers(0, 255)),
    st.sampled_from(["L", "RGB", "1", "P", "RGBA", "CMYK"]),
)
def test_any_picture_has_finite_statistics_within_their_ranges(levels, mode):
    picture = Image.fromarray(levels).convert(mode)
    found = picture_features(picture)  # out of range, it could not be built
    assert (found.width_px, found.height_px) == picture.size
    assert all(np.isfinite(getattr(found, name)) for name in PICTURE_RANGES)
    assert found.fine_detail + found.medium_detail <= 1 + 1e-9
    assert picture_features(picture) == found
    assert (found.ink_share > 0) == (found.mark_count > 0) == (found.mark_size > 0) == (found.stroke_width > 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2), (160, 160), (640, 480)])
def test_pictures_of_every_mode_and_shape_are_looked_at(mode, size):
    found = picture_features(Image.new(mode, size))
    assert (found.width_px, found.height_px) == size
    assert found.contrast == found.edge_density == found.entropy_bits == found.fine_detail == found.mark_count == 0


@pytest.mark.parametrize(("level", "brightness"), [(0, 0.0), (255, 1.0), (51, 0.2)])
def test_a_picture_of_one_level_has_no_detail_at_all(level, brightness):
    found = picture_features(Image.new("L", (160, 160), level))
    assert found.brightness == pytest.approx(brightness)
    assert all(getattr(found, name) == 0 for name in PICTURE_RANGES if name != "brightness")


def test_colour_palette_and_transparency_change_nothing_that_is_looked_at():
    grey = drawn([(20, 20, 40, 40)])
    for mode in ("RGB", "P", "RGBA", "LA"):
        assert picture_features(grey.convert(mode)) == picture_features(grey)
    hidden = grey.convert("RGBA")
    hidden.putalpha(0)
    assert picture_features(hidden) == picture_features(grey)
    palette = grey.convert("P")
    palette.info["transparency"] = bytes([0, 128])
    assert picture_features(palette) == picture_features(grey) and palette.info["transparency"] == bytes([0, 128])


@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (255, 0)])
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_background_is_what_covers_more_than_half(ground, ink, share):
    found = picture_features(drawn([(0, 0, 160, round(160 * share))], ground=ground, ink=ink))
    assert found.ink_share == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (255, 0), (200, 60)])
def test_marks_are_counted_and_measured_whatever_stands_out_from_what(ground, ink):
    boxes = [(10, 10, 20, 20), (100, 20, 20, 20), (60, 120, 20, 20)]
    found = picture_features(drawn(boxes, ground=ground, ink=ink))
    assert found.mark_count == 3
    assert found.mark_size == pytest.approx(20 / 160, abs=0.03)
    assert found.stroke_width == pytest.approx(20 / 160, abs=0.02)
    assert found.ink_share == pytest.approx(3 * 20 * 20 / 160**2, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.booleans(), min_size=16, max_size=16), st.integers(4, 26)
)  # larger boxes are more than half of the thumbnail, and then the ground
def test_boxes_apart_are_as_many_marks(present, side):
    boxes = [(40 * (n % 4) + 4, 40 * (n // 4) + 4, side, side) for n, there in enumerate(present) if there]
    assert picture_features(drawn(boxes)).mark_count == len(boxes)


def test_a_mark_does_not_go_on_around_the_edge_of_the_picture():
    assert picture_features(drawn([(0, 40, 20, 20), (140, 40, 20, 20)])).mark_count == 2
    assert picture_features(drawn([(0, 45, 20, 5), (140, 40, 20, 5)])).mark_count == 2
    assert picture_features(drawn([(0, 40, 160, 5), (0, 40, 5, 100)])).mark_count == 1


@pytest.mark.parametrize("turns", range(4))
def test_a_mark_is_followed_in_every_direction(turns):
    bowl = drawn([(20, 20, 8, 100), (20, 112, 80, 8), (92, 20, 8, 100)]).rotate(90 * turns)
    assert picture_features(bowl).mark_count == 1
    corner = drawn([(40, 40, 10, 10), (50, 50, 10, 10)]).rotate(90 * turns)
    assert picture_features(corner).mark_count == 1


def test_noise_is_counted_up_to_the_limit_only():
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[::4, ::4] = 255  # 256 dots
    assert picture_features(Image.fromarray(levels)).mark_count == 64


def test_detail_goes_from_fine_to_medium_as_a_pattern_grows():
    def checks(side):
        rows, columns = np.indices((64, 64)) // side
        return picture_features(Image.fromarray(((rows + columns) % 2 * 255).astype(np.uint8)))

    assert checks(1).fine_detail == 1 and checks(1).medium_detail == 0
    assert checks(2).fine_detail == 0 and checks(2).medium_detail == 1
    assert checks(8).fine_detail == checks(8).medium_detail == 0
    assert checks(1).edge_density == 1 > checks(2).edge_density > checks(8).edge_density > 0
    assert checks(1).brightness == checks(1).contrast == 0.5 and checks(1).entropy_bits == 1


def test_marks_of_digit_scenes_are_their_digits():
    asked = digit_questions("digits_count", split="train", count=120, seed=5)
    found = [picture_features(question.picture) for question in asked]
    digits, sides = ([question.metadata[name] for question in asked] for name in ("digits", "side_px"))
    exact = np.mean([each.mark_count == count for each, count in zip(found, digits, strict=True)])
    assert exact >= 0.9
    assert np.corrcoef([each.mark_size for each in found], sides)[0, 1] > 0.9
    assert np.corrcoef([each.stroke_width for each in found], sides)[0, 1] > 0.8


def test_a_large_picture_tells_what_its_small_copy_does():
    small = digit_questions("digits_read", split="train", count=1, seed=1)[0].picture
    large = small.resize((small.width * 12, small.height * 12), Image.Resampling.NEAREST)
    there, here = picture_features(small), picture_features(large)
    assert here.mark_count == there.mark_count
    for name in ("brightness", "contrast", "ink_share", "mark_size", "stroke_width"):
        assert getattr(here, name) == pytest.approx(getattr(there, name), rel=0.15, abs=0.005)


def test_the_projection_is_the_documented_matrix():
    embeddings_VE = torch.randn(10_000, 24, generator=torch.Generator().manual_seed(0))
    matrix_EP = np.random.default_rng(3407).standard_normal((24, 16)) / 4
    expected = embeddings_VE.double().numpy() @ matrix_EP
    assert project_tokens(embeddings_VE) == pytest.approx(expected, abs=1e-4)
    assert project_tokens(embeddings_VE.bfloat16()).dtype == np.float32


def test_a_prompts_embedding_is_the_direction_of_the_mean():
    projection_VP = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    mean_P = (projection_VP[1] + projection_VP[1] + projection_VP[5]).astype(float)
    assert prompt_embedding(projection_VP, [1, 5, 1]) == pytest.approx(mean_P / np.linalg.norm(mean_P), abs=1e-6)
    assert prompt_embedding(projection_VP, []) == (0.0,) * 16
    assert prompt_embedding(np.zeros_like(projection_VP), [3]) == (0.0,) * 16


def test_an_embedding_is_of_the_models_own_tokens_without_its_template(digits):
    weights_VE = digits.parts.model.get_input_embeddings().weight.detach().double().numpy()
    ids = digits.tokenizer("Count the digits.", add_special_tokens=False).input_ids
    direction = weights_VE[ids].mean(axis=0) @ np.random.default_rng(3407).standard_normal((128, 16))
    found = digits.features(Image.new("RGB", (160, 160)), "Count the digits.").prompt_embedding
    assert found == pytest.approx(direction / np.linalg.norm(direction), abs=1e-4)


def test_the_embedding_tells_the_question_sets_apart(digits):
    """Nearest centroid, made of prompts about other pictures."""

    def embeddings(split, count):
        every = [digit_questions(name, split=split, count=count, seed=7) for name in DIGIT_SETS]
        return np.array([[digits.features(q.picture, q.prompt).prompt_embedding for q in asked] for asked in every])

    centroids_SP = embeddings("train", 40).mean(axis=1)
    held_out_SNP = embeddings("test", 60)
    away_SNS = np.linalg.norm(held_out_SNP[:, :, None] - centroids_SP, axis=-1)
    assert np.mean(away_SNS.argmin(axis=2) == np.arange(len(DIGIT_SETS))[:, None]) >= 0.95


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(min_size=1, max_size=200), size=st.tuples(st.integers(16, 400), st.integers(16, 400)))
def test_any_prompt_and_picture_give_a_vector_within_its_ranges(digits, prompt, size):
    if not prompt.strip() or any(token in prompt for token in digits.tokenizer.all_special_tokens):
        return
    features = digits.features(Image.new("RGB", size, (10, 200, 90)), prompt)
    for number, (lowest, highest) in zip(request_vector(features), RANGES.values(), strict=True):
        assert lowest <= number <= highest


def test_features_do_not_depend_on_what_runs_beside_them(digits, questions):
    """The same before and after the model has run under any tier, and token counts alone agree with the whole."""
    picture, prompt = questions[0].picture, questions[0].prompt
    before = digits.features(picture, prompt)
    for tier in ("low", "high"):
        digits.prepare(picture, prompt, tier)
        assert digits.features(picture, prompt) == before
    counts = digits.token_features(picture, prompt)
    assert (counts.text_tokens, counts.vision_tokens) == (before.text_tokens, before.vision_tokens)
    assert counts.picture is None and counts.prompt_embedding is None


def test_a_dense_model_has_features_too(dense):
    features = dense.features(Image.new("RGB", (160, 160)), "Read the digits.")
    assert np.linalg.norm(features.prompt_embedding) == pytest.approx(1)
    assert len(request_vector(features)) == len(RANGES)
