import inspect

import pytest
import torch

from paceline.errors import InvalidValueError, ModelError
from paceline.measure.clock import HostClock
from paceline.measure.one_pass import answer_measured, greedy, measure_generate
from paceline.models.grid import default_grid
from paceline.records import KnobConfig

FULL = KnobConfig(tier="high", top_k=8, num_active_blocks=16)
RANKING = tuple(range(1, 16))


def measure(model, question, config=FULL, **options):
    settings = {"ranking": RANKING, "max_new_tokens": 6, "clock": HostClock(), **options}
    return answer_measured(model, question.picture, question.prompt, config, **settings)


def test_stages_and_gaps_close_on_the_total_under_every_configuration(digits, questions):
    for config in default_grid(digits).configurations():
        times = measure(digits, questions[0], config).times
        assert times.closure <= 0.01, (config, times)
        stages = (times.vision_ms, times.llm_prefill_ms, times.preprocess_ms, times.total_ms)
        assert all(stage > 0 for stage in stages)
        assert times.output_tokens == 1 or times.decode_ms > 0
        gaps = (times.before_vision_ms, times.vision_to_decoder_ms, times.after_last_step_ms)
        assert all(gap > 0 for gap in gaps) and times.first_token_to_decode_ms >= 0


def test_one_output_token_has_no_decode_time_and_a_null_per_token_time(digits, questions):
    times = measure(digits, questions[0], max_new_tokens=1).times
    assert (times.output_tokens, times.decode_steps, times.decode_ms, times.decode_per_token_ms) == (1, 0, 0.0, None)


def test_decode_steps_add_up_to_the_whole_decode(digits, questions):
    times = measure(digits, questions[0], per_step=True).times
    assert len(times.decode_step_ms) == times.decode_steps >= 1
    assert sum(times.decode_step_ms) == pytest.approx(times.decode_ms)
    assert times.decode_per_token_ms == pytest.approx(times.decode_ms / times.decode_steps)


def test_the_measured_answer_is_the_plain_answer(digits, questions, request_high):
    model = digits.parts.model
    plain = model.generate(**request_high.inputs, generation_config=greedy(model, 6))
    ids, _times = measure_generate(digits.parts, request_high.inputs, generation=greedy(model, 6), clock=HostClock())
    assert torch.equal(ids, plain[0, request_high.inputs["input_ids"].shape[1] :])


class SteppingClock:
    """Every mark is one millisecond after the last: stage times become counts of marks."""

    name = "stepping"

    def __init__(self):
        self.now = 0

    def mark(self):
        self.now += 1
        return self.now

    def settle(self):
        pass

    def between_ms(self, first, second):
        return float(second - first)


def test_every_stage_lies_between_its_own_two_marks(digits, request_high):
    """start 1, vision 2-3, first forward 4, block 5, its end 6, then two marks a decode step, end."""
    clock = SteppingClock()
    _ids, times = measure_generate(
        digits.parts, request_high.inputs, generation=greedy(digits.parts.model, 3), clock=clock
    )
    assert (times.before_vision_ms, times.vision_ms, times.llm_prefill_ms) == (1.0, 1.0, 1.0)
    assert times.vision_to_decoder_ms == 2.0  # the top-level forward starts in between
    steps = times.output_tokens - 1
    assert times.decode_ms == (2.0 * steps - 1.0 if steps else 0.0)
    assert times.after_last_step_ms == 1.0


def test_the_vision_encoder_runs_once_and_is_left_as_it_was(digits, questions):
    owner = digits.parts.image_encoder_owner
    before = inspect.signature(owner.get_image_features)
    measure(digits, questions[0])
    assert "get_image_features" not in owner.__dict__
    assert inspect.signature(owner.get_image_features) == before
    assert not digits.parts.model._forward_hooks and not digits.parts.blocks[0]._forward_pre_hooks


def test_a_request_without_a_picture_has_no_vision_stage_and_one_that_lost_its_picture_is_refused(digits, request_high):
    inputs = {"input_ids": torch.tensor([[10, 11, 12]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    generation = greedy(digits.parts.model, 2)
    _ids, times = measure_generate(digits.parts, inputs, generation=generation, clock=HostClock())
    assert (
        times.vision_ms == times.vision_to_decoder_ms == 0 and times.before_vision_ms > 0 and times.llm_prefill_ms > 0
    )
    lost = {name: request_high.inputs[name] for name in inputs}
    with pytest.raises(ModelError, match="ran 0 times in one generate.*expected once for a request with a picture"):
        measure_generate(digits.parts, lost, generation=generation, clock=HostClock())
    with pytest.raises(InvalidValueError, match="max_new_tokens"):
        greedy(digits.parts.model, 0)
