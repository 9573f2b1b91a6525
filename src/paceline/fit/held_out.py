"""The held-out part of a profile for an estimator that was trained on the rest, parted as its training did."""

from dataclasses import dataclass
from pathlib import Path

from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.latency_model import LatencyModel
from paceline.estimate.network import NetworkEstimator
from paceline.fit.conformal import parts_of_profile, split_of
from paceline.fit.estimator.evaluation import require_comparable
from paceline.profiles import Profile, SampleParts


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the controllers are built from, and the samples that judge them."""

    model: LatencyModel
    bounds: LatencyBounds
    parts: SampleParts


def judged_with(profile: Profile, estimator: Path) -> Judged:
    """Part a profile as the training of an estimator did; raises EstimatorError for one of another model."""
    model, bounds = NetworkEstimator.load(estimator), load_bounds(estimator)
    require_comparable(model, profile, estimator)
    # a sample's part follows from its name and the split alone: nothing that trained or calibrated it can judge it
    return Judged(model=model, bounds=bounds, parts=parts_of_profile(profile, split_of(model.description)))
