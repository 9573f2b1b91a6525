"""Tiny models of each family with random weights, built from its own config class and saved as a user's folder would be.

Every text decoder has six blocks, every picture a handful of tokens. A family's entry says what differs: the parts of its
configuration, its image processor, and what its chat template writes for a picture.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedTokenizerBase

from paceline.models.remote_code import RemoteCode, code_hash, code_sources

STANDIN = Path(__file__).parent / "molmo_standin"
HIDDEN, LAYERS = 64, 6
CAPS = {"low": 9, "medium": 20, "high": 36}
ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
INTERLEAVED = {**ROTARY, "mrope_interleaved": True}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "rope_parameters": {**INTERLEAVED, "partial_rotary_factor": 1.0},
}  # fmt: skip
QWEN_VISION = {
    "depth": 2, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": HIDDEN, "patch_size": 8,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 32,
}  # fmt: skip
WINDOWS = {"window_size": 32, "fullatt_block_indexes": [1]}
POSITIONS = {"num_position_embeddings": 64}
PATCHES = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
AREA_SIZE = {"shortest_edge": 16**2, "longest_edge": 64 * 16**2}
FRAMES_SIZE = {"shortest_edge": 2 * 16**2, "longest_edge": 2 * 64 * 16**2}
TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
CLIP, SIGLIP = {"model_type": "clip_vision_model", **TOWER}, {"model_type": "siglip_vision_model", **TOWER}
MOLMO_CAPS = {"low": 36, "medium": 81, "high": 144}  # 4, 9 and 16 pieces of 9 pooled patches
TILE = {"height": 32, "width": 32}
CROPS = {"base_image_input_size": [24, 24], "image_patch_size": 4, "overlap_margins": [2, 2], "max_crops": 15}
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
MARKERS = (
    "<image>", "<img>", "</img>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE_GLOBAL",
    *(f"TILE_{number}" for number in range(1, 13)), "[IMG_BREAK]", "[IMG_END]", "<fake_token_around_image>",
    "<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
    "<start_of_image>", "<end_of_image>", "<begin_of_image>", "<IMG_START>", "<IMG_GRID>", "<IMG_ROW>", "<IMG_COL>",
    "<IMG_END>", "<im_start>", "<im_end>", "<im_patch>", "<im_col>",
    "<image_id>", "</image_id>", "</image>", "<slice>", "</slice>",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """What a family's tiny model is built from; `config` are the parts beside the text decoder and the token ids."""

    processor: str
    processor_arguments: dict[str, Any]
    text: dict[str, Any] = field(default_factory=lambda: {"model_type": "llama"})
    vision: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    ids: Callable[[Callable[[str], int]], dict[str, Any]] = lambda token: {}
    written: str | None = None
    caps: dict[str, int] = field(default_factory=lambda: CAPS)
    model_type: str | None = None


def area(
    text: dict[str, Any], vision: dict[str, Any], *, processor: str = "Qwen2VL", frames: bool = False, **rest: Any
) -> Tiny:
    arguments = {"size": FRAMES_SIZE if frames else AREA_SIZE, **PATCHES, **rest.pop("arguments", {})}
    return Tiny(
        processor=f"{processor}ImageProcessorPil", processor_arguments=arguments, text=text,
        vision={**QWEN_VISION, **vision}, **rest,
    )  # fmt: skip


# widths of latent attention, whose defaults are those of large models
NARROW = {
    "head_dim": 16, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
GLM_TEXT = {"rope_parameters": {**ROTARY, "partial_rotary_factor": 1.0}}
TINY: dict[str, Tiny] = {
    "qwen2_vl": area({}, {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}),
    "qwen2_5_vl": area({}, WINDOWS),
    "qwen3_vl": area({"rope_parameters": INTERLEAVED}, {**POSITIONS, "deepstack_visual_indexes": [0]}),
    "qwen3_vl_moe": area({"rope_parameters": INTERLEAVED, **EXPERTS}, {**POSITIONS, "deepstack_visual_indexes": [0]}),
    "qwen3_5": area(LINEAR, POSITIONS),
    "qwen3_5_moe": area({**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32}, POSITIONS),
    "exaone4_5": area(
        {"model_type": "exaone4", "layer_types": ["sliding_attention", "full_attention"] * 3, "sliding_window": 4096},
        {**WINDOWS, "num_key_value_heads": 2},
    ),
    "glm4v": area({}, {"image_size": 64}, processor="Glm4v", frames=True),
    "glm46v": area({}, {"image_size": 64}, processor="Glm46V", frames=True),
    "glm4v_moe": area(
        {
            "n_routed_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 32, "n_shared_experts": 1,
            "first_k_dense_replace": 1, **GLM_TEXT,
        },
        {"image_size": 64}, processor="Glm4v", frames=True,
    ),
    "glmga": area(GLM_TEXT | {"model_type": "glm4v_text"}, {"image_size": 64}, processor="Glmga", frames=True),
    "glm_ocr": area(GLM_TEXT, {"image_size": 64}, processor="Glm46V", frames=True),
    "ernie4_5_vl_moe": area(
        {
            "moe_intermediate_size": [32, 32], "moe_k": 4, "moe_num_experts": 8, "moe_num_shared_experts": 1,
            "mlp_layer_types": ["dense", *["sparse"] * 5], "rope_parameters": {**ROTARY, "mrope_section": [3, 3, 2]},
        },
        {}, processor="Ernie4_5_VLMoe", arguments={"temporal_patch_size": 1},
    ),
    "hyperclovax_vision_v2": area({"model_type": "hyperclovax"}, {**WINDOWS, "model_type": "qwen2_5_vl_vision"}),
    "paddleocr_vl": area(
        {}, {**TOWER, "image_size": 64, "spatial_merge_size": 2}, processor="PaddleOCRVL",
        arguments={"temporal_patch_size": 1},
    ),
    "video_llama_3": area(
        {"model_type": "qwen2"}, {**TOWER, "model_type": "video_llama_3_vision"}, processor="VideoLlama3",
        arguments={"temporal_patch_size": 1},
    ),
    "cosmos3_edge": area(
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}},
        {**TOWER, "num_patches": 16}, processor="Cosmos3Edge", arguments={"temporal_patch_size": 1},
        config={"projector_hidden_size": 64},
    ),
    "cosmos3_omni": area({"rope_parameters": INTERLEAVED}, {**POSITIONS, "deepstack_visual_indexes": [0]}),
    "lfm3_vl": area(
        {"model_type": "lfm3", "layer_types": ["conv", "sliding_attention", "full_attention"] * 2, "sliding_window": 4096,
         "rope_parameters": None, "conv_L_cache": 3},
        {**TOWER, "num_key_value_heads": 1}, config={"projector_hidden_size": 64},
    ),
    "dots3_note": area(
        {
            "n_routed_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 32, "shared_experts_intermediate_size": 32,
            "num_key_value_heads": 4, "rope_parameters": None, "sliding_window": 4096, "index_head_dim": 16, "index_n_heads": 2,
            **NARROW, **{f"swa_{name}": value for name, value in NARROW.items()},
            **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads"), 4),
        },
        {
            **TOWER, "adapter_in_dim": 32, "adapter_out_dim": HIDDEN, "mlp_layer_types": ["dense", "dense"],
            "spatial_merge_size": 2,
        },
        arguments={"temporal_patch_size": 1},
        config={"audio_config": {
            "adapter_out_dim": HIDDEN, "hidden_size": 32, "adapter_input_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2,
        }},
    ),
    "cohere_compass": area(
        {
            "rope_parameters": {
                kind: {**ROTARY, "mrope_section": [3, 3, 2]} for kind in ("full_attention", "sliding_attention")
            },
            "sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"] * 3,
        },
        POSITIONS | {"deepstack_visual_indexes": [0]}, processor="CohereCompass",
    ),
    "llava": Tiny(processor="CLIPImageProcessorPil",
        processor_arguments={"size": {"shortest_edge": 32}, "crop_size": TILE}, vision=CLIP),
    "vipllava": Tiny(
        processor="CLIPImageProcessorPil", processor_arguments={"size": {"shortest_edge": 32}, "crop_size": TILE},
        vision=CLIP, config={"vision_feature_layers": [-1, -2]},
    ),
    "pixtral": Tiny(
        processor="PixtralImageProcessorPil", processor_arguments={"size": {"longest_edge": 64}, "patch_size": 8},
        vision={**TOWER, "model_type": "pixtral", "head_dim": 16, "image_size": 64}, model_type="llava",
        config={"vision_feature_select_strategy": "full", "vision_feature_layer": -1},
    ),
    "mistral3": Tiny(
        processor="PixtralImageProcessorPil", processor_arguments={"size": {"longest_edge": 128}, "patch_size": 8},
        vision={**TOWER, "model_type": "pixtral", "head_dim": 16, "image_size": 128}, text={"model_type": "mistral"},
    ),
    "lighton_ocr": Tiny(
        processor="PixtralImageProcessorPil", processor_arguments={"size": {"longest_edge": 128}, "patch_size": 8},
        vision={**TOWER, "model_type": "pixtral", "head_dim": 16, "image_size": 128}, text={"model_type": "qwen3"},
    ),
    "llava_next": Tiny(
        processor="LlavaNextImageProcessorPil",
        processor_arguments={"size": {"shortest_edge": 32}, "crop_size": TILE, "image_grid_pinpoints": PINPOINTS},
        vision=CLIP, config={"image_grid_pinpoints": PINPOINTS}, caps={"low": 64, "medium": 80, "high": 108},
    ),
    "llava_next_video": Tiny(
        processor="LlavaNextImageProcessorPil",
        processor_arguments={"size": {"shortest_edge": 32}, "crop_size": TILE, "image_grid_pinpoints": PINPOINTS},
        vision=CLIP, config={"image_grid_pinpoints": PINPOINTS}, caps={"low": 64, "medium": 80, "high": 108},
    ),
    "llava_onevision": Tiny(
        processor="LlavaOnevisionImageProcessorPil",
        processor_arguments={"size": TILE, "image_grid_pinpoints": [[32 * a, 32 * b] for a in range(1, 4) for b in range(1, 4)]},
        vision=SIGLIP, text={"model_type": "qwen2"},
        config={
            "image_grid_pinpoints": [[32 * a, 32 * b] for a in range(1, 4) for b in range(1, 4)],
            "vision_aspect_ratio": "anyres_max_4",
        },
        caps={"low": 64, "medium": 80, "high": 108},
    ),
    "granite4_vision": Tiny(
        processor="LlavaNextImageProcessorPil",
        processor_arguments={"size": TILE, "crop_size": TILE, "do_center_crop": False, "image_grid_pinpoints": PINPOINTS},
        text={}, vision={**SIGLIP, "hidden_size": 64},  # a head of its queries is 64 wide since transformers 5.20
        config={
            "image_grid_pinpoints": PINPOINTS, "vision_feature_select_strategy": "full", "vision_feature_layer": -1,
            "downsample_rate": "1/2", "deepstack_layer_map": [[-1, 0]], "spatial_vision_layer": -1,
            "spatial_target_layers": [1, 2, 3, 4],
            "qformer_config": {
                "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 64,
                "encoder_hidden_size": 64,
            },
        },
        caps={"low": 20, "medium": 26, "high": 36},
    ),
    "internvl": Tiny(
        processor="GotOcr2ImageProcessorPil", processor_arguments={"size": TILE, "max_patches": 12},
        vision={**TOWER, "image_size": [32, 32], "patch_size": [8, 8]}, text={"model_type": "qwen2"},
    ),
    "qianfan_ocr": Tiny(
        processor="GotOcr2ImageProcessorPil", processor_arguments={"size": TILE, "max_patches": 12},
        vision={**TOWER, "image_size": [32, 32], "patch_size": [8, 8]}, text={"model_type": "qwen3"}, written="<image>",
    ),
    "aya_vision": Tiny(
        processor="GotOcr2ImageProcessorPil", processor_arguments={"size": TILE, "max_patches": 12},
        vision=SIGLIP, text={"model_type": "cohere2", "sliding_window": 4096}, written="<image>",
    ),
    "got_ocr2": Tiny(
        processor="GotOcr2ImageProcessorPil", processor_arguments={"size": {"height": 64, "width": 64}, "max_patches": 12},
        vision={
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64,
        },
        text={"model_type": "qwen2"},
    ),
    "pp_chart2table": Tiny(
        processor="PPChart2TableImageProcessorPil", processor_arguments={"size": {"height": 64, "width": 64}},
        vision={
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64,
        },
        text={"model_type": "qwen2"},
    ),
    "granite_docling": Tiny(
        processor="GraniteDoclingImageProcessorPil", processor_arguments={"size": TILE, "max_patches": 9},
        vision={**TOWER, "out_hidden_size": HIDDEN, "scale_factor": 2, "deepstack_visual_indexes": [0]},
        text={"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, caps={"low": 9, "medium": 22, "high": 48},
    ),
    "ovis2": Tiny(
        processor="Ovis2ImageProcessorPil", processor_arguments={"size": TILE, "max_patches": 9},
        vision={**TOWER, "vocab_size": 64, "hidden_stride": 2}, text={"model_type": "qwen2"}, written="<image>",
        config={"hidden_size": HIDDEN},
        ids=lambda token: {
            "visual_indicator_token_ids": [
                token(f"<IMG_{name}>") for name in ("START", "GRID", "COL", "ROW", "END")
            ],
        },
    ),
    "idefics2": Tiny(
        processor="Idefics2ImageProcessorPil",
        processor_arguments={"size": {"longest_edge": 32, "shortest_edge": 16}, "do_image_splitting": True},
        vision={**TOWER}, text={"model_type": "mistral"},
        config={"perceiver_config": {
            "hidden_size": HIDDEN, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2,
            "resampler_head_dim": 16, "num_key_value_heads": 1,
        }},
    ),
    "idefics3": Tiny(
        processor="Idefics3ImageProcessorPil",
        processor_arguments={"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}},
        vision={**TOWER}, caps={"low": 9, "medium": 22, "high": 48},
    ),
    "smolvlm": Tiny(
        processor="SmolVLMImageProcessorPil",
        processor_arguments={"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}},
        vision={**TOWER}, caps={"low": 9, "medium": 22, "high": 48},
    ),
    "gemma3": Tiny(
        processor="Gemma3ImageProcessorPil", processor_arguments={"size": TILE}, vision=SIGLIP,
        text={"model_type": "gemma3_text", "sliding_window": 4096, "query_pre_attn_scalar": 16}, written="<start_of_image>",
        config={"mm_tokens_per_image": 4}, caps={"low": 20, "medium": 70, "high": 90},
        ids=lambda token: {"boi_token_index": token("<start_of_image>"), "eoi_token_index": token("<end_of_image>")},
    ),
    "gemma4": Tiny(
        processor="Gemma4ImageProcessorPil",
        processor_arguments={"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        vision={
            **TOWER, "num_key_value_heads": 2, "head_dim": 16, "pooling_kernel_size": 2, "position_embedding_size": 512,
            "patch_size": 8,
        },
        text={
            "model_type": "gemma4_text", "sliding_window": 4096, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 3, "global_head_dim": 16,
        },
        ids=lambda token: {"boi_token_id": token("<start_of_image>"), "eoi_token_id": token("<end_of_image>")},
        caps={"low": 72, "medium": 142, "high": 282},
    ),
    "gemma4 with experts": Tiny(
        processor="Gemma4ImageProcessorPil",
        processor_arguments={"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        vision={
            **TOWER, "num_key_value_heads": 2, "head_dim": 16, "pooling_kernel_size": 2, "position_embedding_size": 512,
            "patch_size": 8,
        },
        text={
            "model_type": "gemma4_text", "sliding_window": 4096, "hidden_size_per_layer_input": 0, "enable_moe_block": True,
            "num_experts": 8, "top_k_experts": 4, "moe_intermediate_size": 32,
        },
        ids=lambda token: {"boi_token_id": token("<start_of_image>"), "eoi_token_id": token("<end_of_image>")},
        caps={"low": 72, "medium": 142, "high": 282}, model_type="gemma4",
    ),
    "paligemma": Tiny(
        processor="SiglipImageProcessorPil", processor_arguments={"size": TILE, "image_seq_length": 16}, vision=SIGLIP,
        text={"model_type": "gemma"}, config={"projection_dim": HIDDEN},
    ),
    "aria": Tiny(
        processor="AriaImageProcessorPil", processor_arguments={"max_image_size": 980, "min_image_size": 336},
        text={"moe_num_experts": 8, "moe_topk": 4, "moe_num_shared_experts": 1, "model_type": "aria_text"},
        vision={**TOWER, "image_size": 980, "patch_size": 70},
        config={"projector_patch_to_query_dict": {49: 4, 196: 8}}, caps={"low": 6, "medium": 20, "high": 36},
    ),
    "molmo": Tiny(processor="", processor_arguments=CROPS, caps=MOLMO_CAPS),
    "molmo with experts": Tiny(
        processor="", processor_arguments=CROPS, config={"moe_num_experts": 8, "moe_top_k": 4}, caps=MOLMO_CAPS,
    ),
    "janus": Tiny(
        processor="JanusImageProcessorPil", processor_arguments={"size": TILE},
        vision={**TOWER, "projection_dim": HIDDEN, "num_image_tokens": 16},
        config={"vq_config": {
            "embed_dim": 4, "num_embeddings": 16, "latent_channels": 32, "base_channels": 32, "channel_multiplier": [1, 1],
            "num_res_blocks": 1, "num_patches": 4, "projection_dim": HIDDEN, "image_token_embed_dim": HIDDEN,
        }},
    ),
    "deepseek_vl": Tiny(processor="DeepseekVLImageProcessorPil", processor_arguments={"size": TILE}, vision=SIGLIP),
    "deepseek_vl_hybrid": Tiny(
        processor="DeepseekVLHybridImageProcessorPil",
        processor_arguments={"size": TILE, "high_res_size": {"height": 64, "width": 64}}, vision=SIGLIP,
        config={"high_res_vision_config": {
            "model_type": "sam_vision_model", "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1],
            "mlp_dim": 64,
        }},
    ),
    "minicpmv4_7": Tiny(
        processor="MiniCPMV4_6ImageProcessorPil",
        processor_arguments={"scale_resolution": 64, "patch_size": 8, "max_slice_nums": 9},
        vision={**TOWER, "image_size": 64, "num_hidden_layers": 3}, text={"model_type": "qwen3_5_text", **LINEAR},
        config={"insert_layer_id": 1, "image_size": 64}, caps={"low": 20, "medium": 40, "high": 64},
    ),
    "video_llava": Tiny(
        processor="VideoLlavaImageProcessor",
        processor_arguments={"size": {"shortest_edge": 32}, "crop_size": TILE}, vision=CLIP,
    ),
    "minicpmv4_6": Tiny(
        processor="MiniCPMV4_6ImageProcessorPil",
        processor_arguments={"scale_resolution": 64, "patch_size": 8, "max_slice_nums": 9},
        vision={**TOWER, "image_size": 64, "num_hidden_layers": 3}, text={"model_type": "qwen3_5_text", **LINEAR},
        config={"insert_layer_id": 1, "image_size": 64}, caps={"low": 20, "medium": 40, "high": 64},
    ),
}  # fmt: skip


def save_tiny_model(family: str, folder: Path, *, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Save a model of this family with six blocks, `tokenizer` with every family's markers, and an image processor."""
    torch.manual_seed(0)
    tiny = TINY[family]
    tokenizer.chat_template = _template(tiny.written or "<|vision_start|><|image_pad|><|vision_end|>")
    if family.startswith("molmo"):
        return _save_standin(tiny, folder, tokenizer)
    token = tokenizer.convert_tokens_to_ids
    config = _config(family, tiny, tokenizer, token)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    getattr(transformers, tiny.processor)(**tiny.processor_arguments).save_pretrained(folder)
    return folder


def _save_standin(tiny: Tiny, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Save a model whose code comes with it, as Molmo's does: the stand-in's files beside its weights."""
    tokenizer.chat_template = None
    for path in STANDIN.glob("*.py"):
        shutil.copy(path, folder)
    config = {
        "model_type": "molmo", "architectures": ["OLMoForCausalLM"], "vocab_size": len(tokenizer), **tiny.config,
        "auto_map": {
            "AutoConfig": "config_standin.MolmoConfig", "AutoModelForCausalLM": "modeling_standin.MolmoForCausalLM",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(tiny.processor_arguments))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    code = RemoteCode(name="stand-in", folder=folder, pinned="", sources=code_sources(folder))
    model_class = code.imported("modeling_standin.MolmoForCausalLM")
    model = model_class(model_class.config_class(**config))
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(folder)
    return folder


def trusted(folder: Path) -> str | None:
    """Return what `trust_remote_code` must be for a folder; None where no code is beside its weights."""
    return code_hash(folder) if any(folder.glob("*.py")) else None


def _config(family: str, tiny: Tiny, tokenizer: PreTrainedTokenizerBase, token: Callable[[str], int]) -> Any:
    text = {
        "vocab_size": len(tokenizer) + 8, "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
        **({} if "model_type" in tiny.text else {"rope_parameters": ROTARY}), **tiny.text,
    }  # fmt: skip
    image, video = token("<|image_pad|>"), token("<|video_pad|>")
    start, end = token("<|vision_start|>"), token("<|vision_end|>")
    known = {
        "image_token_id": image, "image_token_index": image, "video_token_id": video, "video_token_index": video,
        "vision_start_token_id": start, "vision_end_token_id": end, "image_start_token_id": start,
        "image_end_token_id": end, "video_start_token_id": video, "video_end_token_id": video,
    }  # fmt: skip
    model_type = tiny.model_type or family
    fields = type(AutoConfig.for_model(model_type)).__dataclass_fields__
    ids = {name: value for name, value in known.items() if name in fields} | tiny.ids(token)
    return AutoConfig.for_model(model_type, text_config=text, vision_config=dict(tiny.vision), **tiny.config, **ids)


def _template(written: str) -> str:
    return (
        "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}{% if part['type'] == "
        f"'image' %}}{written}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}\n{{% endfor %}}assistant: "
    )
