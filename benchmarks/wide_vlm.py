"""Write a vision-language mixture of experts whose kernels dominate a step: random weights, real times.

    python benchmarks/wide_vlm.py FOLDER [--blocks 16] [--hidden 512] [--experts 32] [--expert-width 192]

The embedded model's architecture (Qwen3-VL-MoE), tokenizer and picture processor, wider. transformers and vLLM read the same
folder: experts are stored as vLLM wants them, and transformers turns them by their shape, which is why the width of an expert
is neither that of the model nor half of it. Its answers mean nothing.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, Qwen3VLMoeForConditionalGeneration

from paceline.models.loading import EMBEDDED
from paceline.vllm_plugin.checkpoints import write_for_vllm

SEED = 3407
TOP_K = 8
PROCESSOR = "preprocessor_config.json"
CAPS = {"low": 64, "medium": 144, "high": 256}  # image tokens
TOKENIZER = (
    "chat_template.jinja",
    "generation_config.json",
    PROCESSOR,
    "tokenizer.json",
    "tokenizer_config.json",
)


def write_wide_vlm(
    folder: Path, *, blocks: int = 16, hidden: int = 512, experts: int = 32, expert_width: int = 192
) -> Path:
    """Write the model with random float32 weights; the same arguments write the same weights."""
    config = AutoConfig.from_pretrained(EMBEDDED["digits"])
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.moe_intermediate_size = hidden, 2 * hidden, expert_width
    text.num_hidden_layers, text.num_local_experts, text.num_experts_per_tok = blocks, experts, TOP_K
    text.num_experts, text.norm_topk_prob = experts, True
    text.num_attention_heads, text.num_key_value_heads = hidden // 32, hidden // 64
    text.initializer_range = 0.1  # well above the usual: the greedy text of a random model then varies
    config.vision_config.out_hidden_size = hidden
    config.dtype = text.dtype = "float32"
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "made"
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            Qwen3VLMoeForConditionalGeneration(config).float().save_pretrained(made)
        for name in TOKENIZER:
            shutil.copy(EMBEDDED["digits"] / name, made)
        processor = json.loads(
            (made / PROCESSOR).read_text()
        )  # asked for nothing it gives the tokens of its largest tier
        side = processor["patch_size"] * processor["merge_size"]
        processor["size"]["longest_edge"] = CAPS["high"] * side**2
        (made / PROCESSOR).write_text(json.dumps(processor, indent=2) + "\n")
        ranking = [block for block in range(blocks - 1, 0, -2)] + [block for block in range(blocks - 2, 0, -2)]
        settings = {
            "tier_token_caps": CAPS,
            "default_top_ks": [2, 4, 8],
            "default_block_counts": [blocks // 2, 3 * blocks // 4, blocks],
            "block_ranking": ranking,
        }
        (made / "paceline.json").write_text(json.dumps(settings, indent=2) + "\n")
        write_for_vllm(made, folder)
    return folder


def main() -> None:
    """Write the model and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--expert-width", type=int, default=192)
    given = parser.parse_args()
    write_wide_vlm(
        given.folder, blocks=given.blocks, hidden=given.hidden, experts=given.experts, expert_width=given.expert_width
    )
    print(f"wrote {given.folder}")


if __name__ == "__main__":
    main()
