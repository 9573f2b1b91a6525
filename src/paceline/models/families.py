"""What a model family does differently. A new family is one entry in FAMILIES; everything else is found by structure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from paceline.errors import PictureError

LARGEST_AREA_ATTEMPTS = 32  # two or three are enough where the processor heeds the limits; one that does not never ends
TIER_TOKEN_CAPS = {"low": 576, "medium": 1296, "high": 2304}  # SPEC: 4, 9 and 16 crops of 144 tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family of models turns a picture into tokens.

    `encode_picture(image_processor, picture, token_cap)` returns the processor's tensors for one picture with at most
    `token_cap` image tokens; `count_tokens(image_processor, tensors)` returns how many those are, and
    `tokens_ahead(image_processor, width, height, token_cap)` how many they will be, from the picture's size in pixels alone;
    `smallest_side(image_processor)` is the side in pixels of one image token.
    """

    encode_picture: Callable[[Any, Image.Image, int], dict[str, torch.Tensor]]
    count_tokens: Callable[[Any, Mapping[str, torch.Tensor]], int]
    tokens_ahead: Callable[[Any, int, int, int], int]
    smallest_side: Callable[[Any], int]


def _encode_by_pixel_budget(image_processor: Any, picture: Image.Image, token_cap: int) -> dict[str, torch.Tensor]:
    """Cap tokens through the processor's call-time `size`, whose edges are areas in pixels in this family."""
    area, _tokens = _area_and_tokens(image_processor, picture.width, picture.height, token_cap, frames=1)
    return _encoded_within(image_processor, picture, area)


def _encode_by_pixels_and_frames(image_processor: Any, picture: Image.Image, token_cap: int) -> dict[str, torch.Tensor]:
    """As `_encode_by_pixel_budget`, where the processor counts a picture's area once for each of its repeated frames."""
    frames = int(image_processor.temporal_patch_size)
    area, _tokens = _area_and_tokens(image_processor, picture.width, picture.height, token_cap, frames=frames)
    return _encoded_within(image_processor, picture, area)


def _encoded_within(image_processor: Any, picture: Image.Image, area: int) -> dict[str, torch.Tensor]:
    size = {"shortest_edge": _smallest_area(image_processor, area), "longest_edge": area}
    return dict(image_processor(picture, size=size, return_tensors="pt"))


def _tokens_by_pixel_budget(image_processor: Any, width: int, height: int, token_cap: int) -> int:
    return _area_and_tokens(image_processor, width, height, token_cap, frames=1)[1]


def _tokens_by_pixels_and_frames(image_processor: Any, width: int, height: int, token_cap: int) -> int:
    frames = int(image_processor.temporal_patch_size)
    return _area_and_tokens(image_processor, width, height, token_cap, frames=frames)[1]


def _area_and_tokens(image_processor: Any, width: int, height: int, token_cap: int, *, frames: int) -> tuple[int, int]:
    """Return the largest area in pixels that keeps a picture of this size within the cap, and its tokens then.

    The area is the processor's own: times `frames` where it counts repeated frames. Raises PictureError where no area does.
    """
    area = token_cap * _token_side(image_processor) ** 2 * frames
    for _attempt in range(LARGEST_AREA_ATTEMPTS):
        smallest = _smallest_area(image_processor, area)
        limits = {  # some processors read the pixels, some the size, and each ignores the other
            "min_pixels": smallest,
            "max_pixels": area,
            "size": {"shortest_edge": smallest, "longest_edge": area},
        }
        patches = image_processor.get_number_of_image_patches(height, width, limits)
        tokens = int(patches) // int(image_processor.merge_size) ** 2
        if tokens <= token_cap:
            return area, tokens
        # a side is never less than a token, so a long strip exceeds the area; its tokens go with the root of it
        area = max(1, int(area * (token_cap / tokens) ** 2))
    raise PictureError(
        f"no area brings a picture of {width}x{height} pixels to {token_cap} image tokens on this model; expected a shape "
        "closer to a square: crop it first"
    )


def _smallest_area(image_processor: Any, area: int) -> int:
    return min(int(image_processor.size["shortest_edge"]), area)


def _count_merged_patches(image_processor: Any, tensors: Mapping[str, torch.Tensor]) -> int:
    return int(tensors["image_grid_thw"].prod(-1).sum()) // int(image_processor.merge_size) ** 2


def _token_side(image_processor: Any) -> int:
    return int(image_processor.patch_size) * int(image_processor.merge_size)


PIXEL_BUDGET = Family(
    encode_picture=_encode_by_pixel_budget,
    count_tokens=_count_merged_patches,
    tokens_ahead=_tokens_by_pixel_budget,
    smallest_side=_token_side,
)

# for these the processor's limits are an area times the frames that a still picture is repeated to
PIXELS_AND_FRAMES = Family(
    encode_picture=_encode_by_pixels_and_frames,
    count_tokens=_count_merged_patches,
    tokens_ahead=_tokens_by_pixels_and_frames,
    smallest_side=_token_side,
)

FAMILIES: dict[str, Family] = {
    "exaone4_5": PIXEL_BUDGET,
    "glm46v": PIXELS_AND_FRAMES,
    "glm4v": PIXELS_AND_FRAMES,
    "qwen2_5_vl": PIXEL_BUDGET,
    "qwen2_vl": PIXEL_BUDGET,
    "qwen3_5": PIXEL_BUDGET,
    "qwen3_5_moe": PIXEL_BUDGET,
    "qwen3_vl": PIXEL_BUDGET,
    "qwen3_vl_moe": PIXEL_BUDGET,
}
