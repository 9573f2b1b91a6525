"""Tiny random models of the families that vLLM serves under knobs, saved as vLLM's own processors want them.

They are those of tests/families, and what vLLM needs beside: a processor of the family, its own token for a picture, heads of 32
(the smallest of vLLM's attention on a CPU), and weights large enough that an expert or a block more or less is seen.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import transformers
from tiny_models import MARKERS, TINY, save_tiny_model
from transformers import AutoImageProcessor, AutoTokenizer

from paceline.models.loading import EMBEDDED, SETTINGS_FILE

RANKING = (1, 4, 2, 5, 3)  # early blocks first: deepstack features are added behind the first ones
HEADS = {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024}
SEEN = {"initializer_range": 0.1}  # well above the usual 0.02
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4]}
INTERLEAVED = {"rope_parameters": {**MROPE, "mrope_interleaved": True}}
TILES = {"low": 12, "medium": 64, "high": 160}
DEEPSTACK = {"depth": 3, "deepstack_visual_indexes": [0, 1]}


@dataclass(frozen=True, kw_only=True)
class Served:
    """What vLLM needs of a family beyond its tiny model: changed parts, a token for a picture, a processor of the family."""

    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    image_token: str | None = None
    processor: Callable[[Any, Any], Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ((160, 120), (90, 200), (64, 64))
    tiers: tuple[str | None, ...] | None = None  # those that vLLM can tell apart, where not all
    caps: dict[str, int] | None = None


def _idefics3(image_processor, tokenizer):
    return transformers.Idefics3Processor(image_processor, tokenizer, image_seq_len=4)


def _smolvlm(image_processor, tokenizer):
    video_processor = transformers.SmolVLMVideoProcessor(**TINY["smolvlm"].processor_arguments)
    return transformers.SmolVLMProcessor(image_processor, tokenizer, video_processor, image_seq_len=4)


def _aria(image_processor, tokenizer):
    return transformers.AriaProcessor(image_processor, tokenizer, size_conversion={490: 3, 980: 8})


SERVED = {
    "qwen2_5_vl": Served(text={"rope_parameters": MROPE}),
    "qwen3_vl": Served(text=INTERLEAVED, vision=DEEPSTACK),
    "qwen3_vl_moe": Served(text=INTERLEAVED, vision=DEEPSTACK),
    "idefics3": Served(image_token="<image>", processor=_idefics3, caps=TILES),
    "smolvlm": Served(image_token="<image>", processor=_smolvlm, caps=TILES),
    # vLLM counts the tokens of the largest picture, whatever `max_image_size` a request gives: another tier ends its engine.
    # Its encoder sees the padding of a picture that is not square, which transformers masks
    "aria": Served(
        image_token="<image>",
        processor=_aria,
        tiers=("high",),
        sizes=((160, 160), (64, 64)),
        caps={"low": 3, "medium": 6, "high": 8},
        config={"projector_patch_to_query_dict": {49: 3, 196: 8}},
    ),
}


def save_for_vllm(family: str, folder: Path) -> Path:
    """Save a tiny model of this family as transformers 5 writes it, with what vLLM's processor of it needs."""
    served, tiny = SERVED[family], TINY[family]
    named = {} if served.image_token is None else {"model_specific_special_tokens": {"image_token": served.image_token}}
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED["digits"], **named)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
    TINY[f"{family} in vLLM"] = replace(
        tiny,
        text={**tiny.text, **HEADS, **SEEN, **served.text},
        vision={**(tiny.vision or {}), **SEEN, **served.vision},
        config={**tiny.config, **served.config},
        written=served.image_token or tiny.written,
        ids=lambda token: {**tiny.ids(token), **_picture_ids(family, served.image_token, token)},
        model_type=tiny.model_type or family,
    )
    save_tiny_model(f"{family} in vLLM", folder, tokenizer=copy.deepcopy(tokenizer))
    settings = {"tier_token_caps": served.caps or tiny.caps, "block_ranking": list(RANKING)}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
    if served.processor is not None:
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        served.processor(image_processor, AutoTokenizer.from_pretrained(folder)).save_pretrained(folder)
    return folder


def _picture_ids(family, image_token, token):
    if image_token is None:
        return {}
    names = type(transformers.AutoConfig.for_model(family)).__dataclass_fields__
    return {name: token(image_token) for name in ("image_token_id", "image_token_index") if name in names}
