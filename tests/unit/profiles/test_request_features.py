from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from paceline.errors import ProfileDataError
from paceline.profiles import ProfileStore, import_profile, merge_profiles, read_profile, write_core_exp
from paceline.profiles.request_features import request_vectors, vector_metadata
from paceline.profiles.requests import measured_requests
from paceline.records import PICTURE_RANGES, PictureFeatures, RequestFeatures
from paceline.request_vector import REQUEST_VECTOR_NAMES, request_vector

SOURCE = Path("some/profile")


def features(text_tokens=9):
    flat = {name: lowest for name, (lowest, _highest) in PICTURE_RANGES.items()}
    return RequestFeatures(
        text_tokens=text_tokens,
        vision_tokens={"low": 1, "medium": 2, "high": 3},
        picture=PictureFeatures(width_px=33, height_px=64, **flat),
        prompt_embedding=(0.6, 0.0, -0.8, *[0.0] * 13),
    )


def written(directory, synthetic_run, samples):
    with ProfileStore.open_or_create(directory, synthetic_run(), 0) as store:
        for sample in samples:
            store.append(sample)
    return directory


@pytest.fixture
def store(tmp_path, synthetic_run, synthetic_sample):
    samples = [
        synthetic_sample(
            dataset=dataset, sample_id=name, top_k=top_k, metadata={"digits": 3, **vector_metadata(features(length))}
        )
        for dataset, name, length in (("text_vqa", "s1", 7), ("doc_qa", "s9", 8), ("text_vqa", "s0", 9))
        for top_k in (4, 8)
    ]
    return written(tmp_path / "store", synthetic_run, samples)


def frame(*texts):
    return pl.DataFrame({"dataset": "d", "sample_id": [f"s{n}" for n in range(len(texts))], "metadata": list(texts)})


def test_what_profiling_stored_is_what_is_computed_again(store):
    found = request_vectors(read_profile(store).samples, store)
    assert found.names == (("doc_qa", "s9"), ("text_vqa", "s0"), ("text_vqa", "s1"))
    expected = [request_vector(features(length)) for length in (8, 9, 7)]
    assert np.array_equal(found.vectors_RF, np.array(expected))


def test_rows_stand_in_the_order_of_measured_requests(store):
    samples = read_profile(store).samples
    assert request_vectors(samples, store).names == measured_requests(samples, pl.col("T_total")).names


def test_vectors_survive_the_core_exp_layout_merging_and_compaction(store, tmp_path):
    before = request_vectors(read_profile(store).samples, store)
    write_core_exp(read_profile(store).samples, tmp_path / "core")
    import_profile(tmp_path / "core", tmp_path / "back")
    merge_profiles([store], tmp_path / "merged")
    for place in (tmp_path / "core", tmp_path / "back", tmp_path / "merged", tmp_path / "merged" / "samples.parquet"):
        after = request_vectors(read_profile(place).samples, place)
        assert after.names == before.names and np.array_equal(after.vectors_RF, before.vectors_RF)


def test_an_older_profile_stays_readable_and_says_what_it_lacks(tmp_path, synthetic_run, synthetic_sample):
    older = written(tmp_path / "older", synthetic_run, [synthetic_sample()])
    samples = read_profile(older).samples
    assert samples.height == 1
    with pytest.raises(ProfileDataError, match=r"profiled before request features were stored.*profile again") as error:
        request_vectors(samples, older)
    assert error.value.path == older and error.value.sample == "s0"
    assert error.value.field == "metadata.request_features"


def test_a_store_that_gained_vectors_half_way_names_the_sample_without(store, synthetic_sample, synthetic_run):
    written(store, synthetic_run, [synthetic_sample(sample_id="older", metadata={})])
    with pytest.raises(ProfileDataError, match=r"sample 'older'.*is missing"):
        request_vectors(read_profile(store).samples, store)


def test_another_version_names_both():
    stored = {**vector_metadata(features()), "request_features_version": 7}
    with pytest.raises(ProfileDataError, match=r"request_features_version': is 7; expected 1, the version in use"):
        request_vectors(frame(msgspec.json.encode(stored).decode()), SOURCE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("null", "cannot be used"),
        ("[]", "cannot be used"),
        ('{"request_features": "12"}', "cannot be used"),
        ('{"request_features": [1, null], "request_features_version": 1}', "cannot be used"),
        ('{"request_features": [0.5, 1.5], "request_features_version": 1}', "holds 2 numbers; expected 33"),
        ('{"request_features": [0.5, 1.5]}', "is None; expected 1"),
    ],
)
def test_damaged_metadata_is_named(text, said):
    with pytest.raises(ProfileDataError, match=said) as error:
        request_vectors(frame(text), SOURCE)
    assert error.value.sample == "s0" and error.value.path == SOURCE


def test_one_request_with_two_vectors_is_refused():
    texts = [msgspec.json.encode(vector_metadata(features(length))).decode() for length in (5, 6)]
    with pytest.raises(ProfileDataError, match="differs between samples of one request"):
        request_vectors(frame(*texts).with_columns(sample_id=pl.lit("same")), SOURCE)


def test_metadata_that_differs_elsewhere_is_one_request_all_the_same():
    texts = [msgspec.json.encode({**vector_metadata(features()), "decode_step_ms": [ms]}).decode() for ms in (1, 2)]
    found = request_vectors(frame(*texts).with_columns(sample_id=pl.lit("same")), SOURCE)
    assert found.vectors_RF.shape == (1, len(REQUEST_VECTOR_NAMES))
