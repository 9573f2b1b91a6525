"""The fitted cost of work: what it is where the terms hold, never negative, and not led by stalls."""

import numpy as np
import polars as pl
import pytest
from estimator_samples import synthetic_samples, true_ms
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.estimate.work_terms import term_rows
from paceline.fit.estimator.baselines import ridge
from paceline.fit.estimator.rows import LatencyRows, latency_rows
from paceline.fit.estimator.work import fitted_work
from paceline.profiles import Split, split_samples

STEPS = "T_LLM_decode / (output_tokens - 1)"


def errors(rows, predicted_NK):
    vision, text, _tier, top_k, blocks = rows.features_NF.T
    true_NK = np.stack(np.broadcast_arrays(*true_ms(vision, text, top_k, blocks)), axis=1)
    return np.abs(predicted_NK / true_NK - 1).mean(axis=0)


@pytest.mark.parametrize("seed", range(4))
def test_twenty_questions_are_enough_where_latency_is_made_of_work(seed):
    parts = split_samples(synthetic_samples(20, seed=seed, noise=0.05), Split(seed=seed))
    fitted, judged = latency_rows(parts.fit, STEPS), latency_rows(parts.test, STEPS)
    own = errors(judged, term_rows(judged.features_NF) @ fitted_work(fitted))
    plain = errors(judged, ridge(fitted)(judged.features_NF))
    assert (own < 0.02).all() and own[0] < plain[0]


def test_stalls_do_not_lead_it():
    samples = synthetic_samples(60, noise=0.02)
    stalled = samples.with_columns(
        pl.when(pl.int_range(pl.len()) % 13 == 0).then(4 * pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in ("T_vision_total", "T_LLM_prefill")
    )
    rows = latency_rows(stalled, STEPS)
    assert errors(rows, term_rows(rows.features_NF) @ fitted_work(rows))[0] < 0.02


rows_of = st.integers(1, 30).flatmap(
    lambda count: st.tuples(
        st.lists(
            st.tuples(
                st.integers(0, 5000), st.integers(0, 9000), st.integers(0, 2), st.integers(0, 128), st.integers(0, 96)
            ),
            min_size=count,
            max_size=count,
        ),
        st.lists(
            st.tuples(st.floats(0, 1e5), st.floats(0, 1e4), st.booleans(), st.integers(1, 40)),
            min_size=count,
            max_size=count,
        ),
    )
)


@given(rows_of)
@settings(deadline=None, max_examples=60)
def test_work_never_costs_less_than_nothing_whatever_was_measured(drawn):
    features, measured = drawn
    rows = LatencyRows(
        features_NF=np.array(features, dtype=float),
        measured_ms_NK=np.array([[prefill, decode * known] for prefill, decode, known, _ in measured]),
        weight_NK=np.array([[count, count * known] for _, _, known, count in measured], dtype=float),
    )
    weight_TK = fitted_work(rows)
    assert np.isfinite(weight_TK).all() and (weight_TK >= 0).all() and (weight_TK[0] > 0).all()
    assert (term_rows(rows.features_NF) @ weight_TK > 0).all()


def test_what_never_varied_moves_nothing_and_more_work_never_takes_less():
    samples = synthetic_samples(40).filter(pl.col("top_k") == 4)
    rows = latency_rows(samples, STEPS)
    weight_TK = fitted_work(rows)
    before = term_rows(rows.features_NF) @ weight_TK
    np.testing.assert_array_equal(term_rows(rows.features_NF + np.array([0, 0, 0, 9, 0])) @ weight_TK, before)
    for more in ([500, 0, 0, 0, 0], [0, 50, 0, 0, 0], [0, 0, 0, 0, 4]):
        assert (term_rows(rows.features_NF + np.array(more)) @ weight_TK >= before).all()


def test_a_profile_of_millions_of_rows_is_fitted_on_some(monkeypatch):
    rows = latency_rows(synthetic_samples(60, noise=0.0), STEPS)
    whole = fitted_work(rows)
    monkeypatch.setattr("paceline.fit.estimator.work.MOST_ROWS", 101)
    some = fitted_work(rows)
    np.testing.assert_allclose(term_rows(rows.features_NF) @ some, term_rows(rows.features_NF) @ whole, rtol=1e-3)
