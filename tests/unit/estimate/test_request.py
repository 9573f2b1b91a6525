import pytest
from estimator_samples import CONFIGS, a_config, description

from paceline.errors import InvalidValueError
from paceline.estimate.feasibility import feasible_config
from paceline.estimate.request import Knobs, typical_request


def test_what_is_not_said_is_the_median_of_training() -> None:
    request = typical_request(description())
    assert (request.text_tokens, request.vision_tokens) == (20, {"low": 432, "medium": 1008, "high": 1872})
    assert typical_request(description(), text_tokens=3).text_tokens == 3


def test_image_tokens_are_one_number_or_one_a_tier() -> None:
    assert typical_request(description(), vision_tokens=[99]).vision_tokens == {"low": 99, "medium": 99, "high": 99}
    three = typical_request(description(), vision_tokens=[1, 2, 3])
    assert three.vision_tokens == {"low": 1, "medium": 2, "high": 3}
    with pytest.raises(InvalidValueError, match="one for each of low, medium, high"):
        typical_request(description(), vision_tokens=[1, 2])


def test_knobs_select_from_the_grid_or_name_another_configuration() -> None:
    assert Knobs().select(CONFIGS) == CONFIGS
    assert {each.tier for each in Knobs(tier="low").select(CONFIGS)} == {"low"}
    assert Knobs(tier="low", top_k=4, num_active_blocks=8).select(CONFIGS) == (a_config(),)
    assert Knobs(tier="low", top_k=5, num_active_blocks=9).select(CONFIGS) == (a_config("low", 5, 9),)
    with pytest.raises(InvalidValueError, match="none_5_none"):
        Knobs(top_k=5).select(CONFIGS)


def test_feasibility_by_hand() -> None:
    found = feasible_config(a_config(), 50.0, 10.0, 100.0, 6.0)
    assert (found.total_ms, found.max_output_tokens, found.feasible) == (100.0, 6, True)
    assert not feasible_config(a_config(), 50.0, 10.0, 99.9, 6.0).feasible
    assert feasible_config(a_config(), 50.0, 10.0, 49.9, 1.0).max_output_tokens == 0
    assert feasible_config(a_config(), 50.0, 10.0, 50.0, 1.0).max_output_tokens == 1
    assert feasible_config(a_config(), 50.0, 0.0, 50.0, 1.0).max_output_tokens is None


def test_an_unknown_decode_answers_one_token_and_no_more() -> None:
    one = feasible_config(a_config(), 50.0, float("nan"), 100.0, 1.0)
    assert (one.total_ms, one.decode_per_token_ms, one.max_output_tokens, one.feasible) == (50.0, None, None, True)
    more = feasible_config(a_config(), 50.0, float("nan"), 100.0, 2.0)
    assert (more.total_ms, more.feasible) == (None, False)


@pytest.mark.parametrize(("budget_ms", "tokens"), [(0, 1), (-1, 1), (float("nan"), 1), (100, 0.5), (100, float("inf"))])
def test_impossible_questions_are_refused(budget_ms: float, tokens: float) -> None:
    with pytest.raises(InvalidValueError):
        feasible_config(a_config(), 50.0, 10.0, budget_ms, tokens)
