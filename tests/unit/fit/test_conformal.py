import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from latency_models import GRID, TokenLinear, synthetic_samples, token_linear

from paceline.control.loading import served_kind
from paceline.errors import EstimatorError, InvalidValueError, PacelineWarning, UnknownChoiceError
from paceline.estimate.bounds import SMALLEST_MS, CalibratedConfig
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.description import WEIGHTS_FILE
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds, conformal_scores, expected_factors, save_bounds, split_for
from paceline.profiles import Profile, SampleParts, Split, split_samples


def parts_of(samples: pl.DataFrame, seed: int = 3) -> SampleParts:
    return split_samples(samples, Split(seed=seed))


def test_scores_are_log_ratios_of_the_calibration_part_alone() -> None:
    parts = parts_of(synthetic_samples(60))
    found = calibrate_bounds(token_linear(), parts).scores["prefill"]
    rows = parts.calibration.filter(pl.col("tier").cast(pl.String) == "low", pl.col("num_active_blocks") == 8)
    tokens = (rows["actual_vision_tokens"] + rows["actual_text_tokens"]).to_numpy()
    measured = (rows["T_vision_total"] + rows["T_LLM_prefill"]).to_numpy()
    assert found.counts_C[0] == rows.height
    assert np.allclose(found.scores_N[: rows.height], np.sort(np.log(measured / (0.08 * tokens))))


def test_totals_are_calibrated_with_the_mean_answer_of_the_fit_part() -> None:
    parts = parts_of(synthetic_samples(60))
    bounds = calibrate_bounds(token_linear(), parts)
    low_8 = pl.col("tier").cast(pl.String).eq("low") & pl.col("num_active_blocks").eq(8)
    mean_tokens = parts.fit.filter(low_8)["output_tokens"].mean()
    assert bounds.configs[0].expected_output_tokens == pytest.approx(mean_tokens)
    rows = parts.calibration.filter(low_8)
    predicted = 0.08 * (rows["actual_vision_tokens"] + rows["actual_text_tokens"]) + 2.0 * (mean_tokens - 1)
    scores = np.sort(np.log((rows["T_total"] / predicted).to_numpy()))
    assert np.allclose(bounds.scores["total"].scores_N[: rows.height], scores)


def test_the_part_that_judges_is_not_looked_at() -> None:
    parts = parts_of(synthetic_samples(60))
    spoiled = SampleParts(
        fit=parts.fit,
        calibration=parts.calibration,
        test=parts.test.with_columns(T_vision_total=pl.lit(1e9), accuracy=0.0),
    )
    one, other = calibrate_bounds(token_linear(), parts), calibrate_bounds(token_linear(), spoiled)
    # polars sums groups in parallel: the last digit of a mean is not the same from run to run
    assert [figures(each) for each in one.configs] == [pytest.approx(figures(each)) for each in other.configs]
    assert np.allclose(one.factors(0.1, "total", None), other.factors(0.1, "total", None), rtol=1e-9)


def figures(config: CalibratedConfig) -> dict[str, float]:
    names = ("accuracy", "accuracy_std", "num_samples", "expected_output_tokens")
    return {name: getattr(config, name) for name in names}


def test_accuracies_come_from_fit_and_calibration() -> None:
    parts = parts_of(synthetic_samples(60))
    known = pl.concat([parts.fit, parts.calibration])
    own = known.filter(pl.col("tier").cast(pl.String) == "high", pl.col("num_active_blocks") == 16)
    found = calibrate_bounds(token_linear(), parts).configs[3]
    assert (found.accuracy, found.num_samples) == (pytest.approx(own["accuracy"].mean()), own.height)


def test_requests_measured_under_some_configurations_calibrate_those() -> None:
    parts = parts_of(synthetic_samples(60))
    names = sorted(parts.calibration["sample_id"].unique())
    only_low = parts.calibration.filter(
        ~(pl.col("sample_id").is_in(names[:3]) & pl.col("tier").cast(pl.String).eq("high"))
    )
    fewer = SampleParts(fit=parts.fit, calibration=only_low, test=parts.test)
    counts = calibrate_bounds(token_linear(), fewer).scores["prefill"].counts_C
    assert counts.tolist() == [len(names), len(names), len(names) - 3, len(names) - 3]


def test_times_of_zero_give_finite_scores() -> None:
    scores = conformal_scores(np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]]))
    assert scores.scores_N.tolist() == [math.log(SMALLEST_MS), math.log(2.0)]


def test_where_bounds_are_expected_is_told_by_the_fitted_samples_alone() -> None:
    noise = dict(zip(GRID, (0.4, 0.05, 0.1, 0.1), strict=True))
    parts = parts_of(synthetic_samples(400, noise_of=noise))
    slower = replace(parts, calibration=parts.calibration.with_columns(pl.col("T_vision_total") * 9), test=parts.fit)
    one, other = calibrate_bounds(token_linear(), parts), calibrate_bounds(token_linear(), slower)
    assert list(one.expected) == ["ttft", "prefill", "total"]
    for kind in one.expected:
        assert np.array_equal(one.expected_factors(kind), other.expected_factors(kind))
    assert one.expected_factors("prefill") == pytest.approx(
        np.exp([1.645 * spread for spread in noise.values()]), rel=0.2
    )
    refitted = replace(parts, fit=parts.fit.with_columns(pl.col("T_vision_total", "T_LLM_prefill") * 2))
    twice = calibrate_bounds(token_linear(), refitted).expected_factors("prefill")
    assert twice == pytest.approx(2 * one.expected_factors("prefill"))


def test_a_configuration_without_scores_is_expected_where_all_are() -> None:
    scores = conformal_scores(np.array([[2.0, np.nan], [4.0, np.nan]]), np.ones((2, 2)))
    assert expected_factors(scores)[0] == expected_factors(scores)[1] == pytest.approx(2 * 2**0.95)


def test_a_model_of_other_configurations_is_refused() -> None:
    parts = parts_of(synthetic_samples(60))
    with pytest.raises(EstimatorError, match="does not cover high_4_16"):
        calibrate_bounds(TokenLinear(dict.fromkeys(GRID[:3], 0.1)), parts)
    small = SampleParts(
        fit=parts.fit.filter(pl.col("num_active_blocks") == 8), calibration=parts.calibration, test=parts.test
    )
    with pytest.raises(EstimatorError, match="covers low_4_16, high_4_16, which"):
        calibrate_bounds(token_linear(), small)


@pytest.mark.parametrize(("count", "share"), [(1000, 0.2), (300, 0.2), (150, 0.39), (75, 0.45), (10, 0.45)])
def test_a_small_profile_calibrates_with_a_larger_share(count: int, share: float) -> None:
    split = split_for(count, alpha=0.05, seed=5)
    assert split.calibration_share == pytest.approx(share)
    assert (split.seed, split.test_share) == (5, Split().test_share)


def test_another_calibration_share_judges_the_same_samples() -> None:
    samples = synthetic_samples(80)
    usual, larger = split_samples(samples, Split()), split_samples(samples, split_for(80, alpha=0.05))
    assert larger.calibration.height > usual.calibration.height
    assert larger.test.equals(usual.test)


def test_saved_bounds_belong_to_the_estimator_they_lie_beside(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).write_bytes(b"synthetic weights")
    parts = parts_of(synthetic_samples(60))
    bounds = calibrate_bounds(token_linear(), parts)
    save_bounds(bounds, tmp_path)
    assert load_bounds(tmp_path).configs == bounds.configs
    assert json.loads((tmp_path / "bounds.json").read_text())["latency_kinds"] == ["ttft", "prefill", "total"]
    (tmp_path / WEIGHTS_FILE).write_bytes(b"other weights")
    with pytest.raises(EstimatorError, match="taken from elsewhere"):
        load_bounds(tmp_path)


def older(samples: pl.DataFrame, count: int) -> pl.DataFrame:
    """The samples, of which the first `count` were measured before T_ttft was."""
    lengths = pl.int_range(pl.len()) < count
    return samples.with_columns(T_ttft=pl.when(lengths).then(None).otherwise(pl.col("T_ttft")))


def test_an_older_profile_has_bounds_of_prefill_and_total_and_a_mixed_one_says_so(tmp_path: Path) -> None:
    parts = parts_of(synthetic_samples(60))
    whole = replace(parts, calibration=older(parts.calibration, parts.calibration.height))
    assert list(calibrate_bounds(token_linear(), whole).scores) == ["prefill", "total"]
    mixed = replace(parts, calibration=older(parts.calibration, 3))
    with pytest.warns(PacelineWarning, match="3 of .* calibrating samples are older than T_ttft"):
        bounds = calibrate_bounds(token_linear(), mixed)
    assert list(bounds.scores) == ["prefill", "total"]
    with pytest.raises(UnknownChoiceError, match="latency kind 'ttft'"):
        estimator_candidates(token_linear(), bounds, latency_kind="ttft")


def test_what_an_estimator_serves_is_said_where_it_is_not_ttft(tmp_path: Path) -> None:
    parts = parts_of(synthetic_samples(60))
    bounds = calibrate_bounds(token_linear(), parts)
    assert served_kind(bounds, tmp_path, strict=True) == "ttft"
    without = replace(bounds, scores={kind: each for kind, each in bounds.scores.items() if kind != "ttft"})
    with pytest.warns(PacelineWarning, match="budgets are of the model's prefill"):
        assert served_kind(without, tmp_path) == "prefill"
    with pytest.raises(EstimatorError, match="profile again and train it anew"):
        served_kind(without, tmp_path, strict=True)


def test_tables_know_fit_and_calibration_and_nothing_else() -> None:
    samples = synthetic_samples(60)
    parts = parts_of(samples)
    profile = Profile(samples=samples, provenance=(), source=Path("synthetic"), left_out=())
    controllers = table_candidates(profile, parts)
    assert list(controllers) == ["table", "dataset_tables", *(f"fixed_{config.key}" for config in GRID)]
    known = parts.fit.height + parts.calibration.height
    assert controllers["table"].metadata.num_profiling_results == known  # type: ignore[attr-defined]
    with pytest.raises(InvalidValueError, match="alpha is 0.001"):
        estimator_candidates(token_linear(), calibrate_bounds(token_linear(), parts), alpha=0.001)
