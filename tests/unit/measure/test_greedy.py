"""Greedy decoding takes nothing from a model's own generation settings but its end, padding and first tokens."""

from contextlib import contextmanager

import pytest
import torch
from transformers import GenerationConfig

from paceline.errors import InvalidValueError
from paceline.measure.clock import HostClock
from paceline.measure.greedy import KEPT, greedy, own_settings_aside, settings_put_aside
from paceline.measure.one_pass import measure_generate

ASKED = {
    "num_beams": 4,
    "num_return_sequences": 2,
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 12,
    "min_length": 200,
    "max_time": 1e-9,
    "suppress_tokens": list(range(5, 40)),
    "begin_suppress_tokens": list(range(5, 40)),
    "bad_words_ids": [[20], [21], [22]],
    "cache_implementation": "static",
    "use_cache": False,
    "prompt_lookup_num_tokens": 3,
    "return_dict_in_generate": True,
    "output_scores": True,
    "exponential_decay_length_penalty": (1, 5.0),
    "forced_eos_token_id": 7,
    "guidance_scale": 2.0,
    "prefill_chunk_size": 3,
}


@contextmanager
def asking(model, **settings):
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    try:
        yield
    finally:
        model.generation_config = own


def measured(digits, request):
    return measure_generate(
        digits.parts, request.inputs, generation=greedy(digits.parts.model, 6), clock=HostClock(), per_step=True
    )


@pytest.mark.parametrize("name", ASKED)
def test_no_setting_of_the_model_changes_the_answer_or_the_work(digits, request_high, name):
    ids, times = measured(digits, request_high)
    with asking(digits.parts.model, **{name: ASKED[name]}):
        own = digits.parts.model.generation_config
        again, others = measured(digits, request_high)
        assert digits.parts.model.generation_config is own
        assert name in settings_put_aside(digits.parts.model)
    assert torch.equal(ids, again) and times.output_tokens == others.output_tokens


def test_every_field_of_this_version_is_neutral_while_settings_are_aside(digits):
    """Also those of a version that is not written yet: whatever its name, nothing of the model's is left."""
    model = digits.parts.model
    neutral = vars(GenerationConfig())
    fields = [name for name in neutral if name not in KEPT]
    with asking(model, **dict.fromkeys(fields, "asked for"), something_new="asked for"), own_settings_aside(model):
        assert "asked for" not in vars(model.generation_config).values()
        assert all(getattr(model.generation_config, name) == neutral[name] for name in fields)


def test_sampling_settings_are_no_news_to_greedy_decoding(digits):
    with asking(digits.parts.model, do_sample=True, temperature=0.1, top_p=0.8):
        assert settings_put_aside(digits.parts.model) == {}
    with asking(digits.parts.model, num_beams=4, repetition_penalty=1.0):
        assert settings_put_aside(digits.parts.model) == {"num_beams": "4"}


@pytest.mark.parametrize("tokens", [0, -1, True, 2.5])
def test_a_length_is_a_whole_number_of_at_least_1(digits, tokens):
    with pytest.raises(InvalidValueError, match="max_new_tokens"):
        greedy(digits.parts.model, tokens)
