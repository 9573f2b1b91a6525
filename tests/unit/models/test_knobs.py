import pytest
import torch

from paceline.errors import InvalidValueError, ModelError
from paceline.models.knobs import applied, blocks_passed_through, skipped_blocks
from paceline.records import KnobConfig

RANKING = (7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1)


def logits(model, request):
    with torch.no_grad():
        return model.parts.model(**request.inputs).logits


def config(top_k=None, blocks=None):
    return KnobConfig(tier="high", top_k=top_k, num_active_blocks=blocks)


@pytest.mark.parametrize("knobs", [config(top_k=2), config(blocks=8), config(top_k=4, blocks=12), config(top_k=16)])
def test_applying_changes_the_logits_and_leaving_restores_them_bit_for_bit(digits, request_high, knobs):
    before = logits(digits, request_high)
    with applied(digits.parts, knobs, RANKING):
        inside = logits(digits, request_high)
    after = logits(digits, request_high)
    assert not torch.equal(inside, before)
    assert torch.equal(after, before)


def test_restores_after_an_exception(digits, request_high):
    before = logits(digits, request_high)
    with pytest.raises(RuntimeError, match="inside"), applied(digits.parts, config(top_k=1, blocks=4), RANKING):
        raise RuntimeError("inside")
    assert torch.equal(logits(digits, request_high), before)


def test_nothing_of_the_application_is_left_on_the_model(digits):
    def traces():
        return [
            (name, sorted(module.__dict__), len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in digits.parts.model.named_modules()
        ]

    before = traces()
    with applied(digits.parts, config(top_k=2, blocks=8), RANKING):
        assert traces() != before
    assert traces() == before


def test_a_forward_that_was_wrapped_on_the_instance_is_kept(digits, request_high):
    block = digits.parts.blocks[RANKING[0]]
    own = block.forward
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    block.forward = wrapped
    try:
        with applied(digits.parts, config(blocks=15), RANKING):
            logits(digits, request_high)
            assert not calls
        logits(digits, request_high)
        assert calls and block.forward is wrapped
    finally:
        del block.forward


def test_passing_a_block_through_is_the_model_without_that_block(digits, request_high):
    """Independent of our pass-through: zero what the block adds to the residual stream."""
    block = digits.parts.blocks[6]
    handle = block.register_forward_hook(
        lambda _m, args, kwargs, _out: args[0] if args else kwargs["hidden_states"], with_kwargs=True
    )
    try:
        expected = logits(digits, request_high)
    finally:
        handle.remove()
    with blocks_passed_through(digits.parts, frozenset({6})):
        assert torch.equal(logits(digits, request_high), expected)


def test_all_experts_of_the_native_number_is_the_model_itself(digits, request_high):
    before = logits(digits, request_high)
    with applied(digits.parts, config(top_k=digits.parts.native_top_k, blocks=16), RANKING):
        assert torch.equal(logits(digits, request_high), before)


@pytest.mark.parametrize(
    ("knobs", "named"), [(config(top_k=17), "top_k is 17"), (config(blocks=17), "num_active_blocks is 17")]
)
def test_values_beyond_the_model_are_refused_with_the_range(digits, knobs, named):
    with pytest.raises(InvalidValueError, match=named) as raised, applied(digits.parts, knobs, RANKING):
        pass
    assert "1 to 16" in str(raised.value)


def test_a_dense_model_has_no_top_k(dense, request_dense):
    assert dense.parts.routers == () and dense.parts.native_top_k is None
    with pytest.raises(ModelError, match="dense"), applied(dense.parts, config(top_k=2), RANKING):
        pass
    before = logits(dense, request_dense)
    with applied(dense.parts, config(blocks=3), (1, 2, 3)):
        assert not torch.equal(logits(dense, request_dense), before)
    assert torch.equal(logits(dense, request_dense), before)


def test_block_0_always_stays():
    assert skipped_blocks(16, 12, RANKING) == {7, 9, 11, 5}
    assert skipped_blocks(16, None, RANKING) == frozenset()
    with pytest.raises(InvalidValueError, match="from 1 to 15"):
        skipped_blocks(16, 12, (0, *RANKING))
    with pytest.raises(InvalidValueError, match="at least 4 blocks"):
        skipped_blocks(16, 12, (1, 2, 3))
