"""Run by the tests in a process of its own: tiny models of families in vLLM, all their configurations at once.

    python family_knobs.py FOLDER FAMILY...

Prints one JSON line a family: by request whether the prompt and the tokens are those of transformers under Paceline's own
`applied`, how far the log-probabilities are off, and how far those of the model as it is are.
"""

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from real_engine import TOLERANCE
from tiny_vllm_models import RANKING, SERVED, save_for_vllm
from vllm import LLM, SamplingParams

from paceline.models.knobs import applied
from paceline.models.loading import load_model
from paceline.records import KnobConfig
from paceline.vllm_plugin.checkpoints import TRANSPOSED, write_for_vllm
from paceline.vllm_plugin.relied_on import release_devices

BLOCKS, TOP_KS, NEW_TOKENS = (1, 2, 4, 6), (1, 2, 4), 6
TURNS = 2  # the second time with cached prefixes
ORDINARY = list(range(8, 43))  # tokens that stand for text alone: a picture's would be looked up
SAMPLING = {
    "temperature": 0,
    "max_tokens": NEW_TOKENS,
    "ignore_eos": True,
    "logprobs": 20,
    "allowed_token_ids": ORDINARY,
}


def cases(family, model):
    """Return every configuration, each with a picture and a question."""
    top_ks = TOP_KS if model.parts.routers else (None,)
    tiers, sizes = SERVED[family].tiers or model.tiers, SERVED[family].sizes
    random = np.random.default_rng(3)
    found = []
    for number, (tier, top_k, blocks) in enumerate(product(tiers, top_ks, BLOCKS)):
        width, height = sizes[number % len(sizes)]
        pixels = random.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        config = KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks)
        found.append((config, picture, "Read the digits. " * (1 + 7 * (number % 3))))
    return found


@torch.no_grad()
def logprobs(model, config, inputs, tokens):
    """Return what transformers says before each token that follows a prompt, in one pass without a cache."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)
    kinds = model.parts.token_type_ids(ids, prompt_tokens=inputs["input_ids"].shape[1])
    rest = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask", *kinds)}
    with applied(model.parts, config, RANKING):
        out = model.parts.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **kinds, **rest)
    return out.logits[0, inputs["input_ids"].shape[1] - 1 : -1].float().log_softmax(-1)


def served(folder, model, asked):
    """Return the answers of two turns, and how many steps were native, uniform and mixed."""
    engine = LLM(
        str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=16,
        max_num_batched_tokens=128,
        block_size=32,
        num_gpu_blocks_override=200,
        limit_mm_per_prompt={"image": 1, "video": 0},
        max_logprobs=20,
        worker_cls="paceline.vllm_plugin.worker",
        scheduler_cls="paceline.vllm_plugin.scheduler",
        additional_config={"paceline": {"block_ranking": list(RANKING), "policy": "srtf"}},
    )
    try:
        prompts, params = [], []
        for config, picture, question in asked:
            ready = model.unencoded(picture, question, config.tier)
            prompts.append(
                {
                    "prompt": ready.text,
                    "multi_modal_data": {"image": ready.picture},
                    "mm_processor_kwargs": dict(ready.arguments),
                }
            )
            extra = {"paceline_top_k": config.top_k, "paceline_active_blocks": config.num_active_blocks}
            params.append(SamplingParams(**SAMPLING, extra_args=extra))
        turns = [engine.generate(prompts, params, use_tqdm=False) for _ in range(TURNS)]
        [steps] = engine.collective_rpc("paceline_steps")
    finally:
        engine.llm_engine.engine_core.shutdown()
        release_devices()
    return turns, steps


def compared(model, config, picture, question, output):
    inputs, answer = model.prepare(picture, question, config.tier).inputs, output.outputs[0]
    tokens = list(answer.token_ids)
    expected = logprobs(model, config, inputs, tokens)
    native = logprobs(model, KnobConfig(tier=config.tier, top_k=None, num_active_blocks=None), inputs, tokens)
    given = [(place, token, entry.logprob) for place, row in enumerate(answer.logprobs) for token, entry in row.items()]
    best = expected[:, ORDINARY].max(-1).values
    return {
        "config": config.key,
        "native": config.top_k in (None, model.parts.native_top_k) and config.num_active_blocks == BLOCKS[-1],
        "prompt": list(output.prompt_token_ids) == inputs["input_ids"][0].tolist(),
        # of two that are as good as equally likely either may be taken
        "tokens": all(float(best[place] - expected[place, token]) < TOLERANCE for place, token in enumerate(tokens)),
        "off": max(abs(value - float(expected[place, token])) for place, token, value in given),
        "native_off": max(abs(value - float(native[place, token])) for place, token, value in given),
        "cached": output.num_cached_tokens or 0,
    }


def main(folder, families):
    for family in families:
        source = save_for_vllm(family, folder / family)
        kind = json.loads((source / "config.json").read_text())["model_type"]
        target = write_for_vllm(source, folder / f"{family} for vLLM") if kind in TRANSPOSED else source
        model = load_model(str(source), device="cpu", dtype="float32")
        asked = cases(family, model)
        turns, steps = served(target, model, asked)
        found = [compared(model, *case, output) for turn in turns for case, output in zip(asked, turn, strict=True)]
        sys.stdout.write(json.dumps({"family": family, "requests": found, "steps": steps}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
