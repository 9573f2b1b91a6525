import numpy as np
import polars as pl
from latency_models import GRID, synthetic_samples

from paceline.analyze import latency_of
from paceline.profiles.requests import measured_requests


def test_every_row_of_the_frame_is_found_in_the_matrices() -> None:
    samples = synthetic_samples(8)
    found = measured_requests(samples.sample(fraction=1, shuffle=True, seed=3), latency_of("total"))
    assert found.configs == tuple(GRID)
    assert found.complete.all()
    for row in samples.iter_rows(named=True):
        place = found.names.index((row["dataset"], row["sample_id"]))
        column = [
            config.tier == row["tier"] and config.num_active_blocks == row["num_active_blocks"] for config in GRID
        ]
        assert found.latency_ms_RC[place][column] == [row["T_total"]]
        assert found.accuracy_RC[place][column] == [row["accuracy"]]
        features = found.features[place]
        assert features.vision_tokens[row["tier"]] == row["actual_vision_tokens"]
        assert (features.text_tokens, features.dataset) == (row["actual_text_tokens"], row["dataset"])


def test_what_was_not_measured_is_nan_and_can_be_left_out() -> None:
    samples = synthetic_samples(4)
    missing = (pl.col("sample_id") == "00002") & (pl.col("tier").cast(pl.String) == "high")
    found = measured_requests(samples.filter(~missing), latency_of("prefill"))
    assert found.complete.sum() == 3
    assert np.isnan(found.latency_ms_RC).sum() == 2
    kept = found.only(found.complete)
    assert {name for _, name in kept.names} == {"00000", "00001", "00003"}
    assert kept.latency_ms_RC.shape == kept.accuracy_RC.shape == (3, 4)


def test_samples_of_the_same_name_in_two_datasets_are_two_requests() -> None:
    samples = synthetic_samples(3, datasets=("synthetic_one",))
    other = samples.with_columns(dataset=pl.lit("synthetic_two").cast(pl.Categorical))
    assert len(measured_requests(pl.concat([samples, other]), latency_of("prefill")).names) == 6


def test_a_model_without_knobs_is_one_column() -> None:
    dense = synthetic_samples(3).filter(pl.col("tier").cast(pl.String) == "low", pl.col("num_active_blocks") == 8)
    dense = dense.with_columns(tier=pl.lit(None, dtype=dense.schema["tier"]), top_k=pl.lit(None, dtype=pl.Int32))
    found = measured_requests(dense, latency_of("prefill"))
    assert [config.key for config in found.configs] == ["none_none_8"]
    assert found.complete.all()
    assert list(found.features[0].vision_tokens) == [None]
