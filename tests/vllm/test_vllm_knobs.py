"""One engine, one copy of the weights, every request its own experts and blocks: as transformers computes each by itself."""

from itertools import product
from random import Random

import pytest
import torch
from knob_oracle import Transformers
from real_engine import BLOCK_TOKENS, TOLERANCE, answer
from scheduler_swap import with_scheduler
from tiny_moe import write_tiny_moe
from vllm import EngineArgs, LLMEngine, SamplingParams, TokensPrompt
from vllm.exceptions import VLLMValidationError

from paceline.errors import EngineError, InvalidValueError
from paceline.vllm_plugin import prefixes, stock
from paceline.vllm_plugin import scheduler as planned
from paceline.vllm_plugin.ranking import engine_ranking
from paceline.vllm_plugin.relied_on import Executor, release_devices
from paceline.vllm_plugin.request_knobs import (
    ACTIVE_BLOCKS,
    NATIVE,
    TOP_K,
    KnobLimits,
    RequestKnobs,
    asked_knobs,
    salted,
)
from paceline.vllm_plugin.steering import Steering
from paceline.vllm_plugin.step_knobs import weights_of_fewer

LAYERS, EXPERTS_A_TOKEN = 6, 4
RANKING = (4, 2, 3, 1)
KNOBS = [RequestKnobs(k, blocks) for k, blocks in product((1, 2, 4), (2, 3, 4, 6))]
NEW_TOKENS = 10
ENGINE = {
    "dtype": "float32",
    "max_model_len": 512,
    "max_num_batched_tokens": 96,
    "max_num_seqs": 16,
    "block_size": BLOCK_TOKENS,
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "num_gpu_blocks_override": 200,
    "worker_cls": "paceline.vllm_plugin.worker",
    "scheduler_cls": "paceline.vllm_plugin.scheduler",
    "additional_config": {"paceline": {"block_ranking": list(RANKING)}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_dense):
    return {"moe": write_tiny_moe(tmp_path_factory.mktemp("tiny_moe"), layers=LAYERS), "dense": tiny_dense}


@pytest.fixture(scope="module")
def tiny_dense(tmp_path_factory):
    from tiny_llm import write_tiny_llm

    return write_tiny_llm(tmp_path_factory.mktemp("tiny_dense"), layers=LAYERS, hidden=64)


def engine_of(folder, **changed):
    return LLMEngine.from_engine_args(EngineArgs(model=str(folder), **(ENGINE | changed)))


@pytest.fixture(scope="module")
def moe(folders):
    engine = engine_of(folders["moe"])
    yield engine
    engine.engine_core.shutdown()
    release_devices()


@pytest.fixture(scope="module")
def dense(folders):
    engine = engine_of(folders["dense"])
    yield engine
    engine.engine_core.shutdown()
    release_devices()


def prompts(count=12, *, common=0):
    """Prompts of one to three chunks, whose first tokens may be the same."""
    random = Random(11)
    shared = random.choices(range(512), k=common)
    return [shared + random.choices(range(512), k=random.choice([3, 40, 150, 230])) for _ in range(count)]


@pytest.fixture(scope="module")
def oracle(folders):
    return {name: Transformers(folder, RANKING) for name, folder in folders.items()}


def sampling(knobs, **changed):
    asked = {TOP_K: knobs.top_k, ACTIVE_BLOCKS: knobs.num_active_blocks}
    extra = {name: value for name, value in asked.items() if value is not None}
    return SamplingParams(
        **{"temperature": 0.0, "max_tokens": NEW_TOKENS, "ignore_eos": True, "detokenize": False, "logprobs": 3}
        | {"extra_args": extra}
        | changed
    )


def serve(engine, asked, *, salt=None, new_tokens=NEW_TOKENS):
    """Serve (prompt, knobs) all at once; returns the answers in their order."""
    for number, (prompt, knobs) in enumerate(asked):
        tokens = TokensPrompt(prompt_token_ids=prompt)
        if salt is not None:
            tokens["cache_salt"] = salt
        engine.add_request(str(number), tokens, sampling(knobs, max_tokens=new_tokens))
    answers = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                answers[int(output.request_id)] = (answer(output.outputs[0]), output.num_cached_tokens)
    return [answers[number] for number in range(len(asked))]


def off_by(oracle, asked, answers):
    """Return by request how far its log-probabilities are from the oracle's, and how many tokens are not the oracle's."""
    distances = []
    for (prompt, knobs), ((tokens, chosen, gaps), _) in zip(asked, answers, strict=True):
        expected = oracle.logprobs(knobs, prompt, tokens)
        own = expected[range(len(tokens)), tokens]
        distances.append(float((torch.tensor(chosen) - own).abs().max()))
        for place, gap in enumerate(gaps):
            assert gap < TOLERANCE or int(expected[place].argmax()) == tokens[place] or distances[-1] > TOLERANCE
    return distances


def fresh(engine, *, build=planned, blocks=200, **settings):
    config = {"paceline": {"block_ranking": list(RANKING), **settings}}
    return with_scheduler(engine, build, config, blocks=blocks)


def steps_of(engine):
    [counts] = engine.collective_rpc("paceline_steps")
    return counts


@pytest.mark.parametrize("name", ["moe", "dense"])
@pytest.mark.parametrize("build", [planned, stock])
def test_every_request_at_once_has_its_own_knobs(request, oracle, name, build):
    engine = request.getfixturevalue(name)
    fresh(engine, build=build)
    before = steps_of(engine)
    asked = list(zip(prompts(), KNOBS, strict=True))
    assert max(off_by(oracle[name], asked, serve(engine, asked))) < TOLERANCE
    assert steps_of(engine)["mixed"] > before["mixed"]


def test_steps_of_one_configuration_are_uniform_and_native_ones_are_native(moe, oracle):
    for knobs, kind in ((RequestKnobs(2, 3), "uniform"), (NATIVE, "native"), (RequestKnobs(99, 99), "native")):
        fresh(moe)
        before = steps_of(moe)
        asked = [(prompt, knobs) for prompt in prompts(4)]
        inside = knobs if knobs.top_k != 99 else NATIVE
        answers = serve(moe, asked)
        assert max(off_by(oracle["moe"], [(prompt, inside) for prompt, _ in asked], answers)) < TOLERANCE
        moved = {name: count - before[name] for name, count in steps_of(moe).items()}
        assert moved[kind] > 0 and sum(moved.values()) == moved[kind]


def test_experts_that_vllm_takes_in_the_order_of_layers_are_those_of_the_layer_that_runs(moe, oracle, monkeypatch):
    """As with VLLM_USE_LAYERNAME=0 and an older torch: a skipped layer must not hand its experts to the next."""
    monkeypatch.setattr("vllm.model_executor.layers.fused_moe.runner.moe_runner._USE_LAYERNAME", False)
    monkeypatch.setattr(moe.vllm_config.compilation_config, "fast_moe_cold_start", True)
    assert moe.vllm_config.compilation_config.static_all_moe_layers
    for knobs in (KNOBS, [RequestKnobs(4, 3)] * len(KNOBS)):
        fresh(moe)
        asked = list(zip(prompts(), knobs, strict=True))
        assert max(off_by(oracle["moe"], asked, serve(moe, asked))) < TOLERANCE


def test_preempted_requests_keep_their_knobs(moe, oracle):
    scheduler = fresh(moe, build=stock, blocks=24)
    preempted = []
    preempt = scheduler._preempt_request
    scheduler._preempt_request = lambda *args, **kwargs: (preempted.append(args[0]), preempt(*args, **kwargs))[1]
    asked = list(zip(prompts(), KNOBS, strict=True))
    assert max(off_by(oracle["moe"], asked, serve(moe, asked, new_tokens=40))) < TOLERANCE
    assert preempted


def test_cached_prefixes_of_different_knobs_are_kept_apart_whatever_a_client_says(moe, oracle):
    asked = list(zip(prompts(common=2 * BLOCK_TOKENS), KNOBS, strict=True))
    fresh(moe)
    for one in asked:  # one after the other, so that each finds what those before it left
        assert max(off_by(oracle["moe"], [one], serve(moe, [one], salt="the client's own"))) < TOLERANCE
    again = serve(moe, asked, salt="the client's own")
    assert max(off_by(oracle["moe"], asked, again)) < TOLERANCE
    assert all(cached and cached >= 2 * BLOCK_TOKENS for _, cached in again)


def test_without_salts_a_shared_prefix_would_be_wrong(moe, oracle, monkeypatch):
    """The negative: what the salts are for is seen when they are taken away."""
    monkeypatch.setattr(prefixes, "salt_prefixes", lambda request: None)
    fresh(moe)
    asked = list(zip(prompts(common=2 * BLOCK_TOKENS), KNOBS, strict=True))
    worst = max(max(off_by(oracle["moe"], [one], serve(moe, [one]))) for one in asked)
    assert worst > 0.1


def test_aborted_requests_leave_nothing_and_names_may_be_used_again(moe, oracle):
    fresh(moe)
    known = set(moe.model_executor.driver_worker.worker.steering._requests)  # of schedulers that are gone
    asked = list(zip(prompts(), KNOBS, strict=True))
    for number, (prompt, knobs) in enumerate(asked):
        moe.add_request(str(number), TokensPrompt(prompt_token_ids=prompt), sampling(knobs))
    moe.step()
    moe.abort_request([str(number) for number in range(len(asked))])
    shuffled = [(prompt, knobs) for (prompt, _), knobs in zip(asked, reversed(KNOBS), strict=True)]
    assert max(off_by(oracle["moe"], shuffled, serve(moe, shuffled))) < TOLERANCE
    serve(moe, asked[:1])  # with it the worker is told of the last that ended
    worker = moe.model_executor.driver_worker.worker
    assert len(set(worker.steering._requests) - known) <= 1 and worker.steering._step is None


def test_a_step_that_fails_leaves_the_model_as_it_is(moe, monkeypatch):
    worker = moe.model_executor.driver_worker.worker
    monkeypatch.setattr(worker.model_runner, "_model_forward", lambda *args, **kwargs: 1 / 0)
    fresh(moe)
    moe.add_request("fails", TokensPrompt(prompt_token_ids=[1, 2, 3]), sampling(RequestKnobs(1, 3)))
    with pytest.raises(ZeroDivisionError):
        moe.step()
    assert worker.steering._step is None
    assert {moe.router.top_k for moe in worker.steering.moes} == {EXPERTS_A_TOKEN}
    moe.abort_request(["fails"])


LIES = [
    {TOP_K: 99},
    {TOP_K: 0},
    {TOP_K: -3, ACTIVE_BLOCKS: -1},
    {TOP_K: "2"},
    {TOP_K: None, ACTIVE_BLOCKS: [1]},
    {TOP_K: True},
    {TOP_K: float("nan"), ACTIVE_BLOCKS: float("inf")},
    {TOP_K: 2**64 - 1, ACTIVE_BLOCKS: -(2**63)},
    {TOP_K: 1e308},
    {TOP_K: {"a": 1}},
    {ACTIVE_BLOCKS: 0},
    {TOP_K: 0.5, ACTIVE_BLOCKS: -0.5},
    {TOP_K: "", ACTIVE_BLOCKS: ["6"]},
    {TOP_K: float("-inf"), ACTIVE_BLOCKS: float("nan")},
]


def test_nothing_that_a_client_sends_ends_the_engine_or_moves_another_answer(moe, oracle):
    fresh(moe)
    honest = list(zip(prompts(4), KNOBS[:4], strict=True))
    for number, extra in enumerate(LIES):
        params = sampling(NATIVE, extra_args=extra)
        moe.add_request(f"lie {number}", TokensPrompt(prompt_token_ids=[5, 6, 7 + number]), params)
    for number, (prompt, knobs) in enumerate(honest):
        moe.add_request(str(number), TokensPrompt(prompt_token_ids=prompt), sampling(knobs))
    finished = {}
    while moe.has_unfinished_requests():
        finished |= {each.request_id: each for each in moe.step() if each.finished}
    assert len(finished) == len(LIES) + len(honest)
    answers = [(answer(finished[str(number)].outputs[0]), None) for number in range(len(honest))]
    assert max(off_by(oracle["moe"], honest, answers)) < TOLERANCE


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400], ids=["2^64", "-2^63-1", "10^400"])
def test_a_number_that_no_message_can_hold_is_refused_by_vllm_before_the_engine_sees_it(number):
    with pytest.raises(VLLMValidationError, match=r"extra_args integers must be between -2\*\*63 and 2\*\*64 - 1"):
        SamplingParams(extra_args={TOP_K: number})


@pytest.mark.parametrize("extra", LIES)
def test_what_a_client_asks_is_brought_within_the_limits(extra):
    limits = KnobLimits(top_k=4, num_blocks=6, fewest_blocks=2)
    knobs = limits.clamped(asked_knobs(SamplingParams(extra_args=extra)))
    assert knobs.top_k in (None, 1, 2, 3) and knobs.num_active_blocks in (None, 2, 3, 4, 5)


def test_salts_differ_by_knobs_and_cannot_be_guessed():
    kinds = [NATIVE, *KNOBS[:-1]]
    salts = {salted("own", knobs) for knobs in kinds}
    assert len(salts) == len(kinds) and salted("own", NATIVE) == "own" and salted(None, NATIVE) is None
    assert salted(None, RequestKnobs(2, 3)) != "None:2:3:"


@pytest.mark.parametrize("renormalize", [False, True])
def test_masked_weights_are_those_of_fewer_experts(renormalize):
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 8, generator=random)
    weights, ids = logits.softmax(-1).topk(5, dim=-1, sorted=False)
    weights = weights / weights.sum(-1, keepdim=True) if renormalize else weights
    top_k_T = torch.randint(1, 6, (50,), generator=random)
    masked, order = weights_of_fewer(weights, ids, top_k_T, renormalize=renormalize)
    for row, k in enumerate(top_k_T.tolist()):
        own, numbers = logits[row].softmax(-1).topk(k)
        own = own / own.sum() if renormalize else own
        assert masked[row, :k].allclose(own, atol=1e-6) and order[row, :k].tolist() == numbers.tolist()
        assert (masked[row, k:] == 0).all()


def test_experts_of_a_mixed_step_are_alike_in_one_part_or_in_many(moe, oracle, monkeypatch):
    asked = list(zip(prompts(), KNOBS, strict=True))
    for most_pairs in (7, 10**6):
        monkeypatch.setattr("paceline.vllm_plugin.expert_pairs.MOST_PAIRS", most_pairs)
        fresh(moe)
        assert max(off_by(oracle["moe"], asked, serve(moe, asked))) < TOLERANCE


def test_steps_in_flight_keep_their_own_knobs(folders, oracle):
    """Asynchronous: a step is scheduled while the one before it runs. vLLM keeps that off on a CPU by itself."""
    config = EngineArgs(model=str(folders["moe"]), **ENGINE).create_engine_config()
    config.scheduler_config.async_scheduling = True
    engine = LLMEngine(
        vllm_config=config, executor_class=Executor.get_class(config), log_stats=False, multiprocess_mode=False
    )
    assert engine.engine_core.engine_core.batch_queue_size == 2
    asked = list(zip(prompts(), KNOBS, strict=True))
    assert max(off_by(oracle["moe"], asked, serve(engine, asked))) < TOLERANCE
    engine.engine_core.shutdown()


@pytest.mark.slow
def test_compiled_graphs_are_left_where_a_step_is_not_native(folders, oracle, monkeypatch):
    engine = engine_of(folders["moe"], enforce_eager=False)
    asked = list(zip(prompts(), KNOBS, strict=True))
    assert max(off_by(oracle["moe"], asked, serve(engine, asked))) < TOLERANCE
    native = [(prompt, NATIVE) for prompt, _ in asked]
    assert max(off_by(oracle["moe"], native, serve(engine, native))) < TOLERANCE
    monkeypatch.setattr(Steering, "native_step", True)  # the negative: graphs that are kept know nothing of the knobs
    fresh(engine)
    assert max(off_by(oracle["moe"], asked, serve(engine, asked))) > 0.1
    engine.engine_core.shutdown()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"scheduler_cls": None}, "--scheduler-cls is not Paceline's"),
        ({"additional_config": {"paceline": {"block_ranking": [3, 3, 3, 5]}}}, "none twice"),
        ({"additional_config": {"paceline": {"block_ranking": [9]}}}, "from 1 to 5"),
        ({"additional_config": {"paceline": {"block_ranking": 3}}}, "block_ranking"),
    ],
)
def test_an_engine_that_cannot_be_steered_is_refused_at_start(folders, changed, problem):
    with pytest.raises((EngineError, InvalidValueError), match=problem):
        engine_of(folders["dense"], **changed)


def test_without_a_ranking_all_blocks_stay_active():
    assert engine_ranking({"paceline": {}}, 6) == () and engine_ranking(None, 6) == ()
