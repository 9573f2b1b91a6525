"""What a model family does differently. A new family is one entry in FAMILIES; everything else is found by structure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

TIER_TOKEN_CAPS = {"low": 576, "medium": 1296, "high": 2304}  # SPEC: 4, 9 and 16 crops of 144 tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family of models turns a picture into tokens.

    `encode_picture(image_processor, picture, token_cap)` returns the processor's tensors for one picture with at most
    `token_cap` image tokens; `count_tokens(image_processor, tensors)` returns how many those are, and
    `tokens_ahead(image_processor, width, height, token_cap)` how many they will be, from the picture's size in pixels alone;
    `smallest_side(image_processor)` is the side in pixels of one image token; `extra_inputs(image_BL)` returns the
    further model inputs that follow from where the image tokens stand (batch, sequence; bool).
    """

    encode_picture: Callable[[Any, Image.Image, int], dict[str, torch.Tensor]]
    count_tokens: Callable[[Any, Mapping[str, torch.Tensor]], int]
    tokens_ahead: Callable[[Any, int, int, int], int]
    smallest_side: Callable[[Any], int]
    extra_inputs: Callable[[torch.Tensor], dict[str, torch.Tensor]]


def _encode_by_pixel_budget(image_processor: Any, picture: Image.Image, token_cap: int) -> dict[str, torch.Tensor]:
    """Cap tokens through the processor's call-time `size`, whose edges are areas in pixels in this family."""
    area, _tokens = _area_and_tokens(image_processor, picture.width, picture.height, token_cap)
    size = {"shortest_edge": _smallest_area(image_processor, area), "longest_edge": area}
    encoded = image_processor(picture, size=size, return_tensors="pt")
    return {"pixel_values": encoded["pixel_values"], "image_grid_thw": encoded["image_grid_thw"]}


def _tokens_by_pixel_budget(image_processor: Any, width: int, height: int, token_cap: int) -> int:
    return _area_and_tokens(image_processor, width, height, token_cap)[1]


def _area_and_tokens(image_processor: Any, width: int, height: int, token_cap: int) -> tuple[int, int]:
    """Return the largest area in pixels that keeps a picture of this size within the cap, and its tokens then."""
    area = token_cap * _token_side(image_processor) ** 2
    while True:
        limits = {"min_pixels": _smallest_area(image_processor, area), "max_pixels": area}
        patches = image_processor.get_number_of_image_patches(height, width, limits)
        tokens = int(patches) // int(image_processor.merge_size) ** 2
        if tokens <= token_cap:
            return area, tokens
        # a side is never less than a token, so a long strip exceeds the area; its tokens go with the root of it
        area = int(area * (token_cap / tokens) ** 2)


def _smallest_area(image_processor: Any, area: int) -> int:
    return min(int(image_processor.size["shortest_edge"]), area)


def _count_merged_patches(image_processor: Any, tensors: Mapping[str, torch.Tensor]) -> int:
    return int(tensors["image_grid_thw"].prod(-1).sum()) // int(image_processor.merge_size) ** 2


def _token_side(image_processor: Any) -> int:
    return int(image_processor.patch_size) * int(image_processor.merge_size)


def _mark_image_tokens(image_BL: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"mm_token_type_ids": image_BL.long()}


PIXEL_BUDGET = Family(
    encode_picture=_encode_by_pixel_budget,
    count_tokens=_count_merged_patches,
    tokens_ahead=_tokens_by_pixel_budget,
    smallest_side=_token_side,
    extra_inputs=_mark_image_tokens,
)

FAMILIES: dict[str, Family] = {"qwen3_vl": PIXEL_BUDGET, "qwen3_vl_moe": PIXEL_BUDGET}
