import json
import tempfile
import warnings
from itertools import product
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.errors import PacelineWarning
from paceline.records import TIERS, KnobConfig

CONFIGS = [
    KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks)
    for tier, top_k, blocks in product((None, *TIERS), (None, 4, 8), (None, 8, 16))
]
# few distinct values, so that ties of accuracy and of latency are common
ACCURACIES = st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 1.0]) | st.floats(0, 3)
LATENCIES = st.sampled_from([50.0, 100.0, 150.0]) | st.floats(1, 400)
TOLERANCES = st.sampled_from([0.0, 0.05]) | st.floats(0, 1)
BUDGETS = st.sampled_from([50.0, 95.2380952380952, 100.0, 150.0]) | st.floats(1e-3, 1e4)


@st.composite
def entries(draw: st.DrawFn) -> list[TableEntry]:
    chosen = draw(st.lists(st.sampled_from(CONFIGS), min_size=1, max_size=27, unique=True))
    return [
        TableEntry(
            config=config,
            accuracy=draw(ACCURACIES),
            latency_ms=draw(LATENCIES),
            num_samples=draw(st.integers(1, 10)),
            accuracy_std=draw(st.floats(0, 1)),
            latency_std_ms=draw(st.floats(0, 50)),
        )
        for config in chosen
    ]


def table_of(rows: list[TableEntry], tolerance: float) -> LookupTable:
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=tolerance,
        latency_kind="prefill",
        datasets=("synthetic",),
        num_profiling_results=sum(row.num_samples for row in rows),
    )
    return LookupTable(entries=rows, metadata=metadata)


def brute_force(rows: list[TableEntry], limit_ms: float, budget_ms: float) -> tuple[TableEntry, bool]:
    fitting = [row for row in rows if row.latency_ms <= limit_ms]
    if fitting:
        most = max(row.accuracy for row in fitting)
        best = [row for row in fitting if row.accuracy == most]
    else:
        distance = min(abs(row.latency_ms - budget_ms) for row in rows)
        nearest = [row for row in rows if abs(row.latency_ms - budget_ms) == distance]
        most = max(row.accuracy for row in nearest)
        best = [row for row in nearest if row.accuracy == most]
    fastest = min(row.latency_ms for row in best)
    return min((row for row in best if row.latency_ms == fastest), key=lambda row: row.config.size), bool(fitting)


@given(entries(), BUDGETS, TOLERANCES, TOLERANCES | st.none())
def test_a_decision_is_what_the_definition_says(
    rows: list[TableEntry], budget_ms: float, own_tolerance: float, asked_tolerance: float | None
) -> None:
    table = table_of(rows, own_tolerance)
    tolerance = own_tolerance if asked_tolerance is None else asked_tolerance
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decision = table.predict(budget_ms, tolerance=asked_tolerance)
    expected, fits = brute_force(rows, budget_ms * (1 + tolerance), budget_ms)
    # the size leaves one thing open: a knob of value None beside a model part of size 0 cannot be told apart
    assert (decision.accuracy, decision.latency_ms) == (expected.accuracy, expected.latency_ms)
    assert decision.config.size == expected.config.size
    assert decision.within_budget == fits
    assert [each.category for each in caught] == ([] if fits else [PacelineWarning])


@given(entries(), BUDGETS, TOLERANCES)
def test_candidates_are_all_that_fit_and_the_decision_leads_them(
    rows: list[TableEntry], budget_ms: float, tolerance: float
) -> None:
    table = table_of(rows, tolerance)
    candidates = table.candidates(budget_ms)
    assert {each.config for each in candidates} == {
        r.config for r in rows if r.latency_ms <= budget_ms * (1 + tolerance)
    }
    order = [(-each.accuracy, each.latency_ms, each.config.size) for each in candidates]
    assert order == sorted(order)
    if candidates:
        assert table.predict(budget_ms).accuracy == candidates[0].accuracy


@given(entries(), TOLERANCES, BUDGETS, BUDGETS)
def test_a_larger_budget_never_loses_accuracy(
    rows: list[TableEntry], tolerance: float, one_ms: float, other_ms: float
) -> None:
    table = table_of(rows, tolerance)
    low, high = sorted((one_ms, other_ms))
    if table.candidates(low):
        assert table.predict(low).accuracy <= table.predict(high).accuracy


@given(entries(), TOLERANCES)
def test_a_file_read_back_is_the_same_table(rows: list[TableEntry], tolerance: float) -> None:
    table = table_of(rows, tolerance)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "table.json")
        path.write_text(json.dumps(table.document(), allow_nan=False))
        assert LookupTable.load(path).document() == table.document()


@given(entries(), TOLERANCES)
def test_the_front_is_what_some_budget_leads_to(rows: list[TableEntry], tolerance: float) -> None:
    table = table_of(rows, tolerance)
    taken = {table.predict(budget).config for row in rows if (budget := row.latency_ms) > 0}
    assert taken <= {each.config for each in table.front}
    accuracies = [each.accuracy for each in table.front]
    assert accuracies == sorted(set(accuracies))
