from typing import Any

import pytest

from paceline.errors import InvalidValueError, PacelineError, UnknownChoiceError
from paceline.schedule import LinearStepTime, PlannerSettings, PolicyWeights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "ageing"}, "policy 'ageing' is unknown.*did you mean 'aging'"),
        ({"chunk_size": 0}, "chunk_size is 0; expected a whole number of at least 1"),
        ({"chunk_size": 512.0}, "chunk_size is 512.0"),
        ({"chunk_size": True}, "chunk_size is True"),
        ({"min_chunk_threshold": 300}, "min_chunk_threshold is 300; expected below 30 % of chunk_size, 1000"),
        ({"min_chunk_threshold": -1}, "min_chunk_threshold"),
        ({"min_chunk_tokens": 1001}, "min_chunk_tokens is 1001; expected at most 1000"),
        ({"min_chunk_tokens": 101, "max_chunk_tokens": 100}, "min_chunk_tokens is 101; expected at most 100"),
        ({"max_chunk_tokens": 0}, "max_chunk_tokens"),
        ({"max_partial_prefills": 0}, "max_partial_prefills"),
        ({"target_time_ms": 0.0}, "target_time_ms"),
        ({"target_time_ms": float("nan")}, "target_time_ms"),
        ({"target_base_share": 0.0}, "target_base_share"),
        ({"target_base_share": 1.01}, "target_base_share"),
        ({"indivisible_tokens": 1001}, "chunk_size is 1000; expected at least 1001: this model must not split"),
        ({"indivisible_tokens": 200, "max_chunk_tokens": 100}, "max_chunk_tokens is 100; expected at least 200"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PacelineError, match=message) as caught:
        PlannerSettings(**{"chunk_size": 1000, **changes})
    assert isinstance(caught.value, InvalidValueError | UnknownChoiceError)


def test_a_threshold_just_below_thirty_percent_is_allowed() -> None:
    assert PlannerSettings(chunk_size=1000, min_chunk_threshold=299).min_chunk_threshold == 299
    assert PlannerSettings(chunk_size=11, min_chunk_threshold=3).min_chunk_threshold == 3
    with pytest.raises(InvalidValueError):
        PlannerSettings(chunk_size=10, min_chunk_threshold=3)


def test_defaults_are_those_of_the_specification() -> None:
    settings = PlannerSettings(chunk_size=512)
    assert (settings.policy, settings.weights) == ("fcfs", PolicyWeights(time_weight=1.0, prompt_weight=-0.01))


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ({"time_weight": 0.0}, "time_weight"),
        ({"time_weight": -1.0}, "time_weight"),
        ({"time_weight": float("inf")}, "time_weight"),
        ({"prompt_weight": 0.01}, "prompt_weight"),
        ({"prompt_weight": float("nan")}, "prompt_weight"),
    ],
)
def test_weights_of_the_wrong_sign_are_refused(weights: dict[str, float], name: str) -> None:
    with pytest.raises(InvalidValueError, match=name):
        PolicyWeights(**weights)


def test_a_target_needs_a_model_that_can_keep_it() -> None:
    model = LinearStepTime(
        base_ms=5.0,
        per_decode_token_ms=0.0,
        per_decode_context_token_ms=0.0,
        per_prefill_token_ms=0.5,
        per_prefill_attention_token_ms=0.0,
    )
    PlannerSettings(chunk_size=100).require_model(None)
    settings = PlannerSettings(chunk_size=100, target_time_ms=12.5)
    settings.require_model(model)
    with pytest.raises(InvalidValueError, match="without a step-time model; fit one with"):
        settings.require_model(None)
    # a step with 15 tokens alone takes 12.5 ms, 0.4 of which is its base; with one token 5.5 ms
    with pytest.raises(
        InvalidValueError, match="at least 12.5 ms, .* one useful chunk, of 15 tokens; a larger target_base"
    ):
        PlannerSettings(chunk_size=100, target_time_ms=12.4).require_model(model)
    PlannerSettings(chunk_size=100, target_time_ms=5.5, target_base_share=1.0).require_model(model)
    PlannerSettings(chunk_size=100, target_time_ms=15.0, min_chunk_tokens=20).require_model(model)
    with pytest.raises(InvalidValueError, match="one useful chunk, of 21 tokens"):
        PlannerSettings(chunk_size=100, target_time_ms=15.0, min_chunk_tokens=21).require_model(model)


def test_a_chunk_is_useful_where_the_base_is_at_most_the_share() -> None:
    model = LinearStepTime(
        base_ms=5.0,
        per_decode_token_ms=0.0,
        per_decode_context_token_ms=0.0,
        per_prefill_token_ms=0.5,
        per_prefill_attention_token_ms=0.0,
    )
    found = {
        share: PlannerSettings(chunk_size=100, target_base_share=share).useful_chunk(model)
        for share in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0)
    }
    assert found == {0.01: 100, 0.1: 90, 0.25: 30, 0.5: 10, 0.9: 2, 1.0: 1}
