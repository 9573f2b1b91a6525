import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from latency_models import GRID, synthetic_samples, token_linear

from paceline.analyze import default_budgets
from paceline.control import LookupTable
from paceline.control.controller import Controller
from paceline.errors import InvalidValueError
from paceline.evaluate import Evaluation, evaluate, evaluation_document
from paceline.evaluate.names import ORACLE, SCALED_TABLE
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds
from paceline.profiles import Profile, SampleParts, Split, split_samples
from paceline.records import KnobConfig
from paceline.slo import Proportion

BUDGETS_MS = (5.0, 12.0, 25.0, 40.0, 1000.0)
SAMPLES = synthetic_samples(300)
PARTS = split_samples(SAMPLES, Split(seed=4))


def candidates(parts: SampleParts = PARTS, kind: str = "prefill") -> dict[str, Controller]:
    profile = Profile(samples=SAMPLES, provenance=(), source=Path("synthetic"), left_out=())
    bounds = calibrate_bounds(token_linear(), parts)
    return {
        **table_candidates(profile, parts, latency_kind=kind),  # type: ignore[arg-type]
        **estimator_candidates(token_linear(), bounds, latency_kind=kind),  # type: ignore[arg-type]
    }


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(PARTS.test, candidates(), budgets_ms=BUDGETS_MS)


def measured(config: KnobConfig) -> pl.DataFrame:
    return PARTS.test.filter(
        pl.col("tier").cast(pl.String) == config.tier, pl.col("num_active_blocks") == config.num_active_blocks
    ).with_columns(latency_ms=pl.col("T_vision_total") + pl.col("T_LLM_prefill"))


def test_a_fixed_configuration_gets_the_figures_of_its_own_rows(evaluation: Evaluation) -> None:
    for config in GRID:
        rows = measured(config)
        for figures in evaluation.controllers[f"fixed_{config.key}"]:
            over = (rows["latency_ms"] - figures.budget_ms).clip(0)
            assert figures.adherence.successes == (rows["latency_ms"] <= figures.budget_ms).sum()
            assert figures.accuracy.mean == pytest.approx(rows["accuracy"].mean())
            assert figures.mean_latency_ms == pytest.approx(rows["latency_ms"].mean())
            assert figures.p95_latency_ms == pytest.approx(rows["latency_ms"].quantile(0.95, "linear"))
            assert figures.mean_overshoot_ms == pytest.approx(over.mean())
            assert figures.configs == {config.key: rows.height}


def test_a_table_gets_the_figures_of_the_configuration_it_takes(evaluation: Evaluation) -> None:
    table = candidates()["table"]
    assert isinstance(table, LookupTable)
    for figures in evaluation.controllers["table"]:
        fixed = evaluation.controllers[f"fixed_{table.key_at(figures.budget_ms)}"]
        alike = fixed[BUDGETS_MS.index(figures.budget_ms)]
        assert (figures.adherence, figures.accuracy) == (alike.adherence, alike.accuracy)


def test_nobody_beats_the_oracle(evaluation: Evaluation) -> None:
    for name, rows in evaluation.controllers.items():
        for figures, best in zip(rows, evaluation.controllers[ORACLE], strict=True):
            assert figures.adherence.successes <= best.adherence.successes, name
            if figures.adherence.share == 1:
                assert figures.accuracy.mean <= best.accuracy.mean + 1e-12


def test_the_oracle_takes_the_most_accurate_that_kept_the_budget(evaluation: Evaluation) -> None:
    wide = pl.concat([measured(config).select("sample_id", "accuracy", "latency_ms") for config in GRID])
    for figures in evaluation.controllers[ORACLE]:
        kept = (
            wide.filter(pl.col("latency_ms") <= figures.budget_ms).group_by("sample_id").agg(pl.col("accuracy").max())
        )
        fastest = wide.sort("latency_ms").group_by("sample_id", maintain_order=True).first()
        lost = fastest.join(kept, on="sample_id", how="anti")
        mean = (kept["accuracy"].sum() + lost["accuracy"].sum()) / (kept.height + lost.height)
        assert figures.accuracy.mean == pytest.approx(mean)
        assert figures.none_fit == lost.height


def test_a_budget_is_possible_where_some_fixed_configuration_keeps_it(evaluation: Evaluation) -> None:
    for place, possible in enumerate(evaluation.within_possible):
        shares = [evaluation.controllers[f"fixed_{config.key}"][place].adherence.share for config in GRID]
        assert evaluation.best_fixed_adherence[place] == pytest.approx(max(shares))
        assert possible == (max(shares) >= 0.95)
    assert evaluation.within_possible[0] is False
    assert evaluation.within_possible[-1] is True


def test_promised_counts_only_what_was_said_to_fit(evaluation: Evaluation) -> None:
    first, last = evaluation.controllers["bound"][0], evaluation.controllers["bound"][-1]
    assert (first.promised, first.none_fit) == (None, first.adherence.count)
    assert last.promised == Proportion(successes=last.adherence.successes, count=last.adherence.count)
    pooled = evaluation.pooled["bound"]
    assert pooled is not None
    said = [each.promised for each in evaluation.controllers["bound"] if each.promised]
    assert (pooled.kept, pooled.decisions) == (sum(p.successes for p in said), sum(p.count for p in said))
    assert pooled.requests == evaluation.num_requests
    exact = Proportion(successes=round(pooled.share * pooled.requests), count=pooled.requests).interval()
    assert pooled.interval.low <= exact.low + 1e-9 or pooled.interval.high <= exact.high + 1e-9
    assert pooled.interval.high - pooled.interval.low > 2 / pooled.requests  # requests count, not decisions


def test_the_scaled_table_keeps_budgets_as_often_as_the_bound(evaluation: Evaluation) -> None:
    scaled = evaluation.scaled_table
    assert scaled is not None
    rows = zip(evaluation.controllers[SCALED_TABLE], evaluation.controllers["bound"], scaled.reached, strict=True)
    for place, (table, bound, reached) in enumerate(rows):
        if reached:
            assert table.adherence.successes >= bound.adherence.successes
        assert scaled.prices[place].difference == pytest.approx(table.accuracy.mean - bound.accuracy.mean)
        assert (
            scaled.prices[place].interval.low <= scaled.prices[place].difference <= scaled.prices[place].interval.high
        )
    assert scaled.overall is not None
    counted = [scaled.prices[place].difference for place, possible in enumerate(evaluation.within_possible) if possible]
    assert scaled.overall.difference == pytest.approx(np.mean(counted))


def test_scaled_by_its_factor_the_table_itself_takes_that_configuration(evaluation: Evaluation) -> None:
    scaled, table = evaluation.scaled_table, candidates()["table"]
    assert scaled is not None and isinstance(table, LookupTable)
    for budget_ms, scale, figures in zip(BUDGETS_MS, scaled.scales, evaluation.controllers[SCALED_TABLE], strict=True):
        assert table.key_at(budget_ms / scale * (1 + 1e-12)) == next(iter(figures.configs))


def test_without_table_or_bound_there_is_no_price() -> None:
    named = candidates()
    assert evaluate(PARTS.test, {"table": named["table"]}, budgets_ms=(20.0,)).scaled_table is None
    assert evaluate(PARTS.test, {"bound": named["bound"]}, budgets_ms=(20.0,)).scaled_table is None


def test_requests_without_every_configuration_are_counted_and_not_judged() -> None:
    gap = (pl.col("sample_id") == PARTS.test["sample_id"][0]) & (pl.col("num_active_blocks") == 8)
    found = evaluate(PARTS.test.filter(~gap), candidates(), budgets_ms=(20.0,))
    assert (found.num_requests, found.incomplete) == (PARTS.test["sample_id"].n_unique() - 1, 1)
    with pytest.raises(InvalidValueError, match="no request measured under every configuration"):
        one_each = PARTS.test.filter((pl.col("num_active_blocks") == 8) == (pl.col("sample_id").str.ends_with("1")))
        evaluate(one_each, candidates(), budgets_ms=(20.0,))


def test_unlike_latencies_are_not_compared() -> None:
    with pytest.raises(InvalidValueError, match="latency kind of controller table is 'total'; expected prefill"):
        evaluate(PARTS.test, {"table": candidates(kind="total")["table"]}, budgets_ms=(20.0,))
    totals = evaluate(PARTS.test, candidates(kind="total"), budgets_ms=(60.0,), latency_kind="total")
    rows = measured(GRID[3])
    assert totals.controllers["fixed_high_4_16"][0].mean_latency_ms == pytest.approx(rows["T_total"].mean())


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_none_is_refused(budget_ms: float) -> None:
    with pytest.raises(InvalidValueError, match="latency budget"):
        evaluate(PARTS.test, candidates(), budgets_ms=(budget_ms,))


def test_a_controller_of_another_grid_is_refused() -> None:
    fewer = PARTS.test.filter(pl.col("num_active_blocks") == 8)
    with pytest.raises(InvalidValueError, match="configuration of controller"):
        evaluate(fewer, {"bound": candidates()["bound"]}, budgets_ms=(1000.0,))


def test_the_document_has_its_keys_and_is_json(evaluation: Evaluation) -> None:
    document = json.loads(json.dumps(evaluation_document(evaluation), allow_nan=False))
    assert {"latency_kind", "alpha", "controllers", "n", "incomplete", "budgets", "given_up", "pooled"} <= set(document)
    keys = {
        "budget_ms",
        "accuracy",
        "adherence",
        "adherence_ci",
        "mean_latency_ms",
        "p95_latency_ms",
        "within_possible",
    }
    for rows in document["controllers"].values():
        assert [row["budget_ms"] for row in rows] == list(BUDGETS_MS)
        assert all(keys <= set(row) for row in rows)
        assert all(row["adherence_ci"][0] <= row["adherence"] <= row["adherence_ci"][1] for row in rows)


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    named = candidates()
    evaluate(PARTS.test, named, budgets_ms=(20.0,), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(named)) for done in range(1, len(named) + 1)]


def test_budgets_are_the_recommended_ones_where_these_are_fine_enough() -> None:
    slow = SAMPLES.with_columns(pl.col("T_vision_total", "T_LLM_prefill") * 20)
    chosen = default_budgets(slow, "prefill")
    assert "recommended" in chosen.origin
    assert all(budget % 10 == 0 for budget in (chosen.budgets_ms[0], chosen.budgets_ms[-1]))
    assert len(chosen.budgets_ms) == 10


def test_budgets_are_finer_where_rounding_to_10_ms_would_decide() -> None:
    chosen = default_budgets(SAMPLES, "prefill")
    assert "too coarse" in chosen.origin
    ends = SAMPLES.group_by("tier", "num_active_blocks").agg(
        (pl.col("T_vision_total") + pl.col("T_LLM_prefill")).quantile(0.95, "linear").alias("p95")
    )["p95"]
    assert (chosen.budgets_ms[0], chosen.budgets_ms[-1]) == pytest.approx((ends.min(), ends.max()), abs=0.005)
    assert len(chosen.budgets_ms) == 10


def test_one_configuration_gives_one_budget() -> None:
    alone = SAMPLES.filter(pl.col("tier").cast(pl.String) == "low", pl.col("num_active_blocks") == 8)
    assert len(default_budgets(alone, "prefill").budgets_ms) == 1
