import math
from dataclasses import replace
from pathlib import Path

import pytest
from estimator_samples import a_config
from latency_models import GRID, steady_bounds, token_linear
from learned_controllers import (
    chooser_looking_at,
    chooser_of_scores,
    seen_request,
    synthetic_chooser,
    write_controller,
    write_estimator,
)

from paceline.control.estimated import BoundController
from paceline.control.learned.controller import LearnedController
from paceline.control.learned.description import LEARNERS
from paceline.control.learned.reward import Reward
from paceline.control.loading import load_controller
from paceline.errors import ControllerError, InvalidValueError, PacelineWarning, TableError
from paceline.records import KnobConfig, RequestFeatures
from paceline.request_vector import REQUEST_VECTOR_NAMES, request_vector

# latencies of request(): low/8 8, low/16 16, high/8 16, high/16 32 ms; accuracies in the profile 0.3, 0.6, 0.5, 0.9
LOW_8, LOW_16, HIGH_8, HIGH_16 = GRID
ACCURACY_ALONE = Reward(latency_weight=0.0, overshoot_weight=0.0)


def request(**more: float) -> RequestFeatures:
    return seen_request(**{"text_tokens": 10, "low": 90, "medium": 140, "high": 190, **more})


def learned(
    scores: tuple[float, float, float, float], learner: str = "supervised", factor: float = 1.2, **changes: object
) -> LearnedController:
    chooser = chooser_of_scores(dict(zip(GRID, scores, strict=True)), learner, **changes)
    return LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds(factor))


@pytest.mark.parametrize(
    ("budget_ms", "config"),
    [(9.7, LOW_8), (19.1, LOW_8), (19.3, HIGH_8), (38.3, HIGH_8), (38.5, HIGH_8), (1000.0, HIGH_8)],
)
def test_the_best_prediction_for_the_request_is_taken_whatever_the_profile_says(
    budget_ms: float, config: KnobConfig
) -> None:
    decision = learned((0.2, 0.3, 0.9, 0.4)).predict(budget_ms, features=request())
    assert (decision.config, decision.within_budget, decision.refused) == (config, True, False)
    assert decision.accuracy == (0.3 if config == LOW_8 else 0.5)  # what the profile says
    assert decision.bound_ms == pytest.approx(1.2 * decision.latency_ms)


def test_a_little_accuracy_is_given_up_for_time_near_the_budget() -> None:
    # at 39 ms high/16 is predicted at 32 ms: 10 (32 / 39 − 1) = −1.79, a cost of 0.5 · 0.143 = 0.071; low/16 at 16 of 39: 0.001
    assert learned((0.1, 0.80, 0.1, 0.86)).predict(39.0, features=request()).config == LOW_16
    assert learned((0.1, 0.80, 0.1, 0.88)).predict(39.0, features=request()).config == HIGH_16
    alone = learned((0.1, 0.80, 0.1, 0.81), reward=ACCURACY_ALONE)
    assert alone.predict(39.0, features=request()).config == HIGH_16


def test_equal_rewards_are_settled_as_the_controller_with_bounds_does() -> None:
    equal = learned((0.5, 0.5, 0.5, 0.5), reward=ACCURACY_ALONE)
    bound = BoundController(model=token_linear(), bounds=steady_bounds(1.2))
    for budget_ms in (9.7, 19.3, 38.5):
        assert equal.predict(budget_ms, features=request()) == bound.predict(budget_ms, features=request())


@pytest.mark.parametrize(("budget_ms", "config"), [(38.5, HIGH_16), (38.3, HIGH_8), (19.3, HIGH_8), (9.7, LOW_8)])
def test_the_favourite_of_what_fits_is_taken(budget_ms: float, config: KnobConfig) -> None:
    decision = learned((-1.0, 0.0, 2.0, 3.0), "grpo").predict(budget_ms, features=request())
    assert (decision.config, decision.refused, decision.within_budget) == (config, False, True)


@pytest.mark.parametrize("learner", LEARNERS)
def test_on_a_slower_machine_the_best_of_what_still_fits_is_taken(learner: str) -> None:
    controller = learned((0.1, 0.2, 0.3, 0.9), learner)
    before = controller.predict(38.5, features=request())
    assert (before.config, before.refused) == (HIGH_16, False)
    controller.observe(before, 1e3)
    after = controller.predict(38.5, features=request())  # a bound of 38.4 ms has become 38.8
    assert (after.config, after.refused, after.within_budget) == (HIGH_8, False, True)


def test_where_nothing_fits_nothing_is_refused() -> None:
    with pytest.warns(
        PacelineWarning, match=r"budget of 5 ms for this request; taking the nearest, low_4_8 with 9.6 ms"
    ):
        decision = learned((-1.0, 0.0, 2.0, 3.0), "grpo").predict(5.0, features=request())
    assert (decision.config, decision.refused, decision.within_budget) == (LOW_8, False, False)


def test_the_request_decides() -> None:
    chooser = chooser_looking_at("brightness", 0.4, LOW_16, GRID)
    controller = LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds())
    for brightness, config in ((0.3, HIGH_16), (0.5, LOW_16)):
        assert controller.predict(1e6, features=request(brightness=brightness)).config == config
    assert controller.looks_at == ("brightness",)


def test_a_stored_vector_is_as_good_as_the_picture() -> None:
    chooser = synthetic_chooser(configs=tuple(GRID))
    controller = LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds())
    seen = request(mark_count=20)
    stored = RequestFeatures(text_tokens=10, vision_tokens=seen.vision_tokens, vector=request_vector(seen))
    for budget_ms in (10.0, 20.0, 40.0):
        assert controller.predict(budget_ms, features=stored) == controller.predict(budget_ms, features=seen)


def test_a_request_beyond_training_is_told_and_left_to_the_controller_with_bounds() -> None:
    narrow = {name: (0.0, 100.0) for name in REQUEST_VECTOR_NAMES} | {"brightness": (0.6, 1.0)}
    chooser = chooser_of_scores(
        dict(zip(GRID, (0.0, 0.0, 1.0, 0.5), strict=True)),
        "grpo",
        input_ranges=narrow,
        budget_range_ms=(10.0, 30.0),
    )
    careful, trusting = (
        LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds(1.2), trust_outside=trust)
        for trust in (False, True)
    )
    within = careful.predict(20.0, features=request(brightness=0.7))
    assert (within.config, within.refused, within.outside) == (HIGH_8, False, ())
    for budget_ms, features, outside in (
        (20.0, request(), ("brightness",)),
        (35.0, request(brightness=0.7), ("budget_ms",)),
        (400.0, request(text_tokens=1001), ("text_tokens", "brightness", "budget_ms")),
    ):
        decision = careful.predict(budget_ms, features=features)
        plain = careful.bound.predict(budget_ms, features=features)
        assert (decision.outside, decision.refused) == (outside, True)
        assert replace(decision, refused=False, outside=()) == replace(plain, outside=())
        decision = trusting.predict(budget_ms, features=features)
        assert (decision.config, decision.outside, decision.refused) == (HIGH_8, outside, False)
    with pytest.warns(PacelineWarning):
        assert careful.predict(5.0, features=request()).outside == ()


def test_totals_are_promised_by_a_chooser_of_totals() -> None:
    controller = learned((0.1, 0.2, 0.3, 0.9), latency_kind="total")
    assert controller.latency_kind == "total"
    assert controller.predict(1e6, features=request()).latency_ms == pytest.approx(32 + 2 * (5 - 1))


def test_observing_moves_the_bounds_as_those_of_the_controller_with_bounds() -> None:
    controller = learned((0.1, 0.1, 0.1, 0.9))
    before = controller.predict(39.0, features=request())
    assert before.config == HIGH_16 and before.bound_ms is not None
    for _ in range(10):
        controller.observe(before, before.bound_ms * 1.01)
    after = controller.predict(1e6, features=request())
    assert after.bound_ms == pytest.approx(before.bound_ms * math.exp(10 * 0.0005 * 19))
    assert controller.predict(39.0, features=request()).config != HIGH_16  # 38.4 ms have become 42.2
    with pytest.raises(InvalidValueError, match="measured latency"):
        controller.observe(before, -1.0)


def test_a_budget_and_features_are_checked_before_anything_else() -> None:
    controller = learned((0.1, 0.1, 0.1, 0.9))
    with pytest.raises(InvalidValueError, match="latency budget"):
        controller.predict(0.0, features=request())
    with pytest.raises(InvalidValueError, match="medium"):
        controller.predict(
            50.0, features=RequestFeatures(**{**_plain(request()), "vision_tokens": {"low": 1, "high": 2}})
        )


def _plain(features: RequestFeatures) -> dict[str, object]:
    return {"text_tokens": features.text_tokens, "picture": features.picture}


def test_a_chooser_of_other_configurations_than_the_models_is_refused() -> None:
    chooser = chooser_of_scores({**dict.fromkeys(GRID[1:], 0.5), a_config("medium"): 0.5})
    with pytest.raises(ControllerError, match="only one of them covers low_4_8, medium_4_8"):
        LearnedController(chooser=chooser, model=token_linear(), bounds=steady_bounds())


def test_what_fits_is_told_in_order_of_preference() -> None:
    bound = BoundController(model=token_linear(), bounds=steady_bounds(1.2))
    assert bound.fitting(38.5, request()) == (HIGH_16, LOW_16, HIGH_8, LOW_8)
    assert bound.fitting(19.3, request()) == (LOW_16, HIGH_8, LOW_8)
    assert bound.fitting(5.0, request()) == ()
    with pytest.raises(InvalidValueError, match="latency budget"):
        bound.fitting(0.0, request())


def test_a_directory_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    path, estimator = write_controller(tmp_path / "learned", "grpo"), tmp_path / "estimator"
    write_estimator(estimator)
    controller = load_controller(path, alpha=0.1)
    assert isinstance(controller, LearnedController) and controller.alpha == controller.bound.alpha == 0.1
    assert isinstance(load_controller(path, latency_kind="prefill"), LearnedController)
    assert isinstance(load_controller(estimator, latency_kind="total"), BoundController)
    with pytest.raises(
        InvalidValueError, match="latency kind is 'total'; expected prefill, which .*learned was trained"
    ):
        load_controller(path, latency_kind="total")
    totals = write_controller(tmp_path / "totals", latency_kind="total")
    assert load_controller(totals).latency_kind == "total"


def test_a_damaged_directory_is_not_taken_for_something_else(tmp_path: Path) -> None:
    path = write_controller(tmp_path / "learned")
    (path / "controller.json").unlink()
    with pytest.raises(ControllerError, match=r"controller\.json: cannot be read"):
        load_controller(path)
    with pytest.raises(TableError):
        load_controller(tmp_path / "absent")
