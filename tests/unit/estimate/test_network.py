import math
import subprocess
import sys

import numpy as np
import pytest
from estimator_samples import CONFIGS, a_config, network_of, random_model

from paceline.errors import EstimatorError, InvalidValueError
from paceline.estimate import LatencyModel
from paceline.estimate.features import FEATURES
from paceline.records import KnobGrid, RequestFeatures

REQUEST = RequestFeatures(text_tokens=20, vision_tokens={"low": 432, "medium": 1008, "high": 1872})


def test_the_grid_is_in_the_order_of_its_configurations() -> None:
    network: LatencyModel = network_of(random_model())
    assert network.configs == CONFIGS
    estimates = network.estimate(REQUEST)
    assert estimates.prefill_ms_C.shape == estimates.decode_per_token_ms_C.shape == (len(CONFIGS),)
    assert len(set(estimates.prefill_ms_C.tolist())) == len(CONFIGS)
    again = network.estimate(REQUEST)
    np.testing.assert_array_equal(again.prefill_ms_C, estimates.prefill_ms_C)


def test_features_beyond_the_training_ranges_are_named() -> None:
    network = network_of(random_model())
    assert network.estimate(REQUEST).outside == ()
    large = RequestFeatures(text_tokens=41, vision_tokens={"low": 432, "medium": 1008, "high": 2305})
    assert network.estimate(large).outside == ("vision_tokens", "text_tokens")
    small = RequestFeatures(text_tokens=7, vision_tokens={"low": 143, "medium": 1008, "high": 1872})
    assert network.estimate(small).outside == ("vision_tokens", "text_tokens")
    assert network.outside(small, a_config("medium", top_k=12, num_active_blocks=4)) == (
        "text_tokens",
        "top_k",
        "num_active_blocks",
    )


def test_a_tier_that_the_request_does_not_know_is_named() -> None:
    network = network_of(random_model())
    lacking = RequestFeatures(text_tokens=20, vision_tokens={"low": 432, "high": 1872})
    with pytest.raises(InvalidValueError, match="low, high only.*tier medium"):
        network.estimate(lacking)
    with pytest.raises(InvalidValueError, match="tier medium"):
        network.estimate_one(lacking, a_config("medium"))
    assert network.estimate_one(lacking, a_config("low"))[0] > 0


def test_rows_are_the_same_as_the_grid_and_must_be_finite() -> None:
    network = network_of(random_model())
    rows = np.array([(REQUEST.vision_tokens[each.tier], 20, each.size[0], each.top_k, each.num_active_blocks)
                     for each in CONFIGS], dtype=float)  # fmt: skip
    prefill, decode = network.estimate_rows(rows)
    estimates = network.estimate(REQUEST)
    np.testing.assert_allclose(prefill, estimates.prefill_ms_C, rtol=1e-6)
    np.testing.assert_allclose(decode, estimates.decode_per_token_ms_C, rtol=1e-6)
    assert network.estimate_rows(rows[:0])[0].shape == (0,)
    for place, name in enumerate(FEATURES):
        broken = rows.copy()
        broken[3, place] = math.nan
        with pytest.raises(InvalidValueError, match=f"{name} is nan"):
            network.estimate_rows(broken)


def test_a_model_without_knobs_is_fed_zeros() -> None:
    bare = a_config(None, None, None)
    network = network_of(random_model(), configs=(bare,), typical_vision_tokens={None: 100})
    estimates = network.estimate(RequestFeatures(text_tokens=20, vision_tokens={None: 300}))
    expected = network.estimate_rows(np.array([[300.0, 20, 0, 0, 0]]))[0]
    np.testing.assert_allclose(estimates.prefill_ms_C, expected, rtol=1e-6)


def test_decode_that_nothing_trained_is_unknown_not_a_number() -> None:
    network = network_of(random_model(), num_decode_rows=0)
    estimates = network.estimate(REQUEST)
    assert np.isnan(estimates.decode_per_token_ms_C).all() and (estimates.prefill_ms_C > 0).all()
    assert math.isnan(network.estimate_one(REQUEST, CONFIGS[0])[1])


def test_an_estimator_of_another_model_is_refused() -> None:
    network = network_of(random_model())
    network.require_model(frozenset({"synthetic", "other"}))
    network.require_model(frozenset())
    with pytest.raises(EstimatorError, match="trained on synthetic; expected an estimator of digits"):
        network.require_model(frozenset({"digits"}))


def test_a_gain_of_zero_is_as_good_as_any() -> None:
    model = random_model()
    model.encoder[1].weight.data[:5] = 0
    model.encoder[4].weight.data[3] = 0
    prefill = network_of(model).estimate(REQUEST).prefill_ms_C
    for config, found in zip(CONFIGS, prefill, strict=True):
        asked = {"vision_tokens": REQUEST.vision_tokens[config.tier], "text_tokens": 20, "tier": config.tier}
        knobs = {"top_k": config.top_k, "num_active_blocks": config.num_active_blocks}
        assert found == pytest.approx(float(model.predict_from_config(asked | knobs).T_prefill_total), rel=1e-4)


def test_the_online_half_starts_without_torch() -> None:
    code = (
        "import sys; import paceline.estimate; "
        "heavy = {'torch', 'polars', 'pydantic', 'msgspec', 'sklearn', 'scipy', 'typer', 'rich'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_grid_larger_than_one_product_is_as_good_as_its_rows() -> None:
    grid = KnobGrid(tiers=("low",), top_ks=tuple(range(1, 10)), block_counts=tuple(range(1, 12))).configurations()
    network = network_of(random_model(hidden_dim=66), configs=tuple(grid), typical_vision_tokens={"low": 432})
    rows = np.array([(432, 20, 0, each.top_k, each.num_active_blocks) for each in grid], dtype=float)
    estimates = network.estimate(RequestFeatures(text_tokens=20, vision_tokens={"low": 432}))
    prefill, decode = network.estimate_rows(rows)
    np.testing.assert_allclose(estimates.prefill_ms_C, prefill, rtol=1e-5)
    np.testing.assert_allclose(estimates.decode_per_token_ms_C, decode, rtol=1e-5)
