"""Run by the tests in a process of its own: the embedded model in vLLM, 27 configurations at once, beside transformers.

    python picture_knobs.py FOLDER

Prints one JSON line: by request the equality of prompts and tokens, and the largest difference of log-probabilities.
"""

import json
import sys
from itertools import product

import torch

from paceline.datasets.digits import digit_questions
from paceline.models.knobs import applied
from paceline.models.loading import EMBEDDED, load_model
from paceline.records import KnobConfig

TIERS, TOP_KS, BLOCKS, NEW_TOKENS = ("low", "medium", "high"), (1, 4, 8), (8, 12, 16), 8
CONFIGS = [KnobConfig(tier=t, top_k=k, num_active_blocks=b) for t, k, b in product(TIERS, TOP_KS, BLOCKS)]


def asked():
    names = ("digits_read", "digits_count", "digits_exist")
    questions = [each for name in names for each in digit_questions(name, split="test", count=9, seed=7)]
    return [(config, questions[(7 * number) % len(questions)]) for number, config in enumerate(CONFIGS)]


@torch.no_grad()
def reference(model, config, question):
    """Return the prompt's tokens, the likeliest tokens after it and all log-probabilities, by transformers under `applied`."""
    inputs = model.prepare(question.picture, question.prompt, config.tier).inputs
    with applied(model.parts, config, model.block_ranking):
        out = model.parts.model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=10_000,  # none of the vocabulary: decoding goes on
            output_logits=True,
            return_dict_in_generate=True,
        )
    prompt = inputs["input_ids"][0].tolist()
    return prompt, out.sequences[0, len(prompt) :].tolist(), torch.stack(out.logits)[:, 0].float().log_softmax(-1)


def served(folder, model, cases):
    from vllm import LLM, SamplingParams

    engine = LLM(
        folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=32,
        max_num_batched_tokens=256,
        block_size=32,
        limit_mm_per_prompt={"image": 1, "video": 0},
        max_logprobs=64,
        worker_cls="paceline.vllm_plugin.worker",
        scheduler_cls="paceline.vllm_plugin.scheduler",
        additional_config={"paceline": {"block_ranking": list(model.block_ranking), "policy": "srtf"}},
    )
    prompts, params = [], []
    for config, question in cases:
        plan = model.unencoded(question.picture, question.prompt, config.tier)
        prompts.append(
            {
                "prompt": f"<|vision_start|><|image_pad|><|vision_end|>{question.prompt}<answer>",
                "multi_modal_data": {"image": question.picture.convert("RGB")},
                "mm_processor_kwargs": dict(plan.arguments),
            }
        )
        extra = {"paceline_top_k": config.top_k, "paceline_active_blocks": config.num_active_blocks}
        params.append(
            SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=64, extra_args=extra)
        )
    turns = [engine.generate(prompts, params, use_tqdm=False) for _ in range(2)]  # again, with prefixes cached
    [steps] = engine.collective_rpc("paceline_steps")
    return turns, steps


def main(folder):
    model = load_model("digits", device="cpu", dtype="float32")
    cases = asked()
    expected = [reference(model, config, question) for config, question in cases]
    turns, steps = served(folder, model, cases)
    found = []
    for outputs in turns:
        for output, (prompt, tokens, logprobs) in zip(outputs, expected, strict=True):
            answer = output.outputs[0]
            off = max(
                abs(entry.logprob - float(logprobs[place][token]))
                for place, row in enumerate(answer.logprobs)
                for token, entry in row.items()
            )
            found.append(
                {
                    "prompt": list(output.prompt_token_ids) == prompt,
                    "lengths": [len(output.prompt_token_ids), len(prompt)],
                    "tokens": list(answer.token_ids) == tokens,
                    "off": off,
                    "cached": output.num_cached_tokens or 0,
                }
            )
    sys.stdout.write(json.dumps({"requests": found, "steps": steps}) + "\n")


if __name__ == "__main__":
    assert EMBEDDED["digits"].is_dir()
    main(sys.argv[1])
