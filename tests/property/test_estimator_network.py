import numpy as np
import pytest
import torch
from estimator_samples import CONFIGS, network_of, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.estimate.feasibility import feasible_config, most_output_tokens
from paceline.records import RequestFeatures

TOKENS = st.integers(0, 20_000)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    hidden_dim=st.sampled_from([1, 2, 7, 64, 256]),
    num_layers=st.integers(1, 3),
    vision=st.tuples(TOKENS, TOKENS, TOKENS),
    text=TOKENS,
)
def test_numpy_gives_what_torch_gives(
    seed: int, hidden_dim: int, num_layers: int, vision: tuple[int, int, int], text: int
) -> None:
    model = random_model(seed, hidden_dim, min(num_layers, 2 if hidden_dim == 256 else 3))
    network = network_of(model)
    request = RequestFeatures(text_tokens=text, vision_tokens=dict(zip(("low", "medium", "high"), vision, strict=True)))
    estimates = network.estimate(request)
    with torch.no_grad():
        prefill, decode = (
            model.double()(  # the truth in float64, so that torch's own rounding is not held against numpy
                vision_tokens=[request.vision_tokens[config.tier] for config in CONFIGS],
                text_tokens=text,
                tier_idx=[config.size[0] for config in CONFIGS],
                top_k=[config.top_k for config in CONFIGS],
                num_active_blocks=[config.num_active_blocks for config in CONFIGS],
            )
        )
    for found, true in ((estimates.prefill_ms_C, prefill), (estimates.decode_per_token_ms_C, decode)):
        np.testing.assert_allclose(found, true.numpy(), rtol=1e-4, atol=1e-4)
        assert (found >= 0).all()
    for index, config in enumerate(CONFIGS):
        one = network.estimate_one(request, config)
        both = (estimates.prefill_ms_C[index], estimates.decode_per_token_ms_C[index])
        assert one == pytest.approx(both, rel=1e-4, abs=1e-4)


@given(
    prefill_ms=st.floats(0, 500),
    decode_ms=st.floats(0.01, 100),
    budget_ms=st.floats(0.1, 1000),
    tokens=st.floats(1, 50),
)
def test_the_most_tokens_are_the_last_that_fit(
    prefill_ms: float, decode_ms: float, budget_ms: float, tokens: float
) -> None:
    most = most_output_tokens(prefill_ms, decode_ms, budget_ms)
    assert most is not None
    total_ms = prefill_ms + decode_ms * (most - 1)
    if most:
        assert total_ms <= budget_ms * (1 + 1e-9)
    assert prefill_ms + decode_ms * most > budget_ms * (1 - 1e-9)
    found = feasible_config(CONFIGS[0], prefill_ms, decode_ms, budget_ms, tokens)
    assert found.feasible == (prefill_ms + decode_ms * (tokens - 1) <= budget_ms)
    if found.feasible and tokens == int(tokens):
        assert most >= tokens - 1e-6 or total_ms == pytest.approx(budget_ms)
