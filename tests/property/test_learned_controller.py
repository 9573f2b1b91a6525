"""The learned controller against its definition: generated choosers, latencies, bounds, budgets and drifts; no learning."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latency_models import GRID, TokenLinear, bounds_of
from learned_controllers import chooser_of_scores, seen_request

from paceline.control.controller import Controller
from paceline.control.estimated import BoundController
from paceline.control.learned.controller import LearnedController
from paceline.control.learned.description import LEARNERS
from paceline.control.learned.reward import Reward
from paceline.errors import BudgetTooSmallError, PacelineWarning
from paceline.records import Decision, KnobConfig, RequestFeatures
from paceline.request_vector import request_vector

REWARD = Reward()

Corrected = TypeVar("Corrected", BoundController, LearnedController)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A grid with its latencies and bounds, the scores of a chooser for it, a request under a budget, and a drift."""

    rates: Sequence[float]
    log_factors: Sequence[float]
    accuracies: Sequence[float]
    scores: Sequence[float]
    features: RequestFeatures
    budget_ms: float
    exceeded: int

    def bound(self) -> BoundController:
        bounds = bounds_of([[score] * 45 for score in self.log_factors], accuracies=self.accuracies)
        return self._drifted(BoundController(model=self._model(), bounds=bounds))

    def learned(self, learner: str, order: Sequence[KnobConfig] = GRID) -> LearnedController:
        bounds = bounds_of([[score] * 45 for score in self.log_factors], accuracies=self.accuracies)
        by_config = dict(zip(GRID, self.scores, strict=True))
        chooser = chooser_of_scores({config: by_config[config] for config in order}, learner)
        return self._drifted(LearnedController(chooser=chooser, model=self._model(), bounds=bounds))

    def _model(self) -> TokenLinear:
        return TokenLinear(dict(zip(GRID, self.rates, strict=True)))

    def _drifted(self, controller: Corrected) -> Corrected:
        decision = decided(controller, 1e9, self.features)
        assert decision.bound_ms is not None
        for _ in range(self.exceeded):
            controller.observe(decision, decision.bound_ms * 1.01)
        return controller


def four(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(values, min_size=4, max_size=4)


def cases() -> st.SearchStrategy[Case]:
    tokens = st.integers(0, 500)
    return st.builds(
        Case,
        # few distinct values, so that ties are common
        rates=four(st.sampled_from([0.05, 0.1]) | st.floats(0.01, 1)),
        log_factors=four(st.sampled_from([0.0, 0.1]) | st.floats(-1, 1)),
        accuracies=four(st.sampled_from([0.2, 0.5, 0.5000001, 0.9])),
        scores=four(st.sampled_from([0.25, 0.5]) | st.floats(0.01, 0.99)),
        features=st.builds(
            lambda text, low, high: seen_request(text, low=low, medium=(low + high) // 2, high=high),
            st.integers(1, 100),
            tokens,
            tokens,
        ),
        budget_ms=st.sampled_from([10.0, 20.0]) | st.floats(1e-3, 500),
        exceeded=st.integers(0, 5),
    )


def decided(controller: Controller, budget_ms: float, features: RequestFeatures) -> Decision:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)
        return controller.predict(budget_ms, features=features)


def warned(controller: Controller, case: Case) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        controller.predict(case.budget_ms, features=case.features)
    return [str(each.message) for each in caught]


@given(cases(), st.sampled_from(LEARNERS))
def test_what_is_promised_fits_and_is_promised_whenever_something_does(case: Case, learner: str) -> None:
    decision = decided(case.learned(learner), case.budget_ms, case.features)
    fitting = case.bound().fitting(case.budget_ms, case.features)
    assert decision.within_budget == bool(fitting)
    if decision.within_budget:
        assert decision.bound_ms is not None and decision.bound_ms <= case.budget_ms
        assert decision.config in fitting


@given(cases(), st.sampled_from(LEARNERS))
def test_where_nothing_fits_it_is_the_controller_with_bounds(case: Case, learner: str) -> None:
    learned, bound = case.learned(learner), case.bound()
    decision = decided(bound, case.budget_ms, case.features)
    assert warned(learned, case) == warned(bound, case)
    if not decision.within_budget:
        assert decided(learned, case.budget_ms, case.features) == decision
        with pytest.raises(BudgetTooSmallError) as raised:
            learned.predict(case.budget_ms, features=case.features, strict=True)
        with pytest.raises(BudgetTooSmallError) as plain:
            case.bound().predict(case.budget_ms, features=case.features, strict=True)
        assert raised.value.fastest_ms == plain.value.fastest_ms > case.budget_ms


@given(cases())
def test_predicted_accuracies_are_spent_on_the_best_reward_that_fits(case: Case) -> None:
    learned, bound = case.learned("supervised"), case.bound()
    decision = decided(learned, case.budget_ms, case.features)
    fitting = bound.fitting(case.budget_ms, case.features)
    offered = replace(case, exceeded=0).bound().fitting(case.budget_ms, case.features)
    if fitting:
        predicted = dict(
            zip(learned.chooser.configs, learned.chooser.scores(request_vector(case.features), 1.0), strict=True)
        )
        times = dict(zip(bound.ranked.configs, bound.times(case.features).latencies_C, strict=True))
        rewards = [float(REWARD.of(predicted[each], times[each], case.budget_ms)) for each in offered]
        # the first of equals in the order of the controller with bounds
        best = offered[rewards.index(max(rewards))]
        assert decision.refused == (best not in fitting)
        assert decision.config == (fitting[0] if decision.refused else best)


@given(cases())
def test_the_favourite_of_what_fitted_when_calibrated_is_taken_or_refused(case: Case) -> None:
    learned, bound = case.learned("grpo"), case.bound()
    decision, plain = (decided(each, case.budget_ms, case.features) for each in (learned, bound))
    scores = dict(
        zip(
            learned.chooser.configs,
            learned.chooser.scores(request_vector(case.features), case.budget_ms).tolist(),
            strict=True,
        )
    )
    fitting = bound.fitting(case.budget_ms, case.features)
    assert not decision.refused
    if fitting:
        assert decision.config == next(each for each in fitting if scores[each] == max(map(scores.get, fitting)))
    else:
        assert decision == plain


@given(cases(), st.sampled_from(LEARNERS), st.permutations(GRID))
def test_the_order_of_the_scores_does_not_matter(case: Case, learner: str, order: list[KnobConfig]) -> None:
    one, other = case.learned(learner), case.learned(learner, order)
    assert decided(one, case.budget_ms, case.features) == decided(other, case.budget_ms, case.features)


@given(cases(), st.sampled_from(LEARNERS))
def test_drift_moves_what_fits_and_the_bounds_that_are_told(case: Case, learner: str) -> None:
    learned = case.learned(learner)
    decision = decided(learned, case.budget_ms, case.features)
    assert learned.bound.drift.factor == case.bound().drift.factor
    assert (learned.bound.drift.factor > 1) == (case.exceeded > 0)
    factor = dict(zip(GRID, case.log_factors, strict=True))[decision.config]
    assert decision.bound_ms is not None
    told = decision.bound_ms / decision.latency_ms
    assert told == pytest.approx(math.exp(factor) * learned.bound.drift.factor)
