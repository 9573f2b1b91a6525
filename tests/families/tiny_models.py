"""Tiny models of each family with random weights, built from its own config class and saved as a user's folder would be."""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    GenerationConfig,
    Glm4vImageProcessorPil,
    Glm46VImageProcessorPil,
    PreTrainedTokenizerBase,
)

HIDDEN, LAYERS = 64, 6
GLM = {"glm4v": Glm4vImageProcessorPil, "glm46v": Glm46VImageProcessorPil}
ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}

VISION = {
    "depth": 2, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": HIDDEN, "patch_size": 8,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
OF_VISION = {
    "qwen2_vl": {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2},
    "qwen2_5_vl": {"hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]},
    "exaone4_5": {"hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1], "num_key_value_heads": 2},
    "qwen3_vl": {"hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    "qwen3_5": {"hidden_size": 32, "num_position_embeddings": 64},
    "glm4v": {"hidden_size": 32, "image_size": 64},
}
OF_VISION |= {
    "qwen3_vl_moe": OF_VISION["qwen3_vl"],
    "qwen3_5_moe": OF_VISION["qwen3_5"],
    "glm46v": OF_VISION["glm4v"],
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "rope_parameters": {**ROTARY, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
}  # fmt: skip
OF_TEXT = {
    "qwen3_vl": {"rope_parameters": {**ROTARY, "mrope_interleaved": True}},
    "qwen3_vl_moe": {"rope_parameters": {**ROTARY, "mrope_interleaved": True}, **EXPERTS},
    "qwen3_5": LINEAR,
    "qwen3_5_moe": {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32},
    "exaone4_5": {"layer_types": ["sliding_attention", "full_attention"] * 3, "sliding_window": 4096},
}  # fmt: skip


def save_tiny_model(
    family: str, folder: Path, *, tokenizer: PreTrainedTokenizerBase, qwen_processor: object, embedded_config: object
) -> Path:
    """Save a model of this family with six blocks, the embedded model's tokenizer and an image processor for its patches."""
    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer) + 8, "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_parameters": ROTARY,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
        **OF_TEXT.get(family, {}),
    }  # fmt: skip
    ids = {
        name: getattr(embedded_config, name)
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    ids |= {"image_start_token_id": ids["vision_start_token_id"], "image_end_token_id": ids["vision_end_token_id"]}
    ids |= {"video_start_token_id": ids["video_token_id"], "video_end_token_id": ids["video_token_id"]}
    config = AutoConfig.for_model(
        family, text_config=text, vision_config={**VISION, **OF_VISION.get(family, {})}, **ids
    )
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    patches = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    if family in GLM:
        processor = GLM[family](size={"shortest_edge": 2 * 16**2, "longest_edge": 2 * 64 * 16**2}, **patches)
    else:
        processor = AutoImageProcessor.from_pretrained(
            qwen_processor, backend="pil", size={"shortest_edge": 16**2, "longest_edge": 64 * 16**2}, **patches
        )
    processor.save_pretrained(folder)
    return folder
