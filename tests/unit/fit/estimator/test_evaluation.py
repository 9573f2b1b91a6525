import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from estimator_samples import CONFIGS, synthetic_run, synthetic_samples
from latency_models import bounds_of, request, token_linear

from paceline.control.estimated import BoundController
from paceline.errors import EstimatorError
from paceline.fit.estimator.baselines import BASELINES
from paceline.fit.estimator.coverage import judge_in_turn
from paceline.fit.estimator.evaluation import evaluate_estimator, evaluation_document, parts_of, sample_mean
from paceline.fit.estimator.rows import LatencyRows
from paceline.fit.estimator.settings import FAST
from paceline.fit.estimator.training import train_estimator
from paceline.profiles import Profile, Split, split_samples

QUICK = replace(FAST, hidden_dim=32, step_choices=(300,))


def profile(samples: pl.DataFrame, model: str = "synthetic") -> Profile:
    return Profile(samples=samples, provenance=(synthetic_run(model),), source=Path("generated"), left_out=())


@pytest.fixture(scope="module")
def parts():
    return split_samples(synthetic_samples(120, noise=0.05), Split())


@pytest.fixture(scope="module")
def network(parts):
    return train_estimator(parts.fit, split=Split(), settings=QUICK, provenance=[synthetic_run()]).network


@pytest.fixture(scope="module")
def evaluation(network, parts):
    return evaluate_estimator(network, parts)


def test_errors_are_those_of_the_test_part(network, parts, evaluation) -> None:
    rows = parts.test.with_columns(
        prefill=pl.col("T_vision_total") + pl.col("T_LLM_prefill"), tier_idx=pl.col("tier").to_physical()
    )
    names = ["actual_vision_tokens", "actual_text_tokens", "tier_idx", "top_k", "num_active_blocks"]
    predicted, decode = network.estimate_rows(rows.select(names).to_numpy().astype(float))
    measured = rows["prefill"].to_numpy()
    found = evaluation.errors.prefill
    assert found.n == evaluation.n == rows.height
    assert found.mae_ms == pytest.approx(np.abs(predicted - measured).mean())
    assert found.rmse_ms == pytest.approx(math.sqrt(((predicted - measured) ** 2).mean()))
    assert found.relative_error == pytest.approx((np.abs(predicted - measured) / measured).mean())
    assert found.error_percentiles_ms["median"] == pytest.approx(np.median(predicted - measured))
    known = rows["T_decode_per_token"].is_not_null().to_numpy()
    decode_errors = np.abs(decode[known] - rows["T_decode_per_token"].drop_nulls().to_numpy())
    assert evaluation.errors.decode.n == known.sum() < rows.height
    assert evaluation.errors.decode.mae_ms == pytest.approx(decode_errors.mean())


def test_groups_add_up_to_the_whole(evaluation) -> None:
    assert sorted(evaluation.by_config) == sorted(config.key for config in CONFIGS)
    assert sorted(evaluation.by_dataset) == ["one", "two"]
    for groups in (evaluation.by_config.values(), evaluation.by_dataset.values()):
        assert sum(each.n for each in groups) == evaluation.n
        mean = sum(each.prefill.mae_ms * each.n for each in groups) / evaluation.n
        assert mean == pytest.approx(evaluation.errors.prefill.mae_ms)


def test_it_beats_the_mean_of_each_configuration_where_features_matter(evaluation) -> None:
    baseline = evaluation.baselines["config_mean"]
    gain = baseline.estimator_minus_baseline["prefill"]
    assert gain.interval.high < 0
    assert gain.difference_ms == pytest.approx(evaluation.errors.prefill.mae_ms - baseline.errors.prefill.mae_ms)
    assert set(evaluation.baselines) == {"config_mean", "ridge", "gradient_boosting"} == set(BASELINES)


def test_the_document_has_the_fixed_keys(evaluation) -> None:
    document = evaluation_document(evaluation)
    assert {"n", "prefill", "decode", "by_config", "by_dataset", "baselines"} <= set(document)
    heads = (document, document["by_config"]["low_4_8"], document["by_dataset"]["one"], document["baselines"]["ridge"])
    for errors in heads:
        for head in ("prefill", "decode"):
            assert {"mae_ms", "rmse_ms", "relative_error"} <= set(errors[head])


def test_an_estimator_is_judged_by_its_own_split(network) -> None:
    samples = synthetic_samples(120, noise=0.05)
    judged, own = parts_of(network, profile(samples)), split_samples(samples, Split())
    assert judged.test["sample_id"].to_list() == own.test["sample_id"].to_list()


def test_another_model_or_grid_is_refused(network) -> None:
    samples = synthetic_samples(120)
    with pytest.raises(EstimatorError, match="trained on synthetic; expected an estimator of digits"):
        parts_of(network, profile(samples, model="digits"))
    other = samples.with_columns(top_k=(pl.col("top_k") + 1).cast(pl.Int32))
    with pytest.raises(EstimatorError, match=r"samples under high_5_16.*not trained on"):
        parts_of(network, profile(other))


def test_without_decode_steps_only_prefill_is_judged() -> None:
    one_token = {"output_tokens": pl.lit(1, dtype=pl.Int32), "T_decode_per_token": pl.lit(None, pl.Float64)}
    parts = split_samples(synthetic_samples(60, **one_token), Split())
    with pytest.warns(match="no sample has a decode step"):
        network = train_estimator(parts.fit, split=Split(), settings=QUICK).network
    document = evaluation_document(evaluate_estimator(network, parts))
    assert document["decode"] is None
    assert document["baselines"]["gradient_boosting"]["decode"] is None
    assert list(document["baselines"]["ridge"]["estimator_minus_baseline"]) == ["prefill"]


def test_intervals_count_samples_not_rows() -> None:
    random = np.random.default_rng(0)
    sample = np.repeat(np.arange(30), 20)  # 30 samples, each seen 20 times
    covered = 0
    for _ in range(400):
        shared = np.repeat(random.normal(0, 1, 30), 20)
        mean, interval = sample_mean(shared, sample)
        assert interval is not None and mean == pytest.approx(shared.mean())
        covered += interval.low <= 0 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98
    assert sample_mean(np.ones(5), np.zeros(5, dtype=np.int64)) == (1.0, None)


def test_the_mean_of_each_configuration_by_hand() -> None:
    rows = LatencyRows(
        features_NF=np.array([[1, 1, 0, 4, 8], [2, 2, 0, 4, 8], [3, 3, 1, 4, 8]], dtype=float),
        measured_ms_NK=np.array([[10, 0], [20, 4], [60, 0]], dtype=float),
        weight_NK=np.array([[1, 0], [1, 1], [1, 0]], dtype=float),
    )
    asked = np.array([[9, 9, 0, 4, 8], [9, 9, 1, 4, 8], [9, 9, 2, 4, 8]], dtype=float)
    assert BASELINES["config_mean"](rows)(asked).tolist() == [[15, 4], [60, 4], [30, 4]]


def test_every_request_is_judged_once() -> None:
    controller = BoundController(model=token_linear(), bounds=bounds_of([[0.0] * 100] * 4))
    assert controller.predict(1000.0, features=request()).within_budget
    samples = synthetic_samples(25).filter(pl.col("top_k") == 4, pl.col("tier") != "medium")
    checks = judge_in_turn(controller, samples, [5.0, 50.0, 5000.0])
    assert [each.num_requests for each in checks] == [9, 8, 8]
    assert checks[0].none_fit == 9 and checks[2].none_fit == 0
