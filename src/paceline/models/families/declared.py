"""The families, a few lines each. A new one is an entry here and a tiny model in tests/families."""

from typing import Any

from paceline.models.families import geometry as of
from paceline.models.families.crop_tiling import crop_tiling, rows_of_two
from paceline.models.families.family import Family
from paceline.models.families.joining import Several
from paceline.models.families.layouts import (
    fenced_pieces,
    grid_of_atoms,
    lone_tile,
    numbered_tiles,
    rows,
    rows_and_columns,
    sentences,
    slices,
    wrapped,
)
from paceline.models.families.tier_rules import area, edge, enumerated, fixed, pinpoints, tile_count

# before it, a few image processors for Pillow, and all of the automatic ones, could not be had without torchvision
PILLOW_ALONE = (5, 18)
# the versions under which families are tested that the oldest transformers does not have
VLLMS, NEWEST = (5, 19), (5, 24)
CROPS_LIMITS = (
    "needs `--trust-remote-code`; a cap holds what the encoder pools, (crops + 1) × 144, and what the language model gets of "
    "r × c crops: 144 + (8r + 4)(8c + 4) image tokens and 8r + 20 markers (384, 704 and 1,152 image tokens for 1 × 2, 2 × 3 "
    "and 3 × 4 crops, of which the encoder pools 432, 1,008 and 1,872)"
)
PREFIX_LIMITS = "a prompt sees itself whole, so chunked prefill and hand-made decoding differ from one pass by design"


def _got_ocr_prompt(_tokenizer: Any, picture: str, question: str) -> str:
    return (
        "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail.<|im_end|>"
        f"<|im_start|>user\n<img>{picture}</img>\n{question}<|im_end|><|im_start|>assistant\n"
    )


def _paligemma_prompt(tokenizer: Any, picture: str, question: str) -> str:
    return f"{picture}{tokenizer.bos_token or ''}{question}\n"


def _molmo_prompt(tokenizer: Any, picture: str, question: str) -> str:
    return f"{tokenizer.bos_token or tokenizer.eos_token or ''}{picture} User: {question} Assistant:"


AREA = Family(tiers=area())
NEWEST_AREA = Family(tiers=area(), since=NEWEST)
AREA_AND_FRAMES = Family(tiers=area(frames=True))
INTERNVL = Family(
    tiers=tile_count("max_patches", of.own_tiles, of.cropped(of.shuffled_tokens)), layout=wrapped("<img>", "</img>")
)
EDGE = Family(tiers=edge(of.merged_patch_side), layout=rows("[IMG_BREAK]", "[IMG_END]"))
IDEFICS3 = Family(
    tiers=tile_count("size", of.idefics_most_tiles, of.idefics_tiles),
    layout=rows_and_columns("<fake_token_around_image>", "<row_{row}_col_{column}>", "<global-img>"),
    since=PILLOW_ALONE,
)
# the smallest picture of these is the whole one and tiles of the same size, so SPEC's low tier is out of reach: the tiers hold
# a strip of two tiles, one of three, and a square of four (LLaVA-OneVision: squares of one, four and nine)
ANYRES_336 = {"low": 1776, "medium": 2376, "high": 2952}
ANYRES_384 = {"low": 1512, "medium": 3726, "high": 7380}
LLAVA_NEXT = Family(tiers=pinpoints(of.pinpoint_sizes, of.anyres(of.encoder_side, of.clip_tokens)), caps=ANYRES_336)
MINICPM = Family(
    tiers=tile_count("max_slice_nums", of.own_slices, of.minicpm_slices),
    layout=slices("<image_id>{picture}</image_id><image>", "</image>", "<slice>", "</slice>"),
    several=Several(along={"pixel_values": -1}),
    since=(5, 19),  # before it, the encoder takes no slices of some shapes that its own image processor cuts
)
# LLaVA-OneVision cuts into tiles a picture that is alone; of several each is one square
ONEVISION_SQUARES = Several(tiers=enumerated("size of the picture", of.onevision_square), together=True)
FIXED_PATCHES = Family(tiers=fixed(of.patch_tokens))

FAMILIES: dict[str, Family] = {
    "aria": Family(
        tiers=enumerated("max_image_size, split_image", of.aria_settings),
        several=Several(tiers=enumerated("split_image", of.aria_small_settings)),
        limits="several pictures in one request are encoded at 490 pixels a side",
    ),
    "aya_vision": Family(
        tiers=tile_count("max_patches", of.own_tiles, of.cropped(of.downsampled_tokens)),
        layout=numbered_tiles("<|START_OF_IMG|>", "TILE_{number}", "TILE_GLOBAL", "<|END_OF_IMG|>"),
        placeholder="<image>",
    ),
    "cohere_compass": AREA,
    "cosmos3_edge": AREA_AND_FRAMES,
    "cosmos3_omni": Family(tiers=area(), since=VLLMS),
    "deepseek_vl": FIXED_PATCHES,
    "deepseek_vl_hybrid": FIXED_PATCHES,
    "dots3_note": NEWEST_AREA,
    "ernie4_5_vl_moe": Family(tiers=area(), types="image and markers"),
    "exaone4_5": AREA,
    "gemma3": Family(
        tiers=enumerated("do_pan_and_scan, pan_and_scan_max_num_crops", of.gemma3_crops),
        layout=sentences(
            "Here is the original image ",
            wrapped("\n\n<start_of_image>", "<end_of_image>\n\n"),
            " ",
            " and here are some crops to help you see better ",
        ),
        placeholder="<start_of_image>",
    ),
    "gemma4": Family(
        tiers=enumerated("max_soft_tokens", of.gemma4_levels), layout=wrapped("@boi_token_id", "@eoi_token_id")
    ),
    "glm46v": AREA_AND_FRAMES,
    "glm4v": AREA_AND_FRAMES,
    "glm4v_moe": AREA_AND_FRAMES,
    "glm_ocr": AREA_AND_FRAMES,
    "glmga": AREA_AND_FRAMES,
    "got_ocr2": Family(
        tiers=tile_count("max_patches", of.own_tiles, of.cropped(of.quartered_tokens)), prompt=_got_ocr_prompt
    ),
    "granite_docling": Family(
        tiers=tile_count("max_patches", of.own_tiles, of.docling_tiles),
        layout=lone_tile(
            "<fake_token_around_image>",
            "<row_1_col_1>",
            rows_and_columns("<fake_token_around_image>", "<row_{row}_col_{column}>", "<global-img>"),
        ),
        several=Several(along={"pixel_values": 1, "pixel_attention_mask": 1}),
        since=NEWEST,
    ),
    "granite4_vision": Family(
        tiers=pinpoints(of.pinpoint_sizes, of.anyres(of.granite_side, lambda vision: of.granite_side(vision) ** 2))
    ),
    "hyperclovax_vision_v2": Family(tiers=area(), since=(5, 18)),
    "idefics2": Family(
        tiers=enumerated("do_image_splitting", of.idefics2_settings),
        layout=fenced_pieces("<fake_token_around_image>"),
        since=PILLOW_ALONE,
    ),
    "idefics3": IDEFICS3,
    "internvl": INTERNVL,
    "janus": Family(tiers=fixed(of.patch_tokens), layout=wrapped("<begin_of_image>", "<end_of_image>")),
    "lfm3_vl": NEWEST_AREA,
    "lighton_ocr": Family(tiers=edge(of.merged_patch_side)),
    "llava": Family(tiers=fixed(of.clip_tokens)),
    "llava_next": LLAVA_NEXT,
    "llava_next_video": LLAVA_NEXT,
    "llava_onevision": Family(
        tiers=pinpoints(of.pinpoint_sizes, of.anyres(of.encoder_side, of.clip_tokens)),
        caps=ANYRES_384,
        several=ONEVISION_SQUARES,
        limits="several pictures in one request are one square each, which no tier moves",
    ),
    "minicpmv4_6": MINICPM,
    "minicpmv4_7": MINICPM,
    "mistral3": EDGE,
    "molmo": Family(
        tiers=crop_tiling(),
        layout=rows_of_two,
        prompt=_molmo_prompt,
        places="image_input_idx",
        remote_code=True,
        limits=CROPS_LIMITS,
    ),
    "ovis2": Family(
        tiers=tile_count("max_patches", of.own_tiles, of.ovis_tiles),
        layout=grid_of_atoms("<IMG_START>", "<IMG_GRID>", "<IMG_ROW>", "<IMG_COL>", "<IMG_END>"),
        placeholder="<image>",
        since=PILLOW_ALONE,
    ),
    "paddleocr_vl": AREA,
    "paligemma": Family(
        tiers=fixed(of.patch_tokens), prompt=_paligemma_prompt, types="generated", limits=PREFIX_LIMITS
    ),
    "pixtral": EDGE,
    "pp_chart2table": Family(tiers=fixed(of.quartered_tokens), since=VLLMS),
    "qianfan_ocr": Family(tiers=INTERNVL.tiers, layout=INTERNVL.layout, placeholder="<image>"),
    "qwen2_5_vl": AREA,
    "qwen2_vl": AREA,
    "qwen3_5": AREA,
    "qwen3_5_moe": AREA,
    "qwen3_vl": AREA,
    "qwen3_vl_moe": AREA,
    "smolvlm": IDEFICS3,
    "video_llama_3": AREA,
    # its older processor takes the side of a picture of up to three pixels for colours
    "video_llava": Family(tiers=fixed(of.clip_tokens, smallest_side=4)),
    "vipllava": FIXED_PATCHES,
}
