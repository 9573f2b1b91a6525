import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.errors import BudgetTooSmallError, InvalidValueError, PacelineWarning, TableError, UnknownChoiceError
from paceline.records import KnobConfig


def entry(key: str, *, accuracy: float, latency_ms: float, num_samples: int = 100) -> TableEntry:
    return TableEntry(
        config=KnobConfig.from_key(key),
        accuracy=accuracy,
        latency_ms=latency_ms,
        num_samples=num_samples,
        accuracy_std=0.25,
        latency_std_ms=2.5,
    )


def metadata(**changes: Any) -> TableMetadata:
    plain: dict[str, Any] = {
        "aggregation_method": "mean",
        "tolerance": 0.05,
        "latency_kind": "prefill",
        "datasets": ("text_vqa",),
        "num_profiling_results": 300,
        "provenance": ({"model": "synthetic"},),
    }
    return TableMetadata(**{**plain, **changes})


def three_point_table(**changes: Any) -> LookupTable:
    entries = [
        entry("low_4_8", accuracy=0.5, latency_ms=100.0),
        entry("medium_8_12", accuracy=0.7, latency_ms=200.0),
        entry("high_8_16", accuracy=0.8, latency_ms=300.0),
        entry("medium_4_8", accuracy=0.45, latency_ms=180.0),
    ]
    return LookupTable(entries=entries, metadata=metadata(**changes))


@pytest.mark.parametrize(
    ("budget_ms", "key"),
    [(100, "low_4_8"), (190.4, "low_4_8"), (190.5, "medium_8_12"), (250, "medium_8_12"), (1e6, "high_8_16")],
)
def test_predict_takes_the_most_accurate_within_budget_and_tolerance(budget_ms: float, key: str) -> None:
    decision = three_point_table().predict(budget_ms)
    assert decision.config.key == key
    assert decision.within_budget


def test_a_tolerance_of_the_call_replaces_the_tables_own() -> None:
    table = three_point_table()
    assert table.predict(199, tolerance=0).config.key == "low_4_8"
    assert table.predict(199, tolerance=1).config.key == "high_8_16"
    with pytest.raises(InvalidValueError, match="tolerance"):
        table.predict(199, tolerance=-0.1)


def test_when_none_fits_the_nearest_comes_marked_and_warned_of() -> None:
    table = three_point_table()
    with pytest.warns(PacelineWarning, match=r"budget of 40 ms.*low_4_8 at 100\.0 ms") as caught:
        decision = table.predict(40)
    assert decision.config.key == "low_4_8"
    assert not decision.within_budget
    assert caught[0].filename == __file__


def test_strictness_turns_the_warning_into_an_error_with_the_remedy() -> None:
    with pytest.raises(BudgetTooSmallError, match="the fastest takes") as caught:
        three_point_table().predict(40, strict=True)
    assert caught.value.fastest_ms == 100.0


@pytest.mark.parametrize("budget_ms", [0, -1, math.nan, math.inf])
def test_impossible_budgets_are_refused(budget_ms: float) -> None:
    table = three_point_table()
    for ask in (table.predict, table.candidates, table.predict_stage1, table.predict_stage2):
        with pytest.raises(InvalidValueError, match="latency budget"):
            ask(budget_ms)


def test_ties_go_to_the_faster_then_to_the_smaller() -> None:
    faster = [entry("high_8_16", accuracy=0.7, latency_ms=90.0), entry("low_4_8", accuracy=0.7, latency_ms=91.0)]
    assert LookupTable(entries=faster, metadata=metadata()).predict(100).config.key == "high_8_16"
    smaller = [entry(key, accuracy=0.7, latency_ms=90.0) for key in ("low_8_16", "low_4_16", "medium_4_8", "low_4_8")]
    assert LookupTable(entries=smaller, metadata=metadata()).predict(100).config.key == "low_4_8"


def test_stages_split_the_decision() -> None:
    table = three_point_table()
    assert table.predict_stage1(250) == "medium"
    assert table.predict_stage2(250) == (8, 12)


def test_candidates_are_all_that_fit_best_first() -> None:
    keys = [each.config.key for each in three_point_table().candidates(200)]
    assert keys == ["medium_8_12", "low_4_8", "medium_4_8"]
    assert three_point_table().candidates(40) == ()


def test_front_leaves_out_what_no_budget_leads_to() -> None:
    assert [each.config.key for each in three_point_table().front] == ["low_4_8", "medium_8_12", "high_8_16"]


def test_what_is_never_taken_and_where_decisions_change() -> None:
    table = three_point_table()
    assert [each.config.key for each in table.never_taken] == ["medium_4_8"]
    assert table.thresholds_ms == (95.24, 190.48, 285.72)
    assert [table.predict(ms).config.key for ms in table.thresholds_ms] == ["low_4_8", "medium_8_12", "high_8_16"]
    assert table.entry_of(KnobConfig.from_key("medium_4_8")).accuracy == 0.45
    with pytest.raises(TableError, match="high_4_4 is not in the table"):
        table.entry_of(KnobConfig.from_key("high_4_4"))


def test_figures_of_the_table() -> None:
    table = three_point_table()
    assert table.latency_range_ms == (100.0, 300.0)
    assert table.accuracy_range == (0.45, 0.8)
    statistics = table.statistics
    assert (statistics.num_configs, statistics.latency_median_ms) == (4, 190.0)
    # budgets 100 to 300 in steps of 5: medium from 190.5 (195), high from 285.7 (290)
    assert statistics.config_distribution == {"low_4_8": 19, "medium_8_12": 19, "high_8_16": 3}


def test_a_table_refuses_other_latency_kinds() -> None:
    three_point_table().require_kind("prefill")
    with pytest.raises(TableError, match="holds prefill latencies and cannot be compared with total ones"):
        three_point_table().require_kind("total")


def test_a_table_says_what_limits_it() -> None:
    assert three_point_table().cautions == ()
    optimistic, analysis_only = three_point_table(aggregation_method="max_accuracy", latency_kind="total").cautions
    assert "optimistic" in optimistic
    assert "analysis only" in analysis_only
    uneven = [
        entry("low_4_8", accuracy=0.5, latency_ms=10.0),
        entry("low_4_16", accuracy=0.6, latency_ms=12.0, num_samples=90),
    ]
    assert "90 to 100 samples" in LookupTable(entries=uneven, metadata=metadata()).cautions[0]


def test_models_without_a_knob_have_tables_too() -> None:
    dense = LookupTable(entries=[entry("low_none_16", accuracy=0.4, latency_ms=9.0)], metadata=metadata())
    assert dense.predict_stage2(10) == (None, 16)


def test_tables_without_entries_or_with_doubles_cannot_be_built() -> None:
    with pytest.raises(TableError, match="at least one"):
        LookupTable(entries=[], metadata=metadata())
    double = entry("low_4_8", accuracy=0.5, latency_ms=100.0)
    with pytest.raises(TableError, match="low_4_8 is in the table twice"):
        LookupTable(entries=[double, double], metadata=metadata())


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": math.nan},
        {"latency_ms": -1.0},
        {"latency_ms": 0.0},
        {"latency_std_ms": math.inf},
        {"accuracy_std": -1.0},
        {"num_samples": 0},
    ],
)
def test_impossible_entries_cannot_be_built(changes: dict[str, Any]) -> None:
    plain = {"accuracy": 0.5, "latency_ms": 1.0, "num_samples": 1, "accuracy_std": 0.0, "latency_std_ms": 0.0}
    with pytest.raises(InvalidValueError):
        TableEntry(config=KnobConfig.from_key("low_4_8"), **{**plain, **changes})


@pytest.mark.parametrize("changes", [{"aggregation_method": "mode"}, {"latency_kind": "llm-prefill"}, {"tolerance": 5}])
def test_impossible_metadata_cannot_be_built(changes: dict[str, Any]) -> None:
    with pytest.raises((UnknownChoiceError, InvalidValueError)):
        metadata(**changes)


def test_the_file_has_the_documented_layout(tmp_path: Path) -> None:
    document = three_point_table().document()
    assert list(document) == ["config_table", "lookup_table", "statistics", "metadata"]
    assert document["config_table"]["low_4_8"] == {
        "accuracy": 0.5,
        "latency": 100.0,
        "num_samples": 100,
        "accuracy_std": 0.25,
        "latency_std": 2.5,
    }
    assert list(document["lookup_table"])[:2] == ["100", "105"]
    assert list(document["lookup_table"])[-1] == "300"
    assert set(document["statistics"]) == {
        "num_configs",
        "latency_range",
        "accuracy_range",
        "latency_stats",
        "config_distribution",
    }
    assert document["metadata"]["use_prefill_only"] is True
    path = tmp_path / "table.json"
    path.write_text(json.dumps(document))
    loaded = LookupTable.load(str(path))
    assert loaded.document() == document
    assert loaded.metadata == three_point_table().metadata


DAMAGES = {
    "config_table is missing": lambda document: document.pop("config_table"),
    "metadata is missing": lambda document: document.pop("metadata"),
    "config_table is empty": lambda document: document["config_table"].clear(),
    "config_table.low_4_8.latency is missing": lambda document: document["config_table"]["low_4_8"].pop("latency"),
    "config_table.low_4_8.latency is 'fast'": lambda document: document["config_table"]["low_4_8"].update(
        latency="fast"
    ),
    "config_table.low_4_8: latency is -3": lambda document: document["config_table"]["low_4_8"].update(latency=-3),
    "config_table.low_4_8: accuracy is nan": lambda document: document["config_table"]["low_4_8"].update(
        accuracy=math.nan
    ),
    "config_table.low_4_8.num_samples is True": lambda document: document["config_table"]["low_4_8"].update(
        num_samples=True
    ),
    "config_table.low_4_8 is 7": lambda document: document["config_table"].update(low_4_8=7),
    "tier 'hgih' is unknown": lambda document: document["config_table"].update(
        hgih_4_8=document["config_table"]["low_4_8"]
    ),
    "metadata.use_prefill_only is 'yes'": lambda document: document["metadata"].update(use_prefill_only="yes"),
    "metadata: aggregation method 'men' is unknown": lambda document: document["metadata"].update(
        aggregation_method="men"
    ),
    "metadata: tolerance is 7": lambda document: document["metadata"].update(tolerance=7),
    r"metadata.datasets\[0\] is 3": lambda document: document["metadata"].update(datasets=[3]),
    r"metadata.provenance\[0\] is 'a'": lambda document: document["metadata"].update(provenance=["a"]),
    "lookup_table holds 'low_4_8' at a budget of 300 ms, not 'high_8_16'": lambda document: document[
        "lookup_table"
    ].update({"300": "low_4_8"}),
    "lookup_table.soon is no budget": lambda document: document["lookup_table"].update(soon="low_4_8"),
    "lookup_table.-5 is no budget": lambda document: document["lookup_table"].update({"-5": "low_4_8"}),
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_a_damaged_file_is_named_with_the_field(problem: str, tmp_path: Path) -> None:
    document = three_point_table().document()
    DAMAGES[problem](document)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(document))
    with pytest.raises(TableError, match=problem) as caught:
        LookupTable.load(path)
    assert str(path) in str(caught.value)
    assert "paceline table build" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"table"', "\x00"])
def test_a_file_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(TableError, match=r"table\.json"):
        LookupTable.load(path)
    with pytest.raises(TableError, match="cannot be read"):
        LookupTable.load(tmp_path / "absent.json")
    with pytest.raises(TableError, match="cannot be read"):
        LookupTable.load(tmp_path)


def test_another_spelling_of_a_configuration_is_refused(tmp_path: Path) -> None:
    document = three_point_table().document()
    document["config_table"]["low_04_8"] = document["config_table"]["low_4_8"]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(document))
    with pytest.raises(TableError, match=r"table\.json.*low_04_8.*expected.*here 'low_4_8'"):
        LookupTable.load(path)


def test_budgets_where_nothing_fits_do_not_warn_while_the_file_is_written() -> None:
    # 63 / 1.05 is 60 up to rounding: the first budget of the file stands at the very edge of fitting
    edge = LookupTable(entries=[entry("low_4_8", accuracy=0.5, latency_ms=63.0 + 1e-14)], metadata=metadata())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(edge.by_budget().values()) == {"low_4_8"}


def test_the_controller_starts_without_the_offline_half() -> None:
    code = (
        "import sys; import paceline.control; "
        "heavy = {'torch', 'polars', 'numpy', 'pydantic', 'msgspec', 'sklearn', 'typer', 'rich'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
