"""Plans told from a picture's size against what the image processors make of it, at the settings that they ship with.

No model is needed: the pieces and sizes in the processor's output are as many as the plan says.
"""

from types import SimpleNamespace as Config

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paceline.errors import PictureError
from paceline.models.families.choosing import is_in_reach
from paceline.models.families.declared import FAMILIES
from paceline.models.families.family import TIER_TOKEN_CAPS, encoded
from paceline.models.families.plans import Vision


def tower(image_size, patch_size, **more):
    return Config(image_size=image_size, patch_size=patch_size, **more)


def processor(name, **arguments):
    return getattr(transformers, f"{name}ImageProcessorPil")(**arguments)


def side(pixels):
    return {"height": pixels, "width": pixels}


REAL = {
    "internvl": (
        lambda: processor("GotOcr2", size=side(448)),
        Config(vision_config=tower([448, 448], [14, 14]), downsample_ratio=0.5),
    ),
    "aya_vision": (lambda: processor("GotOcr2", size=side(364)), Config(vision_config=tower(364, 14), downsample_factor=2)),
    "ovis2": (lambda: processor("Ovis2", size=side(448), max_patches=9), Config(vision_config=tower(448, 14, hidden_stride=2))),
    "idefics3": (lambda: processor("Idefics3"), Config(vision_config=tower(364, 14), scale_factor=2)),
    "smolvlm": (
        lambda: processor("SmolVLM", size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}),
        Config(vision_config=tower(512, 16), scale_factor=4),
    ),
    "granite_docling": (lambda: processor("GraniteDocling"), Config(vision_config=tower(512, 16, scale_factor=4))),
    "idefics2": (lambda: processor("Idefics2"), Config(perceiver_config=Config(resampler_n_latents=64))),
    "gemma3": (lambda: processor("Gemma3", size=side(896)), Config(mm_tokens_per_image=256)),
    "gemma4": (lambda: processor("Gemma4"), Config()),
    "pixtral": (lambda: processor("Pixtral"), Config(vision_config=tower(1024, 16))),
    "mistral3": (
        lambda: processor("Pixtral", size={"longest_edge": 1540}, patch_size=14),
        Config(vision_config=tower(1540, 14), spatial_merge_size=2),
    ),
    "minicpmv4_6": (lambda: processor("MiniCPMV4_6"), Config()),
    "minicpmv4_7": (lambda: processor("MiniCPMV4_6", downsample_mode="4x"), Config()),
    "aria": (
        lambda: processor("Aria"),
        Config(vision_config=tower(980, 14), projector_patch_to_query_dict={1225: 128, 4900: 256}),
    ),
}  # fmt: skip


AREA = {
    "qwen2_5_vl": (lambda: processor("Qwen2VL"), Config()),
    "qwen3_vl_moe": (
        lambda: processor("Qwen2VL", patch_size=16, size={"shortest_edge": 65_536, "longest_edge": 16_777_216}),
        Config(),
    ),
}
ALIKE = {name: each for name, each in {**REAL, **AREA}.items() if FAMILIES[name].tiers.alike is not None}


def made(name, vision, found, plan):
    """Return how many image tokens the processor's own output stands for."""
    pixels = found["pixel_values"]
    if name in ("pixtral", "mistral3"):
        edge = vision.config.vision_config.patch_size * getattr(vision.config, "spatial_merge_size", 1)
        height, width = found["image_sizes"][0].tolist()
        return height // edge * (width // edge)
    if name.startswith("minicpmv"):
        merged = 4 if vision.processor.downsample_mode == "4x" else 16
        return int((found["target_sizes"].prod(-1) // merged).sum())
    if name == "gemma4":
        return int((found["image_position_ids"][..., 0] >= 0).sum()) // int(vision.processor.pooling_kernel_size) ** 2
    if name == "aria":
        queries = vision.config.projector_patch_to_query_dict[(pixels.shape[-1] // 14) ** 2]
        return pixels.shape[0] * queries
    if name in AREA:
        return int(found["image_grid_thw"].prod()) // int(vision.processor.merge_size) ** 2
    pieces = pixels.shape[1] if name in ("granite_docling", "idefics2", "idefics3", "smolvlm") else pixels.shape[0]
    return pieces * plan.pieces[0]


@pytest.mark.parametrize("name", sorted(name for name in REAL if is_in_reach(FAMILIES[name])))
@settings(max_examples=12, deadline=None, derandomize=True)
@given(width=st.integers(1, 1600), height=st.integers(1, 1600), tier=st.sampled_from(sorted(TIER_TOKEN_CAPS)))
def test_a_plan_is_what_the_processor_makes(name, width, height, tier):
    make, config = REAL[name]
    vision = Vision(processor=make(), config=config)
    try:
        plan = FAMILIES[name].plan(vision, width, height, TIER_TOKEN_CAPS[tier], lambda each: each.tokens)
    except PictureError:
        return
    found = encoded(vision, Image.new("RGB", (width, height)), plan)
    assert made(name, vision, found, plan) == plan.tokens <= TIER_TOKEN_CAPS[tier]


shapes = st.tuples(st.integers(28, 900), st.integers(28, 900))
strips = st.tuples(st.integers(28, 40), st.integers(1500, 4000))


@pytest.mark.parametrize("name", sorted(name for name in ALIKE if is_in_reach(FAMILIES[name])))
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    pictures=st.lists(st.tuples(shapes | strips, st.integers(64, 2304)), min_size=1, max_size=4),
    turned=st.booleans(),
)
def test_pictures_of_one_request_have_the_same_arguments_and_stay_within_their_own_caps(name, pictures, turned):
    make, config = ALIKE[name]
    vision = Vision(processor=make(), config=config)
    capped = [(*(shape[::-1] if turned else shape), cap) for shape, cap in pictures]
    family = FAMILIES[name]
    try:
        plans = family.plans_alike(vision, capped, lambda each: each.tokens)
    except PictureError:  # one of them has more tokens than its cap however small it is made
        return
    assert all(plan.arguments == plans[0].arguments for plan in plans)
    for plan, (width, height, cap) in zip(plans, capped, strict=True):
        found = encoded(vision, Image.new("RGB", (width, height)), plan)
        assert made(name, vision, found, plan) == plan.tokens <= cap
        alone = family.plan(vision, width, height, cap, lambda each: each.tokens)
        if len({each for each in capped}) == 1:
            assert plan == alone


def test_pictures_without_arguments_in_common_are_refused_where_a_request_has_one_set():
    make, config = REAL["gemma4"]
    vision = Vision(processor=make(), config=config)
    family = FAMILIES["gemma4"]
    with pytest.raises(PictureError, match="2 pictures of different shapes would each have another max_soft_tokens"):
        family.plans_alike(vision, [(500, 400, 1200), (500, 400, 90)], lambda each: each.tokens)
    assert len(family.plans_alike(vision, [(500, 400, 300)] * 3, lambda each: each.tokens)) == 3
