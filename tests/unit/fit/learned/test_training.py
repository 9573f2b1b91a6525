"""Learned controllers from synthetic profiles: what there is to learn is learned, the same every time, killed or not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latency_models import GRID, steady_bounds, synthetic_samples, token_linear
from learned_controllers import synthetic_description
from learned_samples import answered, taught_samples

from paceline.control.learned.description import LARGEST_INPUT
from paceline.control.learned.network import ChooserNetwork
from paceline.control.learned.reward import Reward
from paceline.errors import InvalidValueError, ProfileDataError
from paceline.fit.learned.data import ChooserParts, chooser_data, chooser_parts
from paceline.fit.learned.grpo import GrpoLearner, advantages, clipped_gain, log_choice
from paceline.fit.learned.network import ChooserModule
from paceline.fit.learned.settings import ADVANTAGE_SCALES, GrpoSettings, NetworkSettings, SupervisedSettings
from paceline.fit.learned.supervised import SupervisedLearner, best_fitting
from paceline.fit.learned.training import Learner, fingerprint_of, inputs_of, train_chooser

SOURCE = Path("synthetic")
ACCURACY_ALONE = Reward(latency_weight=0, overshoot_weight=0)
BUDGET_MS = 24.0  # fits 16 blocks in the low tier or 8 in the high one, not both
SMALL = NetworkSettings(members=2, hidden_dim=8, dropout=0.2)
SUPERVISED = SupervisedSettings(network=SMALL, num_steps=400, learning_rate=0.01)
GRPO = GrpoSettings(network=SMALL, cloning_steps=50, num_steps=300, batch_size=64, learning_rate=0.01)
LEARNERS: dict[str, Callable[[ChooserParts], Learner]] = {
    "supervised": lambda parts: SupervisedLearner(parts, SUPERVISED, ACCURACY_ALONE),
    "grpo": lambda parts: GrpoLearner(parts, GRPO, ACCURACY_ALONE),
}
KNOWN: dict[str, Any] = {
    "source": SOURCE,
    "model": token_linear(),
    "bounds": steady_bounds(),
    "latency_kind": "prefill",
    "alpha": 0.05,
}


def parts_of(samples: pl.DataFrame) -> ChooserParts:
    return chooser_parts(samples, seed=0, **KNOWN)


@pytest.fixture(scope="module")
def taught() -> ChooserParts:
    return parts_of(taught_samples())


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest, taught: ChooserParts) -> Learner:
    return LEARNERS[request.param](taught)


def test_what_a_request_needs_is_learned_from_what_it_shows(learner: Learner) -> None:
    trained = train_chooser(learner, fingerprint_of(learner))
    judged = chooser_data(taught_samples(90, seed=2), **KNOWN)
    with torch.no_grad():
        scores_RC = learner.model.eval()(inputs_of(judged.vectors_RF, BUDGET_MS)).mean(dim=0).numpy()
    taken_R = best_fitting(scores_RC, judged, (BUDGET_MS,), ACCURACY_ALONE)[0]
    rows_R = np.arange(len(taken_R))
    of_bound = judged.accuracy_RC[rows_R, judged.bound_choice(BUDGET_MS)].mean()
    at_best = np.where(judged.allowed(BUDGET_MS), judged.accuracy_RC, 0.0).max(axis=1).mean()
    assert at_best > of_bound + 0.1  # one configuration cannot serve both kinds
    assert judged.accuracy_RC[rows_R, taken_R].mean() > of_bound + 0.9 * (at_best - of_bound)
    assert (judged.bound_ms_RC[rows_R, taken_R] <= BUDGET_MS).all()
    first, last = trained.learning[0], trained.learning[-1]
    assert last["validation_accuracy"] > first["validation_accuracy"] + 0.1


def test_the_same_seed_gives_the_same_weights(taught: ChooserParts) -> None:
    for make in LEARNERS.values():
        one, other = (train_chooser(make(taught), "synthetic") for _ in range(2))
        assert one.learning == other.learning
        assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_killed_run_goes_on_to_the_same_weights(
    name: str, taught: ChooserParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.fit.learned.training.CHECKPOINT_SECONDS", 0.0)
    whole = train_chooser(LEARNERS[name](taught), "synthetic")
    stopped = LEARNERS[name](taught)

    def kill(step: int, _steps: int) -> None:
        if step == 130:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train_chooser(stopped, "synthetic", checkpoint=checkpoint, on_progress=kill)
    resumed = train_chooser(LEARNERS[name](taught), "synthetic", checkpoint=checkpoint)
    assert resumed.resumed_steps == 100
    assert resumed.learning == whole.learning
    assert all(np.array_equal(resumed.weights[each], whole.weights[each]) for each in whole.weights)


def test_a_checkpoint_of_other_data_is_left_unused(taught: ChooserParts) -> None:
    other = parts_of(taught_samples(seed=3))
    prints = {fingerprint_of(make(parts)) for make in LEARNERS.values() for parts in (taught, other)}
    prints.add(fingerprint_of(SupervisedLearner(taught, replace(SUPERVISED, seed=5), ACCURACY_ALONE)))
    prints.add(fingerprint_of(SupervisedLearner(taught, SUPERVISED, Reward())))
    assert len(prints) == 6


def test_the_numpy_network_scores_as_torch_does(learner: Learner) -> None:
    train_chooser(learner, "synthetic")
    model = learner.model.eval()
    vectors = learner.parts.validation.vectors_RF
    with torch.no_grad():
        logits = model(inputs_of(vectors, BUDGET_MS))
    kind = "supervised" if isinstance(learner, SupervisedLearner) else "grpo"
    expected = (torch.sigmoid(logits) if kind == "supervised" else logits).mean(dim=0).numpy()
    network = online_network(learner, kind)
    found = np.stack([network.scores(tuple(vector.tolist()), BUDGET_MS) for vector in vectors])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def online_network(learner: Learner, kind: str) -> ChooserNetwork:
    described = synthetic_description(
        kind, configs=learner.parts.training.configs, members=SMALL.members, hidden_dim=SMALL.hidden_dim
    )
    return ChooserNetwork(description=described, weights=learner.model.weights())


def test_the_chooser_starts_as_the_controller_with_bounds(taught: ChooserParts) -> None:
    learner = GrpoLearner(taught, replace(GRPO, cloning_steps=400), ACCURACY_ALONE)
    with torch.no_grad():
        for budget_ms in taught.budgets_ms:
            logits_RC = learner.model.eval()(inputs_of(taught.validation.vectors_RF, budget_ms)).mean(dim=0).numpy()
            taken_R = np.where(taught.validation.allowed(budget_ms), logits_RC, -np.inf).argmax(axis=1)
            assert (taken_R == taught.validation.bound_choice(budget_ms)).mean() > 0.95


def test_configurations_not_measured_take_the_estimators_latency_and_the_mean_accuracy() -> None:
    samples = taught_samples()
    left_out = pl.col("sample_id").eq("00007") & pl.col("num_active_blocks").eq(8) & pl.col("tier").eq("low")
    whole, partial = chooser_data(samples, **KNOWN), chooser_data(samples.filter(~left_out), **KNOWN)
    column = partial.configs.index(GRID[0])
    row = next(place for place, (_, name) in enumerate(partial.names) if name == "00007")
    assert not partial.measured_RC[row, column] and partial.measured_RC.sum() == whole.measured_RC.sum() - 1
    assert partial.latency_ms_RC[row, column] == pytest.approx(partial.predicted_ms_RC[row, column])
    assert partial.accuracy_RC[row, column] == 0.3  # of that configuration in steady_bounds
    same = partial.measured_RC
    np.testing.assert_array_equal(partial.latency_ms_RC[same], whole.latency_ms_RC[same])


def test_matrices_hold_what_was_measured(taught: ChooserParts) -> None:
    names = set(taught.training.names) | set(taught.validation.names)
    assert len(names) == 240 and not set(taught.training.names) & set(taught.validation.names)
    for data in (taught.training, taught.validation):
        for row, (_, name) in enumerate(data.names):
            assert data.accuracy_RC[row].tolist() == [answered(name, config) for config in data.configs]
        np.testing.assert_allclose(data.bound_ms_RC, 1.2 * data.predicted_ms_RC)


def test_samples_without_vectors_are_refused() -> None:
    with pytest.raises(ProfileDataError, match="request_features.*profile again"):
        parts_of(synthetic_samples(60))


def test_too_few_requests_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="requests to learn from is 12"):
        parts_of(taught_samples(12))


@pytest.mark.parametrize("changes", [{"clip": 0.0}, {"group_size": 1}, {"learning_rate": 1.0}, {"entropy_floor": -1.0}])
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(changes))):
        replace(GRPO, **changes)


@given(rewards=st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=1, max_size=5))
def test_advantages_are_centred_and_keep_the_order(rewards: list[list[float]]) -> None:
    for scale in ADVANTAGE_SCALES:
        found_BG = advantages(torch.tensor(rewards, dtype=torch.float64)[None], scale)[0]
        assert float(found_BG.mean(dim=-1).abs().max()) < 1e-6
        for group, found in zip(rewards, found_BG.tolist(), strict=True):
            order = np.argsort(group, kind="stable")
            assert (np.diff(np.array(found)[order]) >= -1e-12).all()


def test_a_group_weighs_as_much_as_its_rewards_differ_only_by_the_batch() -> None:
    earned = torch.tensor([[[1.0, 0.99], [1.0, 0.0], [0.5, 0.5]]])
    assert advantages(earned, "group")[0, :, 0].tolist() == pytest.approx([1, 1, 0], abs=0.03)
    slight, large, none = advantages(earned, "batch")[0, :, 0].tolist()
    assert large == pytest.approx(100 * slight) and none == 0


@given(ratio=st.floats(0.01, 10), advantage=st.floats(-5, 5), clip=st.floats(0.05, 0.5))
def test_a_step_is_never_rewarded_beyond_the_clip(ratio: float, advantage: float, clip: float) -> None:
    given_ratio, given_advantage = (torch.tensor(each, dtype=torch.float64) for each in (ratio, advantage))
    gain = float(clipped_gain(given_ratio, given_advantage, clip))
    assert gain <= ratio * advantage + 1e-9
    assert gain <= max((1 + clip) * advantage, (1 - clip) * advantage) + 1e-9


def test_what_may_not_be_taken_has_no_probability() -> None:
    allowed = torch.tensor([[True, False, True], [False, True, False]])
    probability = log_choice(torch.randn(4, 2, 3) * 30, allowed).exp()
    assert float(probability[:, ~allowed].max()) == 0.0
    torch.testing.assert_close(probability.sum(dim=-1), torch.ones(4, 2))


def test_members_do_not_touch_one_another() -> None:
    model = ChooserModule(members=2, inputs=3, hidden_dim=4, num_layers=2, configs=5)
    torch.nn.init.normal_(model.skip.weight)
    assert model.head is not None
    torch.nn.init.normal_(model.head)
    inputs = torch.randn(2, 6, 3)
    model(inputs)[0].sum().backward()
    assert all(each.grad is None or not each.grad[1].any() for each in model.parameters())


def test_inputs_far_from_training_count_as_far_and_no_further() -> None:
    model = ChooserModule(members=1, inputs=2, hidden_dim=0, num_layers=0, configs=1)
    model.standardise(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    torch.nn.init.ones_(model.skip.weight)
    scores = model(torch.tensor([[1.0, 99.0], [2.0, 99.0], [1e9, -99.0], [-1e9, 0.0]]))[0, :, 0]
    assert scores.tolist() == [0.0, 2.0, LARGEST_INPUT, -LARGEST_INPUT]
