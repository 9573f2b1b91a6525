"""Sampling: the odds asked for, the same answer for the same seed, and the stages of greedy decoding."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_models import adaptive
from scipy.stats import chisquare

from paceline.errors import InvalidValueError
from paceline.measure.clock import HostClock
from paceline.measure.greedy import greedy
from paceline.measure.one_pass import measure_generate
from paceline.measure.sampled import TokenSampler, seeded
from paceline.records import LARGEST_SEED, Sampling

SEEDS = st.integers(0, LARGEST_SEED)
LOGITS = st.lists(st.floats(-6, 6), min_size=2, max_size=12)


def drawn(sampling, logits, times=1):
    sampler, scores_BV = TokenSampler(sampling), torch.tensor([logits], dtype=torch.float32)
    return [int(sampler(torch.zeros(1, 1, dtype=torch.long), scores_BV).argmax()) for _ in range(times)]


@given(logits=LOGITS, seed=SEEDS, temperature=st.floats(1e-3, 100), top_p=st.floats(1e-6, 1))
def test_one_token_is_left_and_it_is_of_the_nucleus(logits, seed, temperature, top_p):
    scores_BV = torch.tensor([logits], dtype=torch.float32)
    found_BV = TokenSampler(Sampling(temperature=temperature, top_p=top_p, seed=seed))(None, scores_BV)
    token = int(found_BV.argmax())
    assert (found_BV > -torch.inf).sum() == 1 and found_BV.shape == scores_BV.shape
    odds_V = torch.softmax(scores_BV[0] / temperature, dim=-1)
    assert odds_V[odds_V > odds_V[token]].sum() < top_p + 1e-6  # what is more probable does not hold the share alone


@given(logits=LOGITS, seed=SEEDS, temperature=st.floats(1e-3, 100), top_p=st.floats(1e-6, 1))
def test_the_same_seed_draws_the_same_tokens(logits, seed, temperature, top_p):
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    first = drawn(sampling, logits, times=5)
    torch.rand(3)  # what others draw meanwhile
    assert drawn(sampling, logits, times=5) == first


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8)])
def test_tokens_are_drawn_by_their_odds(temperature, top_p):
    logits, times = [2.0, 1.0, 0.5, 0.0, -1.0], 4000
    odds_V = torch.softmax(torch.tensor(logits).double() / temperature, dim=-1)
    kept_V = odds_V * (odds_V.cumsum(0) - odds_V < top_p)
    tokens = torch.tensor(drawn(Sampling(temperature=temperature, top_p=top_p, seed=1), logits, times))
    counts = torch.bincount(tokens, minlength=len(logits))
    alive = kept_V > 0
    assert counts[~alive].sum() == 0
    expected = (kept_V / kept_V.sum() * times)[alive]
    assert chisquare(counts[alive], expected * (times / expected.sum())).pvalue > 1e-4


def test_the_same_seed_gives_the_same_answer_while_other_threads_draw(digits, questions):
    model, stop = adaptive(digits), threading.Event()

    def draw():
        while not stop.is_set():
            torch.rand(8)

    other = threading.Thread(target=draw)
    other.start()
    try:
        answers = [ask(model, questions[0], Sampling(temperature=5.0, seed=seed)) for seed in (7, 7, 8, 9, 10)]
    finally:
        stop.set()
        other.join()
    assert answers[0].text == answers[1].text and len({each.text for each in answers}) > 1
    assert answers[0].sampling == Sampling(temperature=5.0, seed=7)


def ask(model, question, sampling=None):
    return model.generate(question.picture, question.prompt, latency_budget_ms=1e5, max_new_tokens=6, sampling=sampling)


def test_a_seed_is_drawn_and_told_where_none_is_named(digits, questions):
    model = adaptive(digits)
    answer = ask(model, questions[0], Sampling(temperature=5.0))
    assert answer.sampling.seed is not None
    assert ask(model, questions[0], answer.sampling).text == answer.text
    assert len({seeded(Sampling()).seed for _ in range(8)}) == 8


def test_decoding_is_greedy_by_default_and_nothing_of_torchs_generator_is_used(digits, questions):
    model = adaptive(digits)
    state = torch.random.get_rng_state()
    greedy_one, drawn_one = ask(model, questions[0]), ask(model, questions[0], Sampling(temperature=5.0, seed=3))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert greedy_one.sampling is None and greedy_one.text == ask(model, questions[0], Sampling(top_p=1e-6)).text
    assert drawn_one.text != greedy_one.text


def test_sampled_answers_are_measured_in_the_same_stages(digits, request_high):
    sampler = TokenSampler(Sampling(temperature=5.0, seed=5))
    ids_S, times = measure_generate(
        digits.parts, request_high.inputs, generation=greedy(digits.parts.model, 6), clock=HostClock(), sampler=sampler
    )
    assert times.closure <= 0.01 and times.output_tokens == len(ids_S)
    assert all(each > 0 for each in (times.vision_ms, times.llm_prefill_ms, times.total_ms))
    assert times.output_tokens == 1 or times.decode_ms > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_what_cannot_be_drawn_from_is_refused(wrong):
    with pytest.raises(InvalidValueError):
        Sampling(**wrong)


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_any_seed_is_taken(seed):
    assert drawn(Sampling(seed=seed), [0.0, 0.0], times=3)
