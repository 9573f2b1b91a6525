"""How many image tokens a family's encoder makes of a picture or of one tile, from its configuration and processor.

The arithmetic is that of each family's own processor and modelling code in transformers; `paceline.models.probe` checks it
against the encoder itself when a model is loaded.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from transformers.image_processing_utils import select_best_resolution
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size
from transformers.models.ovis2.image_processing_pil_ovis2 import get_min_tile_covering_grid

from paceline.models.families.plans import ImagePlan, Vision

GEMMA4_LEVELS = (70, 140, 280, 560, 1120)  # all that its processor takes
ARIA_SMALL_PX, ARIA_LARGE_PX = 490, 980  # all that its processor takes
GEMMA3_MOST_CROPS = 4  # these three are the defaults of Gemma 3's own processor
GEMMA3_SMALLEST_CROP_PX = 256
GEMMA3_LEAST_RATIO = 1.2


def encoder_side(vision: Vision) -> int:
    """Return the patches along a side of the encoder's square input."""
    tower = vision.config.vision_config
    return _side(tower.image_size) // _side(tower.patch_size)


def clip_tokens(vision: Vision) -> int:
    """Return one picture's tokens where a CLIP tower has a class token that the `default` strategy drops."""
    tower, strategy = vision.config.vision_config, vision.config.vision_feature_select_strategy
    class_token = int("clip_vision" in tower.model_type)
    return encoder_side(vision) ** 2 + class_token - int(strategy == "default")


def patch_tokens(vision: Vision) -> int:
    """Return one picture's tokens where each patch is one."""
    return encoder_side(vision) ** 2


def shuffled_tokens(vision: Vision) -> int:
    """Return one tile's tokens where pixel shuffle merges patches by `downsample_ratio` a side, as InternVL does."""
    return int(encoder_side(vision) * float(vision.config.downsample_ratio)) ** 2


def downsampled_tokens(vision: Vision) -> int:
    """Return one tile's tokens where `downsample_factor` patches a side are merged, as Aya Vision does."""
    return (encoder_side(vision) // int(vision.config.downsample_factor)) ** 2


def scaled_tokens(vision: Vision) -> int:
    """Return one tile's tokens where `scale_factor` patches a side are merged, as Idefics 3 does."""
    return encoder_side(vision) ** 2 // int(vision.config.scale_factor) ** 2


def quartered_tokens(vision: Vision) -> int:
    """Return one tile's tokens where two convolutions halve the patches a side twice, as GOT-OCR 2 does."""
    return (encoder_side(vision) // 4) ** 2


def merged_patch_side(vision: Vision) -> int:
    """Return the side in pixels of one token: a patch of the encoder, times what is merged behind it."""
    return _side(vision.config.vision_config.patch_size) * int(getattr(vision.config, "spatial_merge_size", 1))


def cropped(per_tile: Callable[[Vision], int]) -> Callable[[Vision, int, int, int], ImagePlan]:
    """Return the plan of processors that cut a picture into at most n tiles and add a thumbnail to more than one."""

    def tiled(vision: Vision, width: int, height: int, tiles: int) -> ImagePlan:
        arguments = {"crop_to_patches": True, "min_patches": 1, "max_patches": tiles}
        pieces = int(vision.processor.get_number_of_image_patches(height, width, arguments))
        return ImagePlan(pieces=(per_tile(vision),) * pieces, arguments=arguments)

    return tiled


def docling_tiles(vision: Vision, width: int, height: int, tiles: int) -> ImagePlan:
    """Return Granite Docling's plan under a limit of tiles, at the finer of its two ways of merging patches where the processor
    is set to it: four times the tokens."""
    processor, tower = vision.processor, vision.config.vision_config
    arguments = {"crop_to_patches": True, "min_patches": 1, "max_patches": tiles}
    rows, columns = processor.get_tile_grid(height, width, arguments)
    per_tile = encoder_side(vision) ** 2 // int(tower.scale_factor) ** 2 * (4 if processor.fine_route else 1)
    pieces = rows * columns + (rows * columns > 1)
    return ImagePlan(pieces=(per_tile,) * pieces, arguments=arguments, rows=rows, columns=columns)


def own_tiles(vision: Vision) -> int:
    """Return the most tiles that the processor cuts by itself."""
    return int(vision.processor.max_patches)


def ovis_tiles(vision: Vision, width: int, height: int, tiles: int) -> ImagePlan:
    """Return Ovis 2's plan under a limit of tiles: the fewest that cover the picture, and the whole picture before them."""
    processor, tower = vision.processor, vision.config.vision_config
    side = _side(processor.size["height"])
    columns, rows = get_min_tile_covering_grid((height, width), target_patch_size=side, max_image_tiles=tiles)
    pieces = rows * columns + (rows * columns > 1) if tiles > 1 else 1
    per_tile = (encoder_side(vision) // int(tower.hidden_stride)) ** 2
    return ImagePlan(
        pieces=(per_tile,) * pieces,
        arguments={"crop_to_patches": True, "min_patches": 1, "max_patches": tiles, "use_covering_area_grid": True},
        rows=rows,
        columns=columns,
    )


def idefics_tiles(vision: Vision, width: int, height: int, tiles: int) -> ImagePlan:
    """Return the plan of Idefics 3 and SmolVLM where the longest edge becomes that of `tiles` tiles, and is cut into them."""
    processor = vision.processor
    edge = int(processor.max_image_size["longest_edge"])
    arguments = {"do_image_splitting": True, "size": {"longest_edge": tiles * edge}}
    _pieces, rows, columns = processor.get_number_of_image_patches(height, width, arguments)
    return ImagePlan(
        pieces=(scaled_tokens(vision),) * (rows * columns + 1), arguments=arguments, rows=rows, columns=columns
    )


def idefics_most_tiles(vision: Vision) -> int:
    """Return the tiles along the longest edge that the processor itself would make."""
    return int(vision.processor.size["longest_edge"]) // int(vision.processor.max_image_size["longest_edge"])


def idefics2_settings(vision: Vision, width: int, height: int) -> Iterable[ImagePlan]:
    """Return Idefics 2's two plans: the picture whole, or its four quarters and the whole."""
    tokens = int(vision.config.perceiver_config.resampler_n_latents)
    yield ImagePlan(pieces=(tokens,), arguments={"do_image_splitting": False})
    if min(width, height) > 1:  # a pixel has no quarters
        yield ImagePlan(pieces=(tokens,) * 5, arguments={"do_image_splitting": True})


def gemma3_crops(vision: Vision, width: int, height: int) -> Iterable[ImagePlan]:
    """Return Gemma 3's plans: the picture alone, or with two to four crops along its longer side (pan and scan)."""
    tokens = int(vision.config.mm_tokens_per_image)
    yield ImagePlan(pieces=(tokens,), arguments={"do_pan_and_scan": False})
    for most in range(2, GEMMA3_MOST_CROPS + 1):
        crops = _pan_and_scan(max(width, height), min(width, height), most)
        arguments = {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": GEMMA3_SMALLEST_CROP_PX,
            "pan_and_scan_max_num_crops": most,
            "pan_and_scan_min_ratio_to_activate": GEMMA3_LEAST_RATIO,
        }
        yield ImagePlan(pieces=(tokens,) * (1 + crops), arguments=arguments)


def _pan_and_scan(longer: int, shorter: int, most: int) -> int:
    if longer / shorter < GEMMA3_LEAST_RATIO:
        return 0
    crops = min(math.floor(longer / GEMMA3_SMALLEST_CROP_PX), math.floor(longer / shorter + 0.5))
    crops = min(most, max(2, crops))
    return crops if min(math.ceil(longer / crops), shorter) >= GEMMA3_SMALLEST_CROP_PX else 0


def gemma4_levels(vision: Vision, width: int, height: int) -> Iterable[ImagePlan]:
    """Return Gemma 4's plans: one a level of `max_soft_tokens`; the shape is kept, so fewer tokens than that are used."""
    processor = vision.processor
    patch, pooled = int(processor.patch_size), int(processor.pooling_kernel_size)
    for level in GEMMA4_LEVELS:
        rows, columns = (
            side // (patch * pooled)
            for side in get_aspect_ratio_preserving_size(height, width, patch, level * pooled**2, pooled)
        )
        yield ImagePlan(pieces=(rows * columns,), arguments={"max_soft_tokens": level})


def aria_settings(vision: Vision, width: int, height: int) -> Iterable[ImagePlan]:
    """Return Aria's plans: the whole picture at 490 or 980 pixels a side, or cut into tiles of either."""
    processor, config = vision.processor, vision.config
    for side in (ARIA_SMALL_PX, ARIA_LARGE_PX):
        queries = config.projector_patch_to_query_dict[(side // _side(config.vision_config.patch_size)) ** 2]
        yield ImagePlan(pieces=(queries,), arguments={"max_image_size": side, "split_image": False})
        arguments: dict[str, Any] = {"max_image_size": side, "split_image": True}
        if processor.split_resolutions:
            pieces = int(processor.get_number_of_image_patches(height, width, arguments))
            yield ImagePlan(pieces=(queries,) * pieces, arguments=arguments)


def aria_small_settings(vision: Vision, width: int, height: int) -> Iterable[ImagePlan]:
    """Return Aria's plans at 490 pixels a side: pictures of one request go through the encoder as tiles of one size."""
    return (plan for plan in aria_settings(vision, width, height) if plan.arguments["max_image_size"] == ARIA_SMALL_PX)


def onevision_square(vision: Vision, _width: int, _height: int) -> Iterable[ImagePlan]:
    """Return LLaVA-OneVision's plan of a picture that is not alone: padded to a square, one tile and a newline token."""
    yield ImagePlan(pieces=(clip_tokens(vision) + 1,))


def minicpm_slices(vision: Vision, width: int, height: int, slices: int) -> ImagePlan:
    """Return MiniCPM-V's plan under a limit of slices: the whole picture, scaled, and its slices, scaled likewise."""
    processor = vision.processor
    patch, side = int(processor.patch_size), int(processor.scale_resolution)
    merged = 4 if processor.downsample_mode == "4x" else 16  # patches a token
    grid = processor.get_sliced_grid((height, width), slices, side)
    # since transformers 5.20 the sizes are multiples of what the mode merges; before, of sixteen patches in both
    mode = {"downsample_mode": processor.downsample_mode} if _takes_mode(processor.find_best_resize) else {}
    whole = processor.find_best_resize((height, width), side, patch, allow_upscale=grid is None, **mode)
    rows, columns = grid or (0, 0)
    pieces = [_area_of(whole) // patch**2 // merged]
    if grid is not None:
        refined = processor.get_refine_size((height, width), grid, side, patch, allow_upscale=True, **mode)
        one = (refined[0] // rows // patch) * (refined[1] // columns // patch) // merged
        pieces += [one] * (rows * columns)
    return ImagePlan(
        pieces=tuple(pieces), arguments={"max_slice_nums": slices, "slice_mode": True}, rows=rows, columns=columns
    )


def _takes_mode(method: Callable[..., Any]) -> bool:
    return "downsample_mode" in inspect.signature(method).parameters


def own_slices(vision: Vision) -> int:
    """Return the most slices that the processor cuts by itself."""
    return int(vision.processor.max_slice_nums)


def pinpoint_sizes(vision: Vision) -> list[tuple[int, int]]:
    """Return the processor's resolutions as (width, height)."""
    return [(int(width), int(height)) for height, width in vision.processor.image_grid_pinpoints]


def anyres(side: Callable[[Vision], int], base: Callable[[Vision], int]) -> Callable[[Vision, int, int], ImagePlan]:
    """Return the plan of the LLaVA-NeXT line: the whole picture (`base` tokens), and its tiles without their padding, with a
    newline a row. `side` are the tokens along a side of one tile.
    """

    def at(vision: Vision, width: int, height: int) -> ImagePlan:
        pixels = _side(vision.config.vision_config.image_size)
        best = select_best_resolution((height, width), vision.processor.image_grid_pinpoints)
        rows, columns = (side(vision) * (int(each) // pixels) for each in best)
        rows, columns = _unpadded(rows, columns, width, height)
        rows, columns = _at_most(rows, columns, _largest_area(vision, side(vision)))
        return ImagePlan(pieces=(base(vision) + rows * columns + rows,))

    return at


def _unpadded(rows: int, columns: int, width: int, height: int) -> tuple[int, int]:
    if width / height > columns / rows:
        return rows - (rows - int(round(height * (columns / width), 7))) // 2 * 2, columns
    return rows, columns - (columns - int(round(width * (rows / height), 7))) // 2 * 2


def _largest_area(vision: Vision, side: int) -> int | None:
    """Return the most tokens of all tiles, where LLaVA-OneVision's `anyres_max_9` sets it."""
    setting = str(getattr(vision.config, "vision_aspect_ratio", ""))
    return int(setting.removeprefix("anyres_max_")) * side**2 if setting.startswith("anyres_max_") else None


def _at_most(rows: int, columns: int, area: int | None) -> tuple[int, int]:
    ratio = 1.0 if area is None else math.sqrt(rows * columns / area)
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def granite_side(vision: Vision) -> int:
    """Return the tokens along a side of one tile of Granite 4 Vision, whose windows are merged by `downsample_rate`."""
    merged, of = (int(part) for part in str(vision.config.downsample_rate or "1/1").split("/"))
    return encoder_side(vision) * merged // of


def _area_of(size: Any) -> int:
    return int(size[0]) * int(size[1])


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)
