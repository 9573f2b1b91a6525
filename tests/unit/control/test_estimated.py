import math

import numpy as np
import pytest
from latency_models import GRID, TokenLinear, bounds_of, request, scores_of, steady_bounds, token_linear

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.control.dataset_tables import DatasetTables
from paceline.control.estimated import BoundController, PointController
from paceline.control.fixed import FixedConfiguration
from paceline.errors import (
    BudgetTooSmallError,
    EstimatorError,
    InvalidValueError,
    PacelineWarning,
    TableError,
    UnknownChoiceError,
)
from paceline.estimate.bounds import LatencyBounds
from paceline.records import KnobConfig, LatencyKind

# latencies of request(): low/8 8, low/16 16, high/8 16, high/16 32 ms; accuracies 0.3, 0.6, 0.5, 0.9
LOW_8, LOW_16, HIGH_8, HIGH_16 = GRID


@pytest.mark.parametrize(
    ("budget_ms", "config", "bound_ms"),
    [(9.7, LOW_8, 9.6), (19.1, LOW_8, 9.6), (19.3, LOW_16, 19.2), (38.3, LOW_16, 19.2), (38.5, HIGH_16, 38.4)],
)
def test_the_most_accurate_whose_bound_fits_is_taken(budget_ms: float, config: KnobConfig, bound_ms: float) -> None:
    decision = BoundController(model=token_linear(), bounds=steady_bounds(1.2)).predict(budget_ms, features=request())
    assert (decision.config, decision.within_budget) == (config, True)
    assert decision.bound_ms == pytest.approx(bound_ms)
    assert decision.latency_ms == pytest.approx(bound_ms / 1.2)


def test_the_point_controller_looks_at_the_prediction_alone() -> None:
    point = PointController(model=token_linear(), bounds=steady_bounds(1.2))
    assert point.predict(32.1, features=request()).config == HIGH_16
    assert point.predict(31.9, features=request()).config == LOW_16
    assert point.predict(32.1, features=request()).bound_ms is None


def test_each_request_is_judged_by_its_own_features() -> None:
    controller = BoundController(model=token_linear(), bounds=steady_bounds(1.2))
    assert controller.predict(39.0, features=request()).config == HIGH_16
    assert controller.predict(39.0, features=request(high=400)).config == LOW_16


def test_a_configuration_with_wider_misses_needs_more_room() -> None:
    scores = [[math.log(1.1)] * 99, [math.log(3.0)] * 99, [math.log(1.1)] * 99, [math.log(1.1)] * 99]
    controller = BoundController(model=token_linear(), bounds=bounds_of(scores))
    # low/16 and high/8 are predicted equally fast, but the bound of low/16 is 48: what comes after it in the sequence of tests
    # cannot be promised either, or the confidence would hold for each alone and not for the one taken
    assert controller.predict(20.0, features=request()).config == LOW_8
    assert controller.predict(50.0, features=request()).config == HIGH_16


def test_a_fast_configuration_that_is_known_to_miss_widely_holds_back_none_that_does_not() -> None:
    scores = [
        [math.log(5.0)] * 99,
        [math.log(1.1)] * 99,
        [math.log(1.1)] * 99,
        [math.log(1.1)] * 99,
    ]  # bounds 40, 17.6, 17.6, 35
    unaware = BoundController(model=token_linear(), bounds=bounds_of(scores))
    aware = BoundController(
        model=token_linear(), bounds=bounds_of(scores, expected={"prefill": np.array([4.8, 1.1, 1.1, 1.1])})
    )
    with pytest.warns(PacelineWarning, match="no configuration"):
        assert not unaware.predict(36.0, features=request()).within_budget
    decision = aware.predict(36.0, features=request())
    assert (decision.config, decision.within_budget) == (HIGH_16, True)
    with pytest.raises(BudgetTooSmallError, match=r"17\.6"):
        aware.predict(17.0, features=request(), strict=True)


def test_of_equal_accuracies_the_faster_is_taken_then_the_smaller() -> None:
    bounds = bounds_of([[0.0] * 99] * 4, accuracies=(0.5, 0.5, 0.5, 0.5))
    controller = BoundController(model=token_linear(), bounds=bounds)
    assert controller.predict(100.0, features=request()).config == LOW_8
    alike = BoundController(model=TokenLinear(dict.fromkeys(GRID, 0.1)), bounds=bounds)
    assert alike.predict(100.0, features=request(low=100, high=100)).config == LOW_8
    assert alike.predict(100.0, features=request(low=100, high=90)).config == HIGH_8


def test_where_none_fits_the_smallest_bound_is_taken() -> None:
    scores = [[math.log(5.0)] * 99, [0.0] * 99, [math.log(1.1)] * 99, [0.0] * 99]  # bounds 40, 16, 17.6, 32
    controller = BoundController(model=token_linear(), bounds=bounds_of(scores))
    with pytest.warns(PacelineWarning, match="low_4_16 with 16.0 ms"):
        decision = controller.predict(10.0, features=request())
    assert (decision.config, decision.within_budget) == (LOW_16, False)


def test_the_models_order_of_configurations_does_not_matter() -> None:
    rates = {config: 0.01 * (config.num_active_blocks or 0) for config in reversed(GRID)}
    scores = [[math.log(1.1 + place)] * 99 for place in range(4)]
    one = BoundController(model=token_linear(), bounds=bounds_of(scores))
    other = BoundController(model=TokenLinear(rates), bounds=bounds_of(scores))
    for budget_ms in (9.0, 36.0, 45.0, 60.0, 140.0):
        assert one.predict(budget_ms, features=request()) == other.predict(budget_ms, features=request())


def test_features_outside_of_training_are_told() -> None:
    decision = BoundController(model=token_linear(), bounds=steady_bounds()).predict(
        1e6, features=request(text_tokens=5000)
    )
    assert decision.outside == ("text_tokens",)


def test_totals_count_the_expected_answer() -> None:
    controller = PointController(model=token_linear(), bounds=steady_bounds(), latency_kind="total")
    assert controller.predict(1e6, features=request()).latency_ms == pytest.approx(32 + 2 * (5 - 1))
    short = request(expected_output_tokens=1.0)
    assert controller.predict(1e6, features=short).latency_ms == pytest.approx(32)


def test_a_total_of_several_tokens_needs_a_model_that_saw_decoding() -> None:
    model = TokenLinear({config: 0.1 for config in GRID}, decode_ms=math.nan)
    controller = PointController(model=model, bounds=steady_bounds(), latency_kind="total")
    assert controller.predict(1e6, features=request(expected_output_tokens=1.0)).within_budget
    with pytest.raises(InvalidValueError, match="no sample .* had a decode step"):
        controller.predict(1e6, features=request())


def test_model_and_bounds_must_cover_the_same_configurations() -> None:
    with pytest.raises(EstimatorError, match=r"only one of them covers high_4_16"):
        BoundController(model=TokenLinear(dict.fromkeys(GRID[:3], 0.1)), bounds=steady_bounds())


def test_a_promise_that_the_calibration_cannot_give_is_refused() -> None:
    bounds = steady_bounds(count=15)
    with pytest.raises(InvalidValueError, match=r"at least 0.0625: 15 requests .* so that 19 calibrate"):
        BoundController(model=token_linear(), bounds=bounds, alpha=0.05, confidence=None)
    BoundController(model=token_linear(), bounds=bounds, alpha=0.0625, confidence=None)
    with pytest.raises(InvalidValueError, match=r"at least 0.1423: 15 requests .* so that 45 calibrate"):
        BoundController(model=token_linear(), bounds=bounds, alpha=0.05)
    BoundController(model=token_linear(), bounds=bounds, alpha=0.1424)
    with pytest.raises(InvalidValueError, match="alpha is 1.5"):
        BoundController(model=token_linear(), bounds=bounds, alpha=1.5)


def test_a_latency_kind_that_was_not_calibrated_is_refused() -> None:
    bounds = steady_bounds()
    prefill_only = LatencyBounds(configs=bounds.configs, scores={"prefill": bounds.scores["prefill"]})
    with pytest.raises(UnknownChoiceError, match="latency kind 'total'"):
        BoundController(model=token_linear(), bounds=prefill_only, latency_kind="total")


def test_observing_moves_the_bounds_and_nothing_else() -> None:
    controller = BoundController(model=token_linear(), bounds=steady_bounds(1.2))
    before = controller.predict(1e6, features=request())
    assert before.bound_ms is not None
    for _ in range(10):
        controller.observe(before, before.bound_ms * 1.01)
    after = controller.predict(1e6, features=request())
    assert after.bound_ms == pytest.approx(before.bound_ms * math.exp(10 * 0.0005 * 19))
    assert after.latency_ms == before.latency_ms
    with pytest.raises(InvalidValueError, match="without a bound"):
        controller.observe(FixedConfiguration(entry=entry(50.0), latency_kind="prefill").predict(99.0), 3.0)


def test_scores_of_several_configurations_may_be_of_different_requests() -> None:
    scores = scores_of([[0.1, 0.2], [], [0.3], [0.1]])
    assert scores.num_requests == 2


def entry(latency_ms: float) -> TableEntry:
    return TableEntry(
        config=LOW_8, accuracy=0.5, latency_ms=latency_ms, num_samples=3, accuracy_std=0.1, latency_std_ms=1.0
    )


def one_entry_table(latency_ms: float, kind: LatencyKind = "prefill") -> LookupTable:
    metadata = TableMetadata(
        aggregation_method="mean", tolerance=0.0, latency_kind=kind, datasets=("synthetic",), num_profiling_results=3
    )
    return LookupTable(entries=[entry(latency_ms)], metadata=metadata)


def test_a_dataset_is_served_by_its_own_table_in_either_spelling() -> None:
    tables = DatasetTables(tables={"text_vqa": one_entry_table(10.0)}, otherwise=one_entry_table(70.0))
    assert tables.predict(100.0, features=request(dataset="text-vqa")).latency_ms == 10.0
    assert tables.predict(100.0, features=request(dataset="okvqa")).latency_ms == 70.0
    assert tables.predict(100.0, features=request()).latency_ms == 70.0
    assert tables.predict(100.0).latency_ms == 70.0
    with pytest.raises(TableError, match="expected one latency kind"):
        DatasetTables(tables={"text_vqa": one_entry_table(10.0, "total")}, otherwise=one_entry_table(70.0))
