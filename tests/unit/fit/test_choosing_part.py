"""What chose configurations calibrates no bound of theirs."""

import pytest
from estimator_samples import synthetic_samples

from paceline.errors import CertificateError
from paceline.fit.conformal import parts_of_profile, usual_split
from paceline.profiles import Profile
from paceline.profiles.parts import QuestionParts


def test_a_profile_whose_choosing_questions_would_calibrate_is_refused_with_the_remedy(tmp_path):
    samples = synthetic_samples(60)
    names = [tuple(row) for row in samples.select("dataset", "sample_id").unique(maintain_order=True).iter_rows()]
    names = [(str(dataset), sample_id) for dataset, sample_id in names]
    profile = Profile(samples=samples, provenance=(), source=tmp_path, left_out=())
    split = usual_split(profile, seed=1)
    parts_of_profile(profile, split)
    QuestionParts(seed=1, choosing=tuple(names[:30]), certifying=tuple(names[30:]), pictures=tuple(range(30))).write(
        tmp_path
    )
    with pytest.raises(CertificateError, match="offered for calibrating bounds.*profile other questions"):
        parts_of_profile(profile, split)
    QuestionParts(seed=1, choosing=(), certifying=tuple(names), pictures=tuple(range(60))).write(tmp_path)
    parts_of_profile(profile, split)
