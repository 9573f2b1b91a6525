"""An estimator of a profile whose questions share pictures: no picture on two sides, one question of each calibrates."""

from dataclasses import replace

import polars as pl
import pytest
from estimator_samples import synthetic_run, synthetic_samples

from paceline.errors import InvalidValueError
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.fit.conformal import split_of, usual_split
from paceline.fit.estimator.artifact import train_artifact
from paceline.fit.estimator.evaluation import parts_of
from paceline.fit.estimator.settings import FAST
from paceline.profiles import Profile
from paceline.profiles.questions import AskedQuestion, write_questions

COUNT, A_PICTURE = 400, 2
QUICK = replace(FAST, hidden_dim=32, step_choices=(60,))
SAMPLES = synthetic_samples(COUNT, noise=0.02)
NAMES = list(SAMPLES.select(pl.col("dataset").cast(pl.String), "sample_id").unique(maintain_order=True).iter_rows())


def profile(folder, a_picture):
    """A profile in a folder that tells which questions share a picture; all of it synthetic."""
    asked = [
        AskedQuestion(
            dataset=dataset,
            sample_id=sample_id,
            picture_sha256=f"p{number // a_picture}",
            prompt_sha256="q",
            scorer="exact/1",
            references=("1",),
        )
        for number, (dataset, sample_id) in enumerate(NAMES)
    ]
    folder.mkdir()
    write_questions(folder, asked)
    return Profile(samples=SAMPLES, provenance=(synthetic_run(),), source=folder, left_out=())


def test_questions_that_share_pictures_are_parted_by_picture(tmp_path):
    shared = profile(tmp_path / "shared", A_PICTURE)
    written = train_artifact(shared, tmp_path / "estimator", settings=QUICK)
    split = split_of(NetworkEstimator.load(tmp_path / "estimator").description)
    assert split.by_picture
    pictures = {name: f"p{number // A_PICTURE}" for number, name in enumerate(NAMES)}
    seen = [
        {
            pictures[dataset, sample_id]
            for dataset, sample_id in part.select("dataset", "sample_id").unique().iter_rows()
        }
        for part in (written.parts.fit, written.parts.calibration, written.parts.test)
    ]
    assert all(seen) and len(set.union(*seen)) == sum(map(len, seen)) == COUNT // A_PICTURE
    assert max(scores.num_requests for scores in load_bounds(tmp_path / "estimator").scores.values()) == len(seen[1])
    network = NetworkEstimator.load(tmp_path / "estimator")
    assert parts_of(network, shared).test.equals(written.parts.test)
    untold = replace(shared, source=tmp_path / "elsewhere")
    with pytest.raises(InvalidValueError, match="does not tell the picture of question.*one merged from such stores"):
        parts_of(network, untold)


def test_a_picture_a_question_parts_as_before(tmp_path):
    apart = profile(tmp_path / "apart", 1)
    assert usual_split(apart) == usual_split(replace(apart, source=tmp_path / "elsewhere"))
    assert not usual_split(apart).by_picture
