"""The controller with bounds against its definition, on any grid of latencies, scores and accuracies."""

import math
import warnings
from dataclasses import replace
from itertools import takewhile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from latency_models import GRID, TokenLinear, bounds_of, request

from paceline.control.estimated import BoundController, PointController
from paceline.errors import PacelineWarning
from paceline.estimate.bounds import LatencyBounds
from paceline.records import Decision

# few distinct values, so that ties are common
ACCURACIES = st.lists(st.sampled_from([0.2, 0.5, 0.5000001, 0.9]), min_size=4, max_size=4)
RATES = st.lists(st.sampled_from([0.05, 0.1]) | st.floats(0.01, 1), min_size=4, max_size=4)
SCORES = st.lists(st.sampled_from([0.0, 0.1]) | st.floats(-1, 1), min_size=4, max_size=4)
EXPECTED = st.lists(st.sampled_from([1.0, 2.0]) | st.floats(0.5, 3), min_size=4, max_size=4)
BUDGETS = st.sampled_from([10.0, 20.0]) | st.floats(1e-3, 500)


def decided(controller: BoundController | PointController, budget_ms: float) -> Decision:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)
        return controller.predict(budget_ms, features=request())


def bounds_with(scores: list[float], accuracies: list[float]) -> LatencyBounds:
    return bounds_of([[score] * 45 for score in scores], accuracies=accuracies)


@given(RATES, SCORES, EXPECTED, ACCURACIES, BUDGETS)
def test_a_decision_is_what_the_definition_says(
    rates: list[float], scores: list[float], expected: list[float], accuracies: list[float], budget_ms: float
) -> None:
    model = TokenLinear(dict(zip(GRID, rates, strict=True)))
    bounds = replace(bounds_with(scores, accuracies), expected={"prefill": np.array(expected)})
    decision = decided(BoundController(model=model, bounds=bounds), budget_ms)
    latencies = model.estimate(request()).prefill_ms_C.tolist()
    limits = [latency * float(np.exp(score)) for latency, score in zip(latencies, scores, strict=True)]
    foreseen = [latency * factor for latency, factor in zip(latencies, expected, strict=True)]
    rows = list(zip(accuracies, latencies, limits, GRID, foreseen, strict=True))
    # smallest expected bound first, of equals the more accurate and then the smaller: up to the first that does not fit
    sequence = sorted(rows, key=lambda row: (row[4], -row[0], row[3].size))
    fitting = list(takewhile(lambda row: row[2] <= budget_ms, sequence))
    assert decision.within_budget == bool(fitting)
    if fitting:
        best = min(fitting, key=lambda row: (-row[0], row[1], row[3].size))
        assert decision.config == best[3]
    else:
        assert decision.bound_ms == min(limits)
    assert decision.bound_ms is not None
    assert math.isclose(decision.bound_ms / decision.latency_ms, math.exp(scores[GRID.index(decision.config)]))


@given(RATES, SCORES, ACCURACIES, BUDGETS, BUDGETS)
def test_a_larger_budget_never_loses_accuracy(
    rates: list[float], scores: list[float], accuracies: list[float], one_ms: float, other_ms: float
) -> None:
    model = TokenLinear(dict(zip(GRID, rates, strict=True)))
    controller = BoundController(model=model, bounds=bounds_with(scores, accuracies))
    tight, loose = (decided(controller, budget_ms) for budget_ms in sorted((one_ms, other_ms)))
    if tight.within_budget:
        assert loose.within_budget and loose.accuracy >= tight.accuracy


@given(RATES, ACCURACIES, BUDGETS)
def test_with_bounds_that_add_nothing_it_decides_as_the_point_controller(
    rates: list[float], accuracies: list[float], budget_ms: float
) -> None:
    model, bounds = TokenLinear(dict(zip(GRID, rates, strict=True))), bounds_with([0.0] * 4, accuracies)
    bound, point = BoundController(model=model, bounds=bounds), PointController(model=model, bounds=bounds)
    one, other = decided(bound, budget_ms), decided(point, budget_ms)
    assert (one.config, one.within_budget) == (other.config, other.within_budget)
