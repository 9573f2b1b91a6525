import math

import pytest
import torch
from estimator_samples import random_model, true_ms

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.fit.estimator.losses import HUBER_REACH, LOSSES
from paceline.fit.estimator.network import LatencyEstimator, LatencyEstimatorTrainer, TrainingBatch, squareplus

FEATURES = {"vision_tokens": 432, "text_tokens": 20, "tier_idx": 0, "top_k": 4, "num_active_blocks": 8}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def synthetic_batch(count: int = 256, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    vision = torch.randint(144, 2304, (count,), generator=random).float()
    text = torch.randint(8, 40, (count,), generator=random).float()
    top_k, blocks = (torch.randint(4, 17, (count,), generator=random).float() for _ in range(2))
    prefill, decode = true_ms(vision, text, top_k, blocks)
    features = {"vision_tokens": vision, "text_tokens": text, "top_k": top_k, "num_active_blocks": blocks}
    return {**features, "tier_idx": vision // 800, "T_prefill_total": prefill, "T_decode_per_token": decode}


def standardised(batch: dict[str, torch.Tensor], hidden_dim: int = 32) -> LatencyEstimator:
    torch.manual_seed(0)
    model = LatencyEstimator(hidden_dim)
    features = torch.stack([batch[name] for name in FEATURES], dim=-1)
    model.standardise(
        feature_mean_F=features.mean(dim=0),
        feature_scale_F=1 / features.std(dim=0),
        target_scale_K=torch.stack([batch["T_prefill_total"].mean(), batch["T_decode_per_token"].mean()]),
    )
    return model


def test_the_reference_size_keeps_within_the_parameter_limit() -> None:
    model = LatencyEstimator()
    assert (model.hidden_dim, model.num_layers) == (256, 2)
    assert sum(parameter.numel() for parameter in model.parameters()) == 68_866
    with pytest.raises(InvalidValueError, match="at most 200,000 parameters; this one would have"):
        LatencyEstimator(512, 2)
    with pytest.raises(InvalidValueError, match="at least 1"):
        LatencyEstimator(0)
    four = LatencyEstimator(16, 4)
    assert [type(part).__name__ for part in four.encoder] == ["Linear", "LayerNorm", "ReLU"] * 4


def test_numbers_lists_and_tensors_broadcast_together() -> None:
    model = random_model()
    assert model(**FEATURES).T_prefill_total.shape == ()
    one = model(**FEATURES).T_prefill_total.item()
    many = model(**{**FEATURES, "vision_tokens": [432, 500], "top_k": torch.tensor([[4.0], [8.0], [2.0]])})
    assert many.T_prefill_total.shape == many.T_decode_per_token.shape == (3, 2)
    assert many.T_prefill_total[0, 0].item() == pytest.approx(one, rel=1e-5)
    assert (many.T_prefill_total >= 0).all() and (many.T_decode_per_token >= 0).all()


def test_a_tier_has_a_name_and_a_missing_knob_is_zero() -> None:
    model = random_model()
    named = {**FEATURES, "tier": ["low", "high"]}
    del named["tier_idx"]
    found = model.predict_from_config(named)
    torch.testing.assert_close(found.T_prefill_total, model(**{**FEATURES, "tier_idx": [0, 2]}).T_prefill_total)
    bare = {"vision_tokens": 9, "text_tokens": 9, "tier": None, "top_k": [None, 4], "num_active_blocks": None}
    zero = {"vision_tokens": 9, "text_tokens": 9, "tier_idx": 0, "top_k": [0, 4], "num_active_blocks": 0}
    torch.testing.assert_close(model.predict_from_config(bare).T_prefill_total, model(**zero).T_prefill_total)
    with pytest.raises(UnknownChoiceError, match="did you mean 'high'"):
        model.predict_from_config({**named, "tier": "hgih"})
    with pytest.raises(InvalidValueError, match="vision_tokens"):
        model.predict_from_config({"tier": "low"})
    with pytest.raises(InvalidValueError, match="tier is 3"):
        model.predict_from_config({**named, "tier": 3})


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_that_is_no_number_is_named(name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"{name} is .*nan"):
        random_model()(**{**FEATURES, name: [1.0, math.nan]})


def test_feasibility_composes_prefill_and_decode() -> None:
    model = random_model()
    prefill, decode = (each.item() for each in model(**FEATURES))
    budget = prefill + 4.5 * decode
    found = model.check_budget_feasibility(latency_budget=budget, expected_output_tokens=5, **FEATURES)
    assert bool(found.feasible)
    assert float(found.max_output_tokens) == 5 == float(model.max_output_tokens(budget, **FEATURES))
    assert float(found.T_total) == pytest.approx(prefill + 4 * decode)
    assert not model.check_budget_feasibility(latency_budget=budget, expected_output_tokens=6, **FEATURES).feasible
    assert float(model.max_output_tokens(prefill * 0.99, **FEATURES)) == 0
    with pytest.raises(InvalidValueError, match="latency budget"):
        model.max_output_tokens(0, **FEATURES)
    with pytest.raises(InvalidValueError, match="expected_output_tokens"):
        model.check_budget_feasibility(latency_budget=9, expected_output_tokens=0, **FEATURES)


def test_squareplus_is_its_formula_and_keeps_a_slope() -> None:
    x = torch.tensor([-1e6, -1e3, -50.0, -1.0, 0.0, 1.0, 50.0, 1e6], dtype=torch.float32, requires_grad=True)
    y = squareplus(x)
    exact = (x.double() + (x.double() ** 2 + 4).sqrt()) / 2
    torch.testing.assert_close(y[3:].double(), exact[3:], rtol=1e-6, atol=0)
    torch.testing.assert_close(y[:3].double(), 1 / x[:3].double().abs(), rtol=1e-3, atol=0)
    y.sum().backward()
    assert x.grad is not None
    assert float(x.grad[4]) == 0.5
    torch.testing.assert_close(x.grad[:3], 1 / x.detach()[:3] ** 2, rtol=1e-2, atol=0)
    assert torch.isfinite(x.grad).all()


def test_training_recovers_from_heads_that_start_far_below_zero() -> None:
    batch = synthetic_batch()
    model = standardised(batch)
    for head in (model.prefill_head, model.decode_head):
        torch.nn.init.constant_(head.bias, -50.0)  # a ReLU is dead here, and a softplus's slope is 2e-22
    trainer = LatencyEstimatorTrainer(model, lr=1e-2)
    features = {name: batch[name] for name in FEATURES}
    first = trainer.train_step(batch)
    for _ in range(800):
        last = trainer.train_step(batch)
    prefill, decode = model(**features)
    assert last["loss"] < first["loss"] / 50
    assert ((prefill - batch["T_prefill_total"]) / batch["T_prefill_total"]).abs().mean() < 0.05
    assert ((decode - batch["T_decode_per_token"]) / batch["T_decode_per_token"]).abs().mean() < 0.05


def test_a_new_network_starts_around_the_mean() -> None:
    batch = synthetic_batch()
    prefill, decode = standardised(batch, 256)(**{name: batch[name] for name in FEATURES})
    assert prefill.mean().item() == pytest.approx(batch["T_prefill_total"].mean().item(), rel=0.5)
    assert decode.mean().item() == pytest.approx(batch["T_decode_per_token"].mean().item(), rel=0.5)


def test_samples_without_a_decode_step_train_the_prefill_head_only() -> None:
    batch = synthetic_batch(8)
    model = standardised(batch)
    trainer = LatencyEstimatorTrainer(model, lr=1e-2, weight_decay=0.0)
    before = {name: each.clone() for name, each in model.named_parameters()}
    losses = trainer.train_step({**batch, "T_decode_per_token": torch.full((8,), math.nan)})
    after = dict(model.named_parameters())
    assert losses["decode"] == 0 and losses["prefill"] == losses["loss"] > 0
    assert torch.equal(before["decode_head.weight"], after["decode_head.weight"])
    assert not torch.equal(before["prefill_head.weight"], after["prefill_head.weight"])


def test_the_loss_counts_only_what_was_measured() -> None:
    batch = synthetic_batch(6)
    model = standardised(batch)
    with torch.no_grad():
        predicted = model(**{name: batch[name] for name in FEATURES})
    decode = [None, None, *batch["T_decode_per_token"][2:].tolist()]
    losses = LatencyEstimatorTrainer(model).train_step({**batch, "T_decode_per_token": decode})
    decode_error = (predicted.T_decode_per_token - batch["T_decode_per_token"])[2:]
    prefill_error = predicted.T_prefill_total - batch["T_prefill_total"]
    assert losses["decode"] == pytest.approx(float((decode_error**2).mean()), rel=1e-4)
    assert losses["prefill"] == pytest.approx(float((prefill_error**2).mean()), rel=1e-4)
    assert losses["loss"] == losses["prefill"] + losses["decode"]


def test_the_trainer_starts_at_the_reference_settings() -> None:
    group = LatencyEstimatorTrainer(LatencyEstimator(8)).optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-5)


def test_losses_by_hand() -> None:
    predicted, measured, scale = torch.tensor([[12.0, 1.0]]), torch.tensor([[10.0, 2.0]]), torch.tensor([10.0, 4.0])
    expected = {
        "mse": [[4.0, 1.0]],
        "scaled": [[0.04, 0.0625]],
        "huber": [[HUBER_REACH * (0.4 - HUBER_REACH), HUBER_REACH * (0.5 - HUBER_REACH)]],
        "log": [[math.log(1.2) ** 2, math.log(2.0) ** 2]],
    }
    assert set(expected) == set(LOSSES)
    for name, rows in expected.items():
        torch.testing.assert_close(LOSSES[name](predicted, measured, scale), torch.tensor(rows), rtol=5e-3, atol=0)
    with pytest.raises(UnknownChoiceError, match="did you mean 'huber'"):
        LatencyEstimatorTrainer(LatencyEstimator(8), loss="hubber")


def test_a_weight_counts_like_so_many_rows() -> None:
    batch = synthetic_batch(4)
    trainer = LatencyEstimatorTrainer(standardised(batch))
    features = torch.stack([batch[name] for name in FEATURES], dim=-1)
    measured = torch.stack([batch["T_prefill_total"], batch["T_decode_per_token"]], dim=-1)
    weights = torch.tensor([[3.0], [1.0], [1.0], [1.0]]).expand(4, 2)
    once = trainer.losses(TrainingBatch(features_BF=features, measured_BK=measured, weight_BK=weights / weights.mean()))
    rows = torch.tensor([0, 0, 0, 1, 2, 3])
    often = trainer.losses(
        TrainingBatch(features_BF=features[rows], measured_BK=measured[rows], weight_BK=torch.ones(6, 2))
    )
    torch.testing.assert_close(once, often)
