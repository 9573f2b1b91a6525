"""What a host relies on in a controller, held against every kind of controller."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from latency_models import GRID, bounds_of, steady_bounds, token_linear
from learned_controllers import seen_request, synthetic_chooser

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.control.controller import Controller, DriftCorrecting, SeesPictures
from paceline.control.dataset_tables import DatasetTables
from paceline.control.estimated import BoundController, PointController
from paceline.control.fixed import FixedConfiguration
from paceline.control.learned.controller import LearnedController
from paceline.errors import BudgetTooSmallError, InvalidValueError, PacelineWarning
from paceline.records import LATENCY_KINDS, RequestFeatures
from paceline.request_vector import REQUEST_VECTOR_NAMES

RUN = {"model": "synthetic", "block_ranking": [2, 1]}
ENTRIES = [
    TableEntry(
        config=config,
        accuracy=0.3 + place / 10,
        latency_ms=10.0 + 10 * place,
        num_samples=9,
        accuracy_std=0.1,
        latency_std_ms=1.0,
    )
    for place, config in enumerate(GRID)
]


def table() -> LookupTable:
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("synthetic",),
        num_profiling_results=36,
        provenance=(RUN,),
    )
    return LookupTable(entries=ENTRIES, metadata=metadata)


def request() -> RequestFeatures:
    return seen_request(10, low=90, medium=140, high=190)


def learned(learner: str, **changes: Any) -> LearnedController:
    chooser = synthetic_chooser(learner, configs=tuple(GRID), **changes)
    return LearnedController(chooser=chooser, model=token_linear(), bounds=_bounds())


LEARNED: dict[str, Callable[[], Controller]] = {
    "supervised": lambda: learned("supervised"),
    "grpo": lambda: learned("grpo"),
    "grpo of totals": lambda: learned("grpo", latency_kind="total"),
}
CONTROLLERS: dict[str, Callable[[], Controller]] = {
    "fixed": lambda: FixedConfiguration(entry=ENTRIES[1], latency_kind="prefill", provenance=(RUN,)),
    "table": table,
    "dataset_tables": lambda: DatasetTables(tables={"one": table()}, otherwise=table()),
    "point": lambda: PointController(model=token_linear(), bounds=_bounds()),
    "bound": lambda: BoundController(model=token_linear(), bounds=_bounds()),
    "bound of totals": lambda: BoundController(model=token_linear(), bounds=_bounds(), latency_kind="total"),
    **LEARNED,
}


def _bounds() -> Any:
    return bounds_of([[math.log(1.2)] * 99] * len(GRID), provenance=(RUN,))


@pytest.fixture(params=CONTROLLERS)
def controller(request: pytest.FixtureRequest) -> Controller:
    return CONTROLLERS[request.param]()


def test_it_says_what_it_promises_and_where_it_comes_from(controller: Controller) -> None:
    assert controller.latency_kind in LATENCY_KINDS
    assert controller.provenance == (RUN,)
    json.dumps(controller.provenance)


def test_a_large_budget_is_met_without_a_word(controller: Controller) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decision = controller.predict(1e6, features=request())
    assert decision.within_budget
    assert decision.config in GRID
    assert math.isfinite(decision.accuracy) and decision.latency_ms > 0 and decision.num_samples > 0
    assert decision.outside == ()


def test_what_fits_is_expected_to_take_no_more_than_the_budget_and_its_tolerance(controller: Controller) -> None:
    for budget_ms in (11.0, 20.0, 30.0, 45.0, 100.0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PacelineWarning)
            decision = controller.predict(budget_ms, features=request())
        if decision.within_budget:
            assert (decision.bound_ms or decision.latency_ms) <= budget_ms * 1.05


def test_a_budget_that_nothing_keeps_is_marked_and_warned_of(controller: Controller) -> None:
    with pytest.warns(PacelineWarning, match="0.001 ms"):
        decision = controller.predict(0.001, features=request())
    assert not decision.within_budget
    with pytest.raises(BudgetTooSmallError) as raised:
        controller.predict(0.001, features=request(), strict=True)
    assert raised.value.fastest_ms == pytest.approx(decision.bound_ms or decision.latency_ms)


@pytest.mark.parametrize("budget_ms", [0.0, -5.0, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(controller: Controller, budget_ms: float) -> None:
    with pytest.raises(InvalidValueError, match="latency budget"):
        controller.predict(budget_ms, features=request())


def test_the_same_question_gets_the_same_answer(controller: Controller) -> None:
    first = controller.predict(35.0, features=request())
    assert controller.predict(35.0, features=request()) == first


# what a learned controller takes need not be what is most accurate over all requests
@pytest.mark.parametrize("controller", [name for name in CONTROLLERS if name not in LEARNED], indirect=True)
def test_a_larger_budget_never_expects_less_accuracy(controller: Controller) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)
        decisions = [controller.predict(budget_ms, features=request()) for budget_ms in range(5, 80)]
    fitting = [decision.accuracy for decision in decisions if decision.within_budget]
    assert fitting == sorted(fitting)


def test_features_are_used_or_not_needed(controller: Controller) -> None:
    if isinstance(controller, PointController | BoundController | SeesPictures):
        with pytest.raises(InvalidValueError, match="features is None"):
            controller.predict(50.0)
    else:
        assert controller.predict(50.0).config in GRID


@pytest.mark.parametrize("budget_ms", [0.001, 50.0])
def test_who_sees_pictures_says_so_and_needs_them(controller: Controller, budget_ms: float) -> None:
    blind = replace(request(), picture=None)
    if isinstance(controller, SeesPictures):
        assert set(controller.looks_at) <= set(REQUEST_VECTOR_NAMES) and controller.looks_at
        with pytest.raises(InvalidValueError, match="picture is None"):
            controller.predict(budget_ms, features=blind)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PacelineWarning)
            decisions = [controller.predict(budget_ms, features=each) for each in (request(), blind)]
        assert decisions[0] == decisions[1]


def test_only_what_prefers_can_be_refused(controller: Controller) -> None:
    if not isinstance(controller, SeesPictures):
        assert not controller.predict(50.0, features=request()).refused


def test_only_what_carries_a_bound_learns_from_drift(controller: Controller) -> None:
    decision = controller.predict(50.0, features=request())
    assert isinstance(controller, DriftCorrecting) == (decision.bound_ms is not None)
    if isinstance(controller, DriftCorrecting):
        controller.observe(decision, 1.0)
        with pytest.raises(InvalidValueError, match="measured latency"):
            controller.observe(decision, math.nan)


def test_steady_bounds_are_what_they_say() -> None:
    decision = BoundController(model=token_linear(), bounds=steady_bounds(1.5)).predict(1e6, features=request())
    assert decision.bound_ms == pytest.approx(1.5 * decision.latency_ms)
