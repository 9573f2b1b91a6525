"""What work costs is one number, however it is asked for: by rows, by configuration, and in torch."""

import numpy as np
import torch
from estimator_samples import CONFIGS, a_config

from paceline.estimate.features import feature_rows
from paceline.estimate.work_terms import (
    TERM_NAMES,
    TERMS,
    constant_weights,
    request_parts,
    term_rows,
    weights_of_configs,
)
from paceline.fit.estimator.network import terms_of
from paceline.records import RequestFeatures

RANDOM_TK = np.random.default_rng(0).random((len(TERMS), 2))
REQUEST = RequestFeatures(text_tokens=17, vision_tokens={"low": 64, "medium": 300, "high": 900, None: 5})
MORE = (a_config(tier=None, top_k=None, num_active_blocks=None), a_config(top_k=None))


def test_rows_and_configurations_say_the_same():
    configs = (*CONFIGS, *MORE)
    rows_NF = feature_rows(REQUEST, configs)
    by_row = term_rows(rows_NF) @ RANDOM_TK
    weights_CPK = weights_of_configs(configs, RANDOM_TK)
    parts_CP = np.array([request_parts(REQUEST.vision_tokens[config.tier], 17) for config in configs])
    np.testing.assert_allclose(np.einsum("cp,cpk->ck", parts_CP, weights_CPK), by_row, rtol=1e-12)


def test_torch_has_the_same_terms():
    rows_NF = feature_rows(REQUEST, (*CONFIGS, *MORE))
    found = terms_of(torch.from_numpy(rows_NF))
    np.testing.assert_array_equal(found.numpy(), term_rows(rows_NF))


def test_an_older_estimator_costs_the_same_for_every_request():
    rows_NF = feature_rows(REQUEST, CONFIGS)
    np.testing.assert_array_equal(
        term_rows(rows_NF) @ constant_weights(np.array([3.0, 7.0])), np.tile([3.0, 7.0], (len(CONFIGS), 1))
    )
    assert len(set(TERM_NAMES)) == len(TERMS)
