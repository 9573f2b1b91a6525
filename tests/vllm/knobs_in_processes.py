"""Run by the tests in a process of its own: two tensor-parallel processes with drafts of n-grams, beside transformers.

    python knobs_in_processes.py FOLDER

Prints one JSON line: by request how far the log-probabilities are off and whether the tokens are the likeliest; steps of each
process by kind; the numbers of decodes that were drafted and of steps.
"""

import json
import sys
from itertools import product
from pathlib import Path
from random import Random

import torch
from knob_oracle import Transformers
from real_engine import TOLERANCE
from tiny_moe import write_tiny_moe
from vllm import LLM, SamplingParams

from paceline.schedule.step_log import read_step_log
from paceline.vllm_plugin.request_knobs import ACTIVE_BLOCKS, TOP_K, RequestKnobs

RANKING, NEW_TOKENS = (4, 2, 3, 1), 16
KNOBS = [RequestKnobs(k, blocks) for k, blocks in product((1, 2, 4), (2, 3, 4, 6))]


def prompts():
    """Prompts that repeat themselves, so that n-grams find drafts, of one to three chunks."""
    random = Random(5)
    return [(random.choices(range(512), k=7) * 40)[: random.choice([20, 60, 150])] for _ in KNOBS]


def served(folder, log):
    engine = LLM(
        str(folder),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_seqs=12,
        max_num_batched_tokens=96,
        block_size=32,
        num_gpu_blocks_override=100,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        worker_cls="paceline.vllm_plugin.worker",
        scheduler_cls="paceline.vllm_plugin.scheduler",
        additional_config={"paceline": {"block_ranking": list(RANKING), "step_log": str(log), "policy": "srtf"}},
        speculative_config={
            **{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
        },
    )
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=NEW_TOKENS,
            ignore_eos=True,
            detokenize=False,
            logprobs=3,
            extra_args={TOP_K: knobs.top_k, ACTIVE_BLOCKS: knobs.num_active_blocks},
        )
        for knobs in KNOBS
    ]
    asked = [{"prompt_token_ids": prompt} for prompt in prompts()]
    outputs = engine.generate(asked, params, use_tqdm=False)
    return [output.outputs[0] for output in outputs], engine.collective_rpc("paceline_steps")


def main(folder):
    model = write_tiny_moe(folder / "model", layers=6)
    answers, steps = served(model, folder / "steps.jsonl")
    oracle = Transformers(model, RANKING)
    found = []
    for knobs, prompt, answer in zip(KNOBS, prompts(), answers, strict=True):
        tokens = list(answer.token_ids)
        expected = oracle.logprobs(knobs, prompt, tokens)
        native = oracle.logprobs(RequestKnobs(), prompt, tokens)
        places = range(len(tokens))
        given = torch.tensor([answer.logprobs[place][token].logprob for place, token in enumerate(tokens)])
        found.append(
            {
                "off": float((given - expected[places, tokens]).abs().max()),
                "native_off": float((given - native[places, tokens]).abs().max()),
                "native": knobs == KNOBS[-1],
                "tokens": bool((expected.max(-1).values - expected[places, tokens]).max() < TOLERANCE),
            }
        )
    log = read_step_log(folder / "steps.jsonl")
    drafted = sum(step.decode_tokens > len(step.decoding) for step in log)
    sys.stdout.write(json.dumps({"requests": found, "steps": steps, "drafted": drafted, "logged": len(log)}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
