"""Serving one mixed load with a real engine under whatever scheduler, and comparing answers."""

from collections import deque
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace

from scheduler_swap import with_scheduler
from vllm import SamplingParams, TokensPrompt

from paceline.schedule.step_log import read_step_log
from paceline.vllm_plugin import scheduler as planned

BLOCK_TOKENS = 32  # the smallest that vLLM's attention on a CPU takes
BUDGET, SEQUENCES, CONTEXT = 128, 8, 512
COUNT = 18
LARGE_CACHE, SMALL_CACHE = 400, 20  # blocks; the small one holds the longest request and little more
# float32 sums depend on the composition of a batch: differences of 5e-6 were seen (1.2e-5 on a model of four layers); a
# wrong token or position costs 1e-2 and more
TOLERANCE = 1e-4
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": CONTEXT,
    "max_num_batched_tokens": BUDGET,
    "max_num_seqs": SEQUENCES,
    "block_size": BLOCK_TOKENS,
    "num_gpu_blocks_override": LARGE_CACHE,
}


@dataclass(frozen=True)
class Served:
    answers: dict  # by request: (tokens, log-probabilities, gap to the second most likely)
    steps: tuple


def mixed_load():
    """Long and short prompts, some with a common beginning, that arrive while others decode."""
    random = Random(7)
    common = random.choices(range(512), k=3 * BLOCK_TOKENS)
    load = []
    for number in range(COUNT):
        length = random.choice([3, 20, 60, 150, 300, 400])
        own = random.choices(range(512), k=length)
        load.append(
            (2 * number if number > 8 else 0, (common + own)[:400] if number % 3 == 0 else own, 30 + 2 * number)
        )
    return load


def serve(engine, load, log, *, build=planned, blocks=LARGE_CACHE, **paceline) -> Served:
    with_scheduler(engine, build, {"paceline": {"step_log": str(log), **paceline}}, blocks=blocks)
    pending = deque(sorted(enumerate(load), key=lambda each: each[1][0]))
    answers, names, step = {}, {}, 0
    while pending or engine.has_unfinished_requests():
        while pending and pending[0][1][0] <= step:
            number, (_, prompt, length) = pending.popleft()
            parameters = SamplingParams(
                temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False, logprobs=2
            )
            # arrival times that do not depend on the machine: a step is a second
            tokens = TokensPrompt(prompt_token_ids=prompt)
            names[engine.add_request(str(number), tokens, parameters, arrival_time=float(step))] = str(number)
        for output in engine.step():
            if output.finished:
                answers[output.request_id] = answer(output.outputs[0])
        step += 1
    return Served(answers=answers, steps=tuple(renamed(each, names) for each in read_step_log(log)))


def answer(output):
    ranked = [sorted((entry.logprob for entry in step.values()), reverse=True) for step in output.logprobs]
    chosen = [step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)]
    return list(output.token_ids), chosen, [two[0] - two[1] for two in ranked]


def renamed(step, names):
    return SimpleNamespace(
        chunks={names[name]: chunk for name, chunk in step.chunks.items()},
        preempted=[names[name] for name in step.preempted],
        decode_tokens=step.decode_tokens,
        plan_us=step.plan_us,
    )


def assert_same_answers(ours: Served, theirs: Served):
    """Equal tokens and log-probabilities up to where two tokens are as good as equally likely; that is rare."""
    assert ours.answers.keys() == theirs.answers.keys()
    undecided = 0
    for name, (tokens, logprobs, gaps) in theirs.answers.items():
        for position, expected in enumerate(tokens):
            assert abs(ours.answers[name][1][position] - logprobs[position]) < TOLERANCE, (name, position)
            if ours.answers[name][0][position] != expected:
                assert gaps[position] < TOLERANCE, (name, position)
                undecided += 1
                break
    assert undecided <= len(theirs.answers) // 10
