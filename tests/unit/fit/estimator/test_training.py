import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from estimator_samples import CONFIGS, GRID, synthetic_run, synthetic_samples, true_ms

from paceline.errors import InvalidValueError, PacelineWarning, UnknownChoiceError
from paceline.estimate.description import DECODE_DEFINITIONS
from paceline.estimate.work_terms import TERM_NAMES
from paceline.fit.estimator import training
from paceline.fit.estimator.rows import decode_definition_of, decode_step_ms, joined_rows, latency_rows
from paceline.fit.estimator.settings import FAST, REFERENCE, SCHEDULES, EstimatorSettings, settings_named
from paceline.fit.estimator.training import TrainedEstimator, train_estimator
from paceline.profiles import Split, split_samples
from paceline.records import TIERS

QUICK = replace(FAST, hidden_dim=32, step_choices=(300,))
STEPS = DECODE_DEFINITIONS[0]
ONE_TOKEN = {
    "output_tokens": pl.lit(1, dtype=pl.Int32),
    "T_decode_per_token": pl.lit(None, pl.Float64),
    "T_LLM_decode": pl.lit(0.0),
}


def trained(samples: pl.DataFrame, settings: EstimatorSettings = QUICK, **more: Any) -> TrainedEstimator:
    return train_estimator(samples, split=Split(), settings=settings, **more)


def same(one: TrainedEstimator, other: TrainedEstimator) -> bool:
    return all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


def smallest_configuration(samples: pl.DataFrame) -> pl.DataFrame:
    return samples.filter(pl.col("tier") == "low", pl.col("top_k") == 4, pl.col("num_active_blocks") == 8)


def test_it_learns_a_known_latency_to_within_its_noise() -> None:
    parts = split_samples(synthetic_samples(200, noise=0.02), Split())
    network = trained(parts.fit, replace(FAST, hidden_dim=64)).network
    rows = latency_rows(parts.test, STEPS)
    vision, text, _tier, top_k, blocks = rows.features_NF.T
    prefill, decode = network.estimate_rows(rows.features_NF)
    true_prefill, true_decode = true_ms(vision, text, top_k, blocks)
    assert np.abs(prefill / true_prefill - 1).mean() < 0.015
    assert np.abs(decode / true_decode - 1).mean() < 0.015


def test_the_same_samples_and_settings_give_the_same_weights() -> None:
    samples = synthetic_samples(30)
    state = torch.random.get_rng_state()
    first = trained(samples)
    assert same(first, trained(samples))
    assert torch.equal(torch.random.get_rng_state(), state)  # training draws from generators of its own
    assert not same(first, trained(samples, replace(QUICK, seed=1)))
    network = trained(samples.sample(fraction=1.0, shuffle=True, seed=1)).network  # means of the same rows, summed anew
    features = latency_rows(samples, STEPS).features_NF
    for found, expected in zip(network.estimate_rows(features), first.network.estimate_rows(features), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-2)


@pytest.mark.parametrize("loss", ["mse", "scaled", "log"])
def test_joined_rows_have_the_gradient_of_all_rows(loss: str) -> None:
    samples = synthetic_samples(200, actual_text_tokens=pl.lit(9, dtype=pl.Int32))
    all_rows, joined = latency_rows(samples, STEPS), joined_rows(samples, STEPS, loss)
    assert len(joined.features_NF) < len(all_rows.features_NF) / 10
    assert joined.weight_NK.sum(axis=0).tolist() == all_rows.weight_NK.sum(axis=0).tolist()
    gradients: list[torch.Tensor] = []
    for rows in (all_rows, joined):
        trainer = training._trainer(all_rows, replace(QUICK, loss=loss), "cpu")
        trainer.losses(training._batch(rows, trainer.device)).sum().backward()
        gradients.append(torch.cat([each.grad.flatten() for each in trainer.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))


@pytest.mark.parametrize("settings", [QUICK, replace(REFERENCE, hidden_dim=16, num_epochs=5)])
def test_a_killed_run_goes_on_to_the_same_weights(
    settings: EstimatorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    samples, checkpoint = synthetic_samples(30), tmp_path / "checkpoint"
    whole = trained(samples, settings)

    def kill(done: int, total: int) -> None:
        if done > total * 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(samples, settings, checkpoint=checkpoint, on_progress=kill)
    assert checkpoint.exists()
    resumed = trained(samples, settings, checkpoint=checkpoint)
    assert 0 < resumed.resumed_epochs < resumed.epochs
    assert same(resumed, whole)


def test_a_checkpoint_of_another_run_or_a_broken_one_is_left_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    samples, checkpoint, other_settings = synthetic_samples(30), tmp_path / "checkpoint", replace(QUICK, seed=5)
    trained(samples, checkpoint=checkpoint)
    with pytest.warns(PacelineWarning, match="other settings or samples"):
        other = trained(samples, other_settings, checkpoint=checkpoint)
    assert other.resumed_epochs == 0 and same(other, trained(samples, other_settings))
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.warns(PacelineWarning, match="cannot be read"):
        assert trained(samples, checkpoint=checkpoint).resumed_epochs == 0


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    trained(synthetic_samples(30), on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == 300
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_early_stopping_keeps_the_best_weights_and_ends_before_the_last_epoch() -> None:
    samples = synthetic_samples(40, noise=0.5)
    settings = replace(QUICK, step_choices=(), num_epochs=2000, patience=3)
    stopped = trained(samples, settings)
    assert stopped.epochs < 2000
    assert same(stopped, trained(samples, settings))
    # a fifth of the samples, with all of their configurations, chose when to stop
    assert stopped.description.num_rows == 32 * len(CONFIGS)


def test_steps_are_chosen_by_samples_held_back_and_stop_at_the_first_that_is_no_better() -> None:
    plain = replace(QUICK, structured=False)
    noise = trained(synthetic_samples(40, noise=0.6), replace(plain, step_choices=(50, 2000)))
    assert noise.epochs == 50
    clear = trained(synthetic_samples(40, noise=0.001), replace(plain, step_choices=(20, 600)))
    assert clear.epochs == 600


def relative_errors(found: TrainedEstimator, samples: pl.DataFrame) -> np.ndarray[Any, Any]:
    rows = latency_rows(samples, STEPS)
    predicted = np.stack(found.network.estimate_rows(rows.features_NF), axis=1)
    known = rows.weight_NK[:, 1] > 0
    return np.abs(predicted[known] / rows.measured_ms_NK[known] - 1).mean(axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_on_few_samples_what_the_work_costs_is_taken_as_it_is(seed: int) -> None:
    few, judging = synthetic_samples(20, seed=seed, noise=0.08), synthetic_samples(80, seed=100 + seed, noise=0.0)
    settings = replace(FAST, hidden_dim=64, step_choices=(100, 300))
    seen: list[tuple[int, int]] = []
    found = trained(few, settings, on_progress=lambda done, total: seen.append((done, total)))
    assert found.epochs == 0 and seen == [(1, 1)]
    plain = trained(few, replace(settings, structured=False))
    own = relative_errors(found, judging)
    assert (own < 0.03).all() and own[0] < relative_errors(plain, judging)[0]


def test_the_network_learns_what_work_does_not_tell() -> None:
    bent = 1 + 0.5 * (pl.col("actual_text_tokens") - 24).abs() / 16  # no sum of work that costs more than nothing
    samples = synthetic_samples(120, noise=0.01).with_columns(
        pl.col(name) * bent for name in ("T_vision_total", "T_LLM_prefill", "T_LLM_decode", "T_decode_per_token")
    )
    found = trained(samples, replace(QUICK, step_choices=(10, 200)))
    assert found.epochs >= 200
    alone = trained(samples, replace(QUICK, step_choices=(1,)))
    assert relative_errors(found, samples)[0] < 0.5 * relative_errors(alone, samples)[0]


def test_a_constant_feature_moves_nothing() -> None:
    samples = synthetic_samples(30).filter(pl.col("top_k") == 4)
    found = trained(samples)
    assert found.description.feature_ranges["top_k"] == (4.0, 4.0)
    rows = latency_rows(samples, STEPS).features_NF
    moved = rows + np.array([0, 0, 0, 100, 0])
    np.testing.assert_array_equal(found.network.estimate_rows(rows), found.network.estimate_rows(moved))


def test_one_configuration_is_enough() -> None:
    samples = smallest_configuration(synthetic_samples(30))
    network = trained(samples).network
    rows = latency_rows(samples, STEPS)
    assert len(network.configs) == 1
    np.testing.assert_allclose(network.estimate_rows(rows.features_NF)[0], rows.measured_ms_NK[:, 0], rtol=0.15)


def test_one_sample_is_learned_as_it_is() -> None:
    three_tokens = {"output_tokens": pl.lit(3, dtype=pl.Int32), "T_LLM_decode": pl.lit(14.0)}
    sample = synthetic_samples(1, **three_tokens, T_decode_per_token=pl.lit(7.0)).head(1)
    rows = latency_rows(sample, STEPS)
    prefill, decode = trained(sample).network.estimate_rows(rows.features_NF)
    assert prefill[0] == pytest.approx(rows.measured_ms_NK[0, 0], rel=0.02)
    assert decode[0] == pytest.approx(7.0, rel=0.02)


def test_a_model_without_knobs_can_be_trained() -> None:
    bare = smallest_configuration(synthetic_samples(30)).with_columns(
        tier=pl.lit(None, pl.Enum(TIERS)),
        top_k=pl.lit(None, pl.Int32),
        num_active_blocks=pl.lit(None, pl.Int32),
    )
    found = trained(bare)
    assert [config.key for config in found.network.configs] == ["none_none_none"]
    assert list(found.description.typical_vision_tokens) == [None]


def test_without_any_decode_step_prefill_alone_is_known() -> None:
    samples = synthetic_samples(30, **ONE_TOKEN)
    with pytest.warns(PacelineWarning, match="no sample has a decode step"):
        found = trained(samples)
    assert found.description.num_decode_rows == 0
    prefill, decode = found.network.estimate_rows(latency_rows(samples, STEPS).features_NF)
    assert np.isfinite(prefill).all() and np.isnan(decode).all()


def test_no_samples_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="at least one sample"):
        trained(synthetic_samples(3).head(0))


def test_the_description_says_what_it_was_trained_on() -> None:
    samples = synthetic_samples(30)
    found = trained(samples, provenance=[synthetic_run()]).description
    assert found.configs == tuple(sorted(GRID.configurations(), key=lambda config: config.size))
    assert found.datasets == ("one", "two")
    assert found.num_rows == samples.height
    assert found.num_decode_rows == samples["T_decode_per_token"].count() < samples.height
    assert found.models == frozenset({"synthetic"})
    assert found.split == {"seed": 3407, "calibration_share": 0.2, "test_share": 0.2, "by_picture": False}
    assert (found.training["loss"], found.training["epochs"]) == ("log", 300)
    assert (
        found.typical_vision_tokens["low"] == samples.filter(pl.col("tier") == "low")["actual_vision_tokens"].median()
    )
    assert json.loads(json.dumps(found.training)) == found.training
    assert found.work_terms == TERM_NAMES
    assert trained(samples, replace(QUICK, structured=False)).description.work_terms == ()


def test_both_definitions_of_decode_are_told_apart_and_give_milliseconds_a_step() -> None:
    samples = synthetic_samples(30)
    by_steps = decode_definition_of(samples)
    by_all = samples.with_columns(T_decode_per_token=pl.col("T_LLM_decode") / pl.col("output_tokens"))
    assert (by_steps, decode_definition_of(by_all)) == DECODE_DEFINITIONS
    ours = samples.select(decode_step_ms(by_steps)).to_series()
    theirs = by_all.select(decode_step_ms(DECODE_DEFINITIONS[1])).to_series()
    # a single token has no decode step, however it is defined
    assert ours.is_null().to_list() == theirs.is_null().to_list()
    np.testing.assert_allclose(ours.drop_nulls(), theirs.drop_nulls())
    assert decode_definition_of(samples.filter(pl.col("output_tokens") == 1)) == DECODE_DEFINITIONS[0]


def test_the_named_settings() -> None:
    assert settings_named("reference") == REFERENCE == EstimatorSettings()
    named = (REFERENCE.learning_rate, REFERENCE.weight_decay, REFERENCE.batch_size, REFERENCE.num_epochs)
    assert named == (1e-3, 1e-5, 64, 50)
    assert (REFERENCE.loss, REFERENCE.schedule, REFERENCE.seed) == ("mse", "constant", 3407)
    with pytest.raises(UnknownChoiceError, match="did you mean 'fast'"):
        settings_named("fsat")


WRONG_SETTINGS: list[dict[str, Any]] = [
    {"loss": "mae"},
    {"schedule": "cosine"},
    {"batch_size": 0},
    {"num_epochs": 0},
    {"learning_rate": 0.0},
    {"learning_rate": math.nan},
    {"weight_decay": -1.0},
    {"patience": 0},
    {"validation_share": 1.0},
    {"step_choices": (300, 100)},
    {"loss": "huber", "join_equal_rows": True},
]


@pytest.mark.parametrize("changes", WRONG_SETTINGS)
def test_impossible_settings_cannot_be_built(changes: dict[str, Any]) -> None:
    with pytest.raises((InvalidValueError, UnknownChoiceError)):
        EstimatorSettings(**changes)


def test_one_cycle_rises_and_falls() -> None:
    shares = [SCHEDULES["one_cycle"](step / 100) for step in range(101)]
    assert shares[20] == max(shares) == pytest.approx(1.0)
    assert shares[:21] == sorted(shares[:21]) and shares[20:] == sorted(shares[20:], reverse=True)
    assert 0 < shares[0] == pytest.approx(shares[100])
