"""Speculation by n-grams: drafts are decodes, and a request may be padded to a whole draft."""

import pytest
from scheduler_swap import with_scheduler
from vllm import SamplingParams, TokensPrompt

from paceline.schedule.step_log import read_step_log
from paceline.vllm_plugin import scheduler as planned
from paceline.vllm_plugin import stock
from paceline.vllm_plugin.replay import OfflineVllm


@pytest.fixture(scope="module")
def answers(tiny_llm, tmp_path_factory):
    """Greedy answers to prompts that repeat themselves, by scheduler; the second half comes when the first is cached."""
    arguments = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_batched_tokens": 128,
        "max_num_seqs": 8,
        "block_size": 32,
        "speculative_config": {
            "method": "ngram",
            "num_speculative_tokens": 3,
            "prompt_lookup_max": 3,
            "prompt_lookup_min": 2,
        },
    }
    prompts = [[(7 * number + place) % 11 + 1 for place in range(40 + 37 * number)] for number in range(6)]
    found = {}
    # one engine only, and after the other tests' engines: with numba loaded, as n-grams need it, vLLM starts no other
    with OfflineVllm.open(str(tiny_llm), None, engine_args=arguments, seed=1) as host:
        for policy in (None, "srtf", "aging"):
            log = tmp_path_factory.mktemp("steps") / "steps.jsonl"
            settings = {"chunk_size": 64, "policy": policy, "min_chunk_threshold": 10} if policy else {}
            config = {"paceline": {"step_log": str(log), **settings}}
            with_scheduler(host.engine, planned if policy else stock, config, blocks=200)
            # the second time every prompt is in the prefix cache but for its end
            found[policy] = [serve(host.engine, prompts), serve(host.engine, prompts)]
            found[policy, "steps"] = read_step_log(log)
    return found


def serve(engine, prompts):
    for number, prompt in enumerate(prompts):
        parameters = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, detokenize=False)
        engine.add_request(str(number), TokensPrompt(prompt_token_ids=prompt), parameters)
    done = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                done[output.request_id] = list(output.outputs[0].token_ids)
    return done


@pytest.mark.parametrize("policy", ["srtf", "aging"])
def test_speculation_changes_no_answer(answers, policy):
    assert answers[policy] == answers[None]
    steps = answers[policy, "steps"]
    assert any(step.decode_tokens > len(step.decoding) for step in steps)  # drafts were verified
    assert any(chunk.context_tokens for step in steps for chunk in step.chunks.values())
