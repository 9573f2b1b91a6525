"""Write a tiny language model for serving benchmarks: its weights are random, its times are real.

    python benchmarks/tiny_llm.py FOLDER [--layers 4] [--hidden 256] [--vocabulary 512] [--seed 3407]

It has no tokenizer: engines take it with token ids (`skip_tokenizer_init`). Its answers mean nothing.
"""

import argparse
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 3407


def write_tiny_llm(
    folder: Path, *, layers: int = 4, hidden: int = 256, vocabulary: int = 512, positions: int = 8192, seed: int = SEED
) -> Path:
    """Write a Llama with random float32 weights; the same arguments write the same weights."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=positions,
        # well above the usual 0.02: the greedy text of a random model then varies instead of repeating one token
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def main() -> None:
    """Write the model and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    folder = write_tiny_llm(
        arguments.folder,
        layers=arguments.layers,
        hidden=arguments.hidden,
        vocabulary=arguments.vocabulary,
        seed=arguments.seed,
    )
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
