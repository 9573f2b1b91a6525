"""Write a tiny mixture-of-experts language model for serving tests and benchmarks: random weights, real times.

    python benchmarks/tiny_moe.py FOLDER [--layers 6] [--hidden 64] [--experts 8] [--top-k 4]

It has no tokenizer: engines take it with token ids (`skip_tokenizer_init`). Its answers mean nothing.
"""

import argparse
from pathlib import Path

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

SEED = 3407


def write_tiny_moe(
    folder: Path, *, layers: int = 6, hidden: int = 64, experts: int = 8, top_k: int = 4, vocabulary: int = 512
) -> Path:
    """Write a Qwen3-MoE with random float32 weights; the same arguments write the same weights."""
    config = Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        moe_intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 32),
        num_key_value_heads=max(1, hidden // 64),
        head_dim=32,  # pyright: ignore[reportCallIssue]
        num_experts=experts,
        num_experts_per_tok=top_k,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        max_position_embeddings=8192,
        initializer_range=0.1,  # well above the usual: the greedy text of a random model then varies
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def main() -> None:
    """Write the model and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=4)
    arguments = parser.parse_args()
    folder = write_tiny_moe(
        arguments.folder,
        layers=arguments.layers,
        hidden=arguments.hidden,
        experts=arguments.experts,
        top_k=arguments.top_k,
    )
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
