import math

import numpy as np
import pytest
import torch
from estimator_samples import CONFIGS
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_controllers import synthetic_chooser, synthetic_description, synthetic_weights

from paceline.control.learned.description import LARGEST_INPUT, LEARNERS
from paceline.control.learned.network import ChooserNetwork
from paceline.request_vector import RANGES, REQUEST_VECTOR_NAMES

MIDDLE = tuple((low + high) / 2 for low, high in RANGES.values())
# shares of each number's range; beyond it too, where the clip of the inputs matters
SHARES = st.lists(st.floats(-2, 3), min_size=len(RANGES), max_size=len(RANGES))


def vector_at(shares: list[float]) -> tuple[float, ...]:
    return tuple(low + share * (high - low) for share, (low, high) in zip(shares, RANGES.values(), strict=True))


def scores_by_definition(
    learner: str, weights: dict[str, np.ndarray], num_layers: int, inputs: list[float]
) -> np.ndarray:
    """The formula in float64, member by member, as it is written down."""
    own = {name: torch.from_numpy(array).double() for name, array in weights.items()}
    x = (torch.tensor(inputs).double() - own["input_mean_I"]) * own["input_scale_I"]
    x = x.clamp(-LARGEST_INPUT, LARGEST_INPUT)
    members = []
    for member in range(len(own["skip.weight"])):
        z, h = x @ own["skip.weight"][member] + own["skip.bias"][member], x
        for layer in range(num_layers):
            h = torch.relu(h @ own[f"hidden.{layer}.weight"][member] + own[f"hidden.{layer}.bias"][member])
        if num_layers:
            z = z + h @ own["head.weight"][member]
        members.append(torch.sigmoid(z) if learner == "supervised" else z)
    return torch.stack(members).mean(dim=0).numpy()


@settings(max_examples=60, deadline=None)
@given(
    learner=st.sampled_from(LEARNERS),
    seed=st.integers(0, 10_000),
    members=st.integers(1, 4),
    hidden_dim=st.sampled_from([1, 3, 16]),
    num_layers=st.integers(0, 3),
    shares=SHARES,
    budget_ms=st.floats(0.01, 1e5),
)
def test_numpy_gives_what_the_formula_gives_in_torch(
    learner: str,
    seed: int,
    members: int,
    hidden_dim: int,
    num_layers: int,
    shares: list[float],
    budget_ms: float,
) -> None:
    described = synthetic_description(
        learner, members=members, hidden_dim=hidden_dim if num_layers else 0, num_layers=num_layers
    )
    weights, vector = synthetic_weights(described, seed), vector_at(shares)
    expected = scores_by_definition(learner, weights, num_layers, [*vector, math.log(budget_ms)])
    found = ChooserNetwork(description=described, weights=weights).scores(vector, budget_ms)
    assert found.shape == (len(CONFIGS),)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("rows", [0, 1, 3, 8, 9])
def test_rows_of_a_batch_are_scored_as_each_by_itself(learner: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.control.learned.network.ROWS_AT_ONCE", 4)
    network, random = synthetic_chooser(learner, num_layers=2), np.random.default_rng(0)
    vectors = [vector_at(random.random(len(RANGES)).tolist()) for _ in range(rows)]
    budgets_ms = random.uniform(1, 1000, rows).tolist()
    inputs_NI = np.array([(*vector, math.log(ms)) for vector, ms in zip(vectors, budgets_ms, strict=True)])
    scores_NC = network.scores_of(inputs_NI.reshape(rows, len(RANGES) + 1))
    assert scores_NC.shape == (rows, len(CONFIGS))
    for scores_C, vector, budget_ms in zip(scores_NC, vectors, budgets_ms, strict=True):
        np.testing.assert_allclose(scores_C, network.scores(vector, budget_ms), rtol=1e-5, atol=1e-5)


def test_predicted_accuracies_are_shares_however_large_the_weights() -> None:
    described = synthetic_description("supervised")
    weights = synthetic_weights(described)
    weights["skip.bias"] *= np.float32(1e6)
    scores_C = ChooserNetwork(description=described, weights=weights).scores(MIDDLE, 50.0)
    assert ((scores_C >= 0) & (scores_C <= 1)).all() and {0.0, 1.0} <= set(scores_C.tolist())


def test_an_input_that_is_not_looked_at_changes_nothing() -> None:
    network = synthetic_chooser()
    unseen, *rest = REQUEST_VECTOR_NAMES
    assert network.looks_at == tuple(rest)
    assert (network.scores(MIDDLE, 50.0) == network.scores((1e9, *MIDDLE[1:]), 50.0)).all(), unseen
    assert (network.scores(MIDDLE, 50.0) != network.scores((*MIDDLE[:-1], 1.0), 50.0)).any()
    assert (network.scores(MIDDLE, 50.0) != network.scores(MIDDLE, 55.0)).any()


def test_numbers_beyond_training_are_named() -> None:
    network = synthetic_chooser("grpo", budget_range_ms=(10.0, 100.0))
    least, most = (tuple(span[end] for span in RANGES.values()) for end in (0, 1))
    for vector, budget_ms in ((MIDDLE, 50.0), (least, 10.0), (most, 100.0)):
        assert network.outside(vector, budget_ms) == ()
    beyond = (*MIDDLE[:6], 1.001, *MIDDLE[7:-1], -1.001)
    assert network.outside(beyond, 101.0) == (REQUEST_VECTOR_NAMES[6], REQUEST_VECTOR_NAMES[-1], "budget_ms")
    assert network.outside(MIDDLE, 9.9) == ("budget_ms",)


def test_a_budget_is_beyond_training_only_for_what_was_trained_for_budgets() -> None:
    network = synthetic_chooser("supervised", budget_range_ms=(10.0, 100.0))
    assert network.outside(MIDDLE, 1e6) == () == network.outside(MIDDLE, 0.1)
