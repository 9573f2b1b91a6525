"""Whatever happens inside, and however many threads come, a model is afterwards the model it was."""

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.errors import ModelError
from paceline.measure.clock import HostClock
from paceline.measure.one_pass import answer_measured, greedy, measure_generate
from paceline.models.critical_section import held, replaced
from paceline.models.importance import block_influence
from paceline.models.knobs import applied
from paceline.records import KnobConfig

RANKING = (7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1)
CONFIGS = [
    KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks)
    for tier, top_k, blocks in (("low", 1, 8), ("medium", 4, 12), ("high", 8, 16), ("high", 2, 5))
]
TOKENS = 4


def answer(model, question, config, clock=None):
    return answer_measured(
        model,
        question.picture,
        question.prompt,
        config,
        ranking=RANKING,
        max_new_tokens=TOKENS,
        clock=clock or HostClock(),
    )


@torch.no_grad()
def logits(model, request):
    return model.parts.model(**request.inputs).logits


def everything_on(model):
    """The own attributes of every module by identity, hooks included."""
    return {
        name: {
            key: tuple(value) if isinstance(value, dict) and key.endswith("hooks") else id(value)
            for key, value in vars(module).items()
            # every forward of Qwen3-VL writes its rope_deltas anew
            if key not in ("_parameters", "_buffers", "_modules", "rope_deltas")
        }
        for name, module in model.parts.model.named_modules()
    }


class Unplugged(BaseException):
    """As a KeyboardInterrupt would come: not an Exception."""


@contextmanager
def raising(model, stage):
    """Let a stage of the next pass raise: the encoder, a block, a router or a step."""
    parts, calls = model.parts, []

    def fail(*_args):
        calls.append(1)
        if stage != "third step" or len(calls) == 3:
            raise Unplugged(stage)

    modules = {
        "vision": parts.image_encoder_owner.visual,
        "block": parts.blocks[0],
        "last block": parts.blocks[1],
        "router": parts.routers[0],
    }
    handle = modules.get(stage, parts.model).register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


class BreakingClock(HostClock):
    """Its n-th mark is never made."""

    def __init__(self, breaks_at):
        self.left = breaks_at

    def mark(self):
        self.left -= 1
        if self.left < 0:
            raise Unplugged("clock")
        return super().mark()


STAGES = ["vision", "block", "last block", "router", "first step", "third step"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stage=st.sampled_from([*STAGES, "clock"]), config=st.sampled_from(CONFIGS), mark=st.integers(0, 9))
def test_an_exception_at_any_stage_leaves_the_model_as_it_was(digits, questions, request_high, stage, config, mark):
    before, own = logits(digits, request_high), everything_on(digits)
    clock = BreakingClock(mark) if stage == "clock" else None
    with raising(digits, stage) if stage != "clock" else nullcontext(), pytest.raises(Unplugged):
        answer(digits, questions[0], config, clock)
    assert everything_on(digits) == own
    assert torch.equal(logits(digits, request_high), before)
    assert answer(digits, questions[0], config).text  # and nobody waits for ever


def test_threads_answer_as_one_would_and_leave_the_model_as_it_was(digits, questions, request_high):
    tasks = [(question, config) for question in questions[:3] for config in CONFIGS] * 2
    alone = [answer(digits, *task).text for task in tasks]
    before, own = logits(digits, request_high), everything_on(digits)
    start = threading.Barrier(3)

    def work(part):
        start.wait()
        return [answer(digits, *task).text for task in tasks[part::3]]

    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(work, range(3)))
    together = [parts[index % 3][index // 3] for index in range(len(tasks))]
    assert together == alone
    assert everything_on(digits) == own
    assert torch.equal(logits(digits, request_high), before)


def test_threads_that_fail_harm_no_other(digits, questions, request_high):
    before, own = logits(digits, request_high), everything_on(digits)
    right = answer(digits, questions[0], CONFIGS[0]).text

    def work(index):
        if index % 2:
            with pytest.raises(Unplugged):
                answer(digits, questions[0], CONFIGS[1], BreakingClock(index % 7))
            return right
        return answer(digits, questions[0], CONFIGS[0]).text

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(16))) == {right}
    assert everything_on(digits) == own
    assert torch.equal(logits(digits, request_high), before)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    works=st.lists(st.tuples(st.sampled_from(CONFIGS), st.integers(-1, 9)), min_size=6, max_size=9),
    threads=st.integers(2, 4),
)
def test_threads_with_exceptions_at_any_mark_under_any_configuration(digits, questions, request_high, works, threads):
    """A mark of -1 fails nothing: those answers are what one thread alone would have said."""
    before, own = logits(digits, request_high), everything_on(digits)
    alone = {config: answer(digits, questions[0], config).text for config, _ in works}

    def work(config, mark):
        if mark < 0:
            return answer(digits, questions[0], config).text
        with pytest.raises(Unplugged):
            answer(digits, questions[0], config, BreakingClock(mark))
        return alone[config]

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(work, *zip(*works, strict=True))) == [alone[config] for config, _ in works]
    assert everything_on(digits) == own
    assert torch.equal(logits(digits, request_high), before)


def test_a_failure_while_knobs_are_being_turned_turns_back_those_that_were(digits, request_high, monkeypatch):
    before, own = logits(digits, request_high), everything_on(digits)

    def torn(*_args, **_kwargs):
        raise Unplugged("while entering")

    monkeypatch.setattr(digits.parts.decoder, "register_forward_pre_hook", torn)
    with pytest.raises(Unplugged), applied(digits.parts, CONFIGS[0], RANKING):
        pass
    monkeypatch.undo()
    assert everything_on(digits) == own
    assert torch.equal(logits(digits, request_high), before)


def test_a_second_configuration_inside_the_first_is_refused_and_harms_nothing(digits, questions, request_high):
    before = logits(digits, request_high)
    with applied(digits.parts, CONFIGS[0], RANKING):
        inside = logits(digits, request_high)
        with pytest.raises(ModelError, match="this thread holds .* already, for knobs"):
            answer(digits, questions[0], CONFIGS[1])
        with pytest.raises(ModelError, match="leave the `with applied"), applied(digits.parts, CONFIGS[1], RANKING):
            pass
        assert torch.equal(logits(digits, request_high), inside)
    assert torch.equal(logits(digits, request_high), before)


def test_generate_called_from_inside_generate_is_a_sentence_and_no_deadlock(digits, questions, request_high):
    handle = digits.parts.blocks[0].register_forward_pre_hook(lambda *_: answer(digits, questions[0], CONFIGS[0]))
    try:
        with pytest.raises(ModelError, match="holds .* already, for knobs and marks"):
            answer(digits, questions[0], CONFIGS[0])
    finally:
        handle.remove()


def test_what_a_user_put_on_the_instance_comes_back(digits, request_high):
    owner = digits.parts.image_encoder_owner
    encode, seen = owner.get_image_features, []

    def wrapped(*args, **kwargs):
        seen.append(1)
        return encode(*args, **kwargs)

    wrapped.__signature__ = inspect.signature(encode)
    owner.get_image_features = wrapped
    try:
        generation = greedy(digits.parts.model, 2)
        measure_generate(digits.parts, request_high.inputs, generation=generation, clock=HostClock())
        assert seen and owner.__dict__["get_image_features"] is wrapped
    finally:
        del owner.get_image_features


def test_another_thread_waits_until_knobs_are_turned_back(digits, request_high):
    before, order = logits(digits, request_high), []
    turned, waiting = threading.Event(), threading.Event()

    def other():
        waiting.set()
        with held(digits.parts.model, "plain passes"):
            order.append(logits(digits, request_high))

    with applied(digits.parts, CONFIGS[0], RANKING):
        thread = threading.Thread(target=other)
        thread.start()
        assert waiting.wait(10) and not turned.wait(0.05)
        assert not order
    thread.join(10)
    assert torch.equal(order[0], before)


def test_importance_passes_hold_the_model_too(digits, request_high):
    with applied(digits.parts, CONFIGS[0], RANKING):
        assert (
            len(block_influence(digits.parts, [request_high.inputs])) == 16
        )  # under its own knobs: allowed, and meant
    with held(digits.parts.model, "marks"), pytest.raises(ModelError, match="for marks"):
        block_influence(digits.parts, [request_high.inputs])


def test_a_class_that_computes_the_name_is_refused():
    class Computed:
        @property
        def top_k(self):
            return 8

    with pytest.raises(ModelError, match="cannot be replaced"), replaced(Computed(), "top_k", 2):
        pass
