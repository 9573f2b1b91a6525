"""Accuracy apart from latency: a batch answers what its questions are answered one at a time, and encodes pictures once."""

from functools import wraps

import pytest

from paceline.datasets import DIGIT_SETS, digit_questions
from paceline.errors import InvalidValueError
from paceline.measure.batched import answer_batched
from paceline.measure.clock import clock_for
from paceline.measure.one_pass import answer_measured
from paceline.models.critical_section import replaced
from paceline.records import KnobConfig

CONFIGS = [
    KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks)
    for tier in ("low", "high")
    for top_k, blocks in ((1, 8), (8, 16), (4, 12))
]


@pytest.fixture(scope="module")
def questions():
    return [each for name in DIGIT_SETS for each in digit_questions(name, split="validation", count=4, seed=5)]


def answers(model, questions, batch_size):
    return list(
        answer_batched(
            model,
            questions,
            CONFIGS,
            ranking=model.block_ranking,
            max_new_tokens=12,
            batch_size=batch_size,
        )
    )


def test_a_batch_gives_the_answers_of_its_questions_one_at_a_time(digits, questions):
    clock = clock_for(digits.device)
    singly = {
        (question.sample_id, config): answer_measured(
            digits,
            question.picture,
            question.prompt,
            config,
            ranking=digits.block_ranking,
            max_new_tokens=12,
            clock=clock,
        )
        for question in questions
        for config in CONFIGS
    }
    found = answers(digits, questions, 12)
    assert {(each.question.sample_id, each.config) for each in found} == set(singly)
    assert len(found) == len(singly)
    for each in found:
        alone = singly[each.question.sample_id, each.config]
        assert each.text == alone.text  # every one here; near ties may fall the other way in another sum's order
        assert each.output_tokens == alone.times.output_tokens
    assert max(each.batch_size for each in found) > 1


def test_the_image_encoder_runs_once_a_tier_and_batch_of_one_shape(digits, questions):
    owner, calls = digits.parts.image_encoder_owner, []
    encode = owner.get_image_features

    @wraps(encode)  # generate() reads the signature
    def counted(*args, **kwargs):
        calls.append(1)
        return encode(*args, **kwargs)

    square = [each for each in questions if each.picture.size == (160, 160)]
    with replaced(owner, "get_image_features", counted):
        answers(digits, square, 12)
    assert len(calls) == 2


def test_a_batch_of_none_is_refused(digits, questions):
    with pytest.raises(InvalidValueError, match="a whole number from 1 to 4,096"):
        answers(digits, questions, 0)
