import math

import numpy as np
import polars as pl
import pytest

from paceline.analyze import (
    ConfigPoint,
    LatencyPercentiles,
    analyze_budgets,
    analyzed_columns,
    budgets_document,
    compare_fronts,
    latency_percentiles,
    listed_budgets,
    mean_jaccard,
    pareto_front,
    recommend_budgets,
    soft_penalty_ms,
    uniform_budgets,
)
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import KnobConfig


def point(key: str, accuracy: float, latency_ms: float) -> ConfigPoint:
    return ConfigPoint(
        config=KnobConfig.from_key(key),
        accuracy=accuracy,
        latency_ms=latency_ms,
        accuracy_std=0.0,
        latency_std_ms=0.0,
        num_samples=1,
    )


def samples(*rows: tuple[str, str, float, float]) -> pl.DataFrame:
    """Rows of (dataset, configuration key, accuracy, vision ms); LLM prefill takes 10 ms, all in all 100."""
    configs = [KnobConfig.from_key(key) for _, key, _, _ in rows]
    return pl.DataFrame(
        {
            "dataset": pl.Series([row[0] for row in rows], dtype=pl.Categorical()),
            "tier": [config.tier for config in configs],
            "top_k": pl.Series([config.top_k for config in configs], dtype=pl.Int32),
            "num_active_blocks": pl.Series([config.num_active_blocks for config in configs], dtype=pl.Int32),
            "accuracy": [row[2] for row in rows],
            "T_vision_total": [row[3] for row in rows],
            "T_LLM_prefill": [10.0] * len(rows),
            "T_total": [100.0] * len(rows),
        }
    )


TWO_SETS = samples(
    ("one", "low_4_8", 0.0, 40.0),
    ("one", "low_4_8", 1.0, 60.0),
    ("one", "high_8_16", 1.0, 90.0),
    ("one", "medium_8_16", 0.5, 80.0),
    ("two", "low_4_8", 0.25, 30.0),
    ("two", "medium_8_16", 0.75, 70.0),
)


def test_recommended_range_from_percentiles_golden() -> None:
    found = recommend_budgets(102.3, 175.3, 166.49, 371.52)
    assert found.percentile_range_ms == (100, 180)
    assert found.safer_upper_ms == 200


def test_recommended_budgets_from_fronts_golden() -> None:
    ends = [(218.56, 371.52), (166.49, 294.69), (177.90, 289.24)]
    fronts = [(point("low_4_8", 0.1, low), point("high_4_8", 0.2, high)) for low, high in ends]
    across = compare_fronts(fronts)
    assert (across.min_ms, across.max_ms) == (166.49, 371.52)
    means = (across.mean_min_ms, across.mean_max_ms)
    medians = (across.median_min_ms, across.median_max_ms)
    assert means == pytest.approx((187.65, 318.48), abs=0.005)
    assert medians == pytest.approx((177.90, 294.69))
    recommended = recommend_budgets(102.3, 175.3, across.min_ms, across.max_ms)
    assert recommended.front_range_ms == (170, 380)
    assert recommended.budgets_ms == (170, 200, 250, 300, 350, 380)
    assert recommended.linspace_ms == pytest.approx(np.linspace(170, 380, 10))


@pytest.mark.parametrize(
    ("low", "high", "budgets"),
    [(200.0, 300.0, (200, 250, 300)), (12.0, 14.0, (20,)), (41.0, 52.0, (50, 60)), (31.0, 52.0, (40, 50, 60))],
)
def test_sample_budgets_hold_both_ends_once_and_fifties_between(
    low: float, high: float, budgets: tuple[int, ...]
) -> None:
    assert recommend_budgets(low, high, low, high).budgets_ms == budgets


def test_a_whole_ten_stays_although_floats_miss_it() -> None:
    assert recommend_budgets(100.0, 170.0, 0.1 + 0.2 + 169.7, 300.0).front_range_ms[0] == 170


@pytest.mark.parametrize("values", [[3.0], [1.0, 2.0, 4.0], list(np.random.default_rng(0).lognormal(5, 1, 997))])
def test_percentiles_are_numpys(values: list[float]) -> None:
    frame = pl.DataFrame({"T_total": values})
    found = latency_percentiles(frame, "total")
    cuts = np.percentile(values, [0, 5, 25, 50, 75, 95, 100])
    expected = [*cuts, np.mean(values), np.std(values)]
    assert [getattr(found, name) for name in LatencyPercentiles.__slots__[:-1]] == pytest.approx(expected)
    assert found.n == len(values)


def test_each_latency_kind_adds_its_own_stages() -> None:
    medians = {kind: latency_percentiles(TWO_SETS, kind).median for kind in ("prefill", "llm-prefill", "total")}
    assert medians == {"prefill": 75.0, "llm-prefill": 10.0, "total": 100.0}
    with pytest.raises(UnknownChoiceError, match="did you mean 'prefill'"):
        latency_percentiles(TWO_SETS, "prefil")


def test_an_analysis_needs_no_other_columns_than_it_names() -> None:
    for kind in ("prefill", "llm-prefill", "total"):
        analyze_budgets(TWO_SETS.select(analyzed_columns(kind)), latency_kind=kind)


def test_fronts_per_dataset_and_across() -> None:
    analysis = analyze_budgets(TWO_SETS)
    one = analysis.datasets["one"]
    assert [each.config.key for each in one.points] == ["low_4_8", "medium_8_16", "high_8_16"]
    assert [each.config.key for each in one.front] == ["low_4_8", "high_8_16"]
    assert (one.fastest.accuracy, one.fastest.latency_ms, one.fastest.num_samples) == (0.5, 60.0, 2)
    assert (one.fastest.accuracy_std, one.fastest.latency_std_ms) == (0.5, 10.0)
    assert one.most_accurate.config.key == "high_8_16"
    # low is on both fronts, high and medium on one each
    assert analysis.across.jaccard == pytest.approx(1 / 3)
    assert (analysis.across.min_ms, analysis.across.max_ms) == (40.0, 100.0)


def test_configurations_on_no_front_are_shown() -> None:
    found = analyze_budgets(TWO_SETS, datasets=["one"])
    assert [config.key for config in found.on_no_front] == ["medium_8_16"]
    assert analyze_budgets(TWO_SETS).on_no_front == ()


def test_one_dataset_has_no_similarity() -> None:
    assert analyze_budgets(TWO_SETS, datasets=["two"]).across.jaccard is None


def test_datasets_are_chosen_by_either_spelling_and_unknown_ones_refused() -> None:
    named = TWO_SETS.with_columns(dataset=pl.lit("text_vqa"))
    assert list(analyze_budgets(named, datasets=["text-vqa"]).datasets) == ["text_vqa"]
    with pytest.raises(UnknownChoiceError, match=r"dataset 'tow' is unknown; expected one or two"):
        analyze_budgets(TWO_SETS, datasets=["tow"])


def test_a_profile_without_samples_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="paceline profile"):
        analyze_budgets(TWO_SETS.clear())


def test_text_and_categories_name_datasets_alike() -> None:
    plain = TWO_SETS.with_columns(pl.col("dataset").cast(pl.String))
    assert analyze_budgets(plain) == analyze_budgets(TWO_SETS)


def test_equal_points_share_the_front_and_a_slower_equal_is_off_it() -> None:
    twins = [point("low_4_8", 0.5, 10.0), point("medium_4_8", 0.5, 10.0), point("high_4_8", 0.5, 11.0)]
    assert [each.config.tier for each in pareto_front(twins)] == ["low", "medium"]


def test_jaccard_is_the_mean_over_pairs() -> None:
    a, b, c = (KnobConfig.from_key(f"{tier}_4_8") for tier in ("low", "medium", "high"))
    assert mean_jaccard([{a, b}, {a, b}, {c}]) == pytest.approx(1 / 3)


def test_document_has_the_keys_others_read() -> None:
    document = budgets_document(analyze_budgets(TWO_SETS))
    assert list(document) == ["latency_kind", "n", "percentiles_ms", "datasets", "across", "recommended", "on_no_front"]
    assert list(document["percentiles_ms"]) == ["min", "p5", "p25", "median", "p75", "p95", "max", "mean", "std"]
    assert list(document["datasets"]["one"]) == ["front", "front_points", "most_accurate", "fastest"]
    assert document["datasets"]["one"]["fastest"] == {
        "tier": "low",
        "top_k": 4,
        "num_active_blocks": 8,
        "accuracy": 0.5,
        "latency_ms": 60.0,
    }
    across = "min_ms max_ms mean_min_ms mean_max_ms median_min_ms median_max_ms jaccard"
    assert list(document["across"]) == across.split()
    recommended = "percentile_range_ms safer_upper_ms front_range_ms budgets_ms linspace_ms"
    assert list(document["recommended"]) == recommended.split()


def test_uniform_budgets_fill_the_range_and_repeat_with_their_generator() -> None:
    drawn = uniform_budgets((170, 380), np.random.default_rng(1), 5000)
    assert drawn.shape == (5000,)
    assert 170 <= drawn.min() < 172
    assert 378 < drawn.max() <= 380
    assert np.array_equal(drawn, uniform_budgets((170, 380), np.random.default_rng(1), 5000))


def test_listed_budgets_draw_every_budget_alike() -> None:
    drawn = listed_budgets([170, 200, 250], np.random.default_rng(1), 6000)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [170.0, 200.0, 250.0]
    assert counts.min() > 1800


@pytest.mark.parametrize("range_ms", [(0, 10), (20, 10), (1, math.inf), (math.nan, 10)])
def test_impossible_budget_ranges_are_refused(range_ms: tuple[float, float]) -> None:
    with pytest.raises(InvalidValueError, match="budget range"):
        uniform_budgets(range_ms, np.random.default_rng(1), 1)
    with pytest.raises(InvalidValueError, match="budgets"):
        listed_budgets([100, 0], np.random.default_rng(1), 1)


def test_soft_penalty_weighs_decode_less_than_prefill() -> None:
    def penalty(prefill_ms: float, decode_ms: float) -> float:
        return soft_penalty_ms(
            prefill_ms=prefill_ms, budget_ms=100.0, decode_ms=decode_ms, decode_target_ms=50.0, alpha=0.2
        )

    assert penalty(90.0, 40.0) == 0.0
    assert penalty(130.0, 40.0) == 30.0
    assert penalty(90.0, 60.0) == pytest.approx(2.0)
    assert penalty(130.0, 60.0) == pytest.approx(32.0)
    with pytest.raises(InvalidValueError, match=r"from 0\.1 to 0\.2"):
        soft_penalty_ms(prefill_ms=1.0, budget_ms=1.0, decode_ms=1.0, decode_target_ms=1.0, alpha=0.5)


@pytest.mark.parametrize(
    ("p5_ms", "p95_ms", "low", "high", "percentiles", "safer", "budgets"),
    [
        (102.3, 175.3, 166.49, 371.52, (100, 180), 200, (170, 200, 250, 300, 350, 380)),
        (6.4, 58.0, 7.1, 61.2, (5, 60), 100, (10, 50, 70)),
        (0.31, 2.2, 0.42, 3.1, (0.2, 4), 10, (0.6, 4)),
        (3.0, 3.0, 3.0, 3.0, (2, 4), 10, (4,)),
    ],
)
def test_budgets_of_fast_models_are_above_0_and_fit_their_scale(p5_ms, p95_ms, low, high, percentiles, safer, budgets):
    found = recommend_budgets(p5_ms, p95_ms, low, high)
    assert (found.percentile_range_ms, found.safer_upper_ms, found.budgets_ms) == (percentiles, safer, budgets)
