"""An estimator's directory from a profile: trained, calibrated, and written in one step.

A reader sees the old directory or the new one, never a mixture.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.numpy import save

from paceline.estimate.description import DESCRIPTION_FILE, WEIGHTS_FILE
from paceline.fit.artifact_directory import replaced_artifact, require_artifact_path
from paceline.fit.conformal import calibrate_bounds, parts_of_profile, save_bounds, usual_split
from paceline.fit.estimator.settings import FAST, EstimatorSettings
from paceline.fit.estimator.training import Progress, TrainedEstimator, train_estimator
from paceline.models.devices import torch_device
from paceline.profiles import Profile, SampleParts, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEstimator:
    """A trained estimator with the parts of its profile; `kept` is where the estimator that it replaced now stands."""

    trained: TrainedEstimator
    parts: SampleParts
    kept: Path | None


def train_artifact(
    profile: Profile,
    directory: Path | str,
    *,
    split: Split | None = None,
    settings: EstimatorSettings = FAST,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> WrittenEstimator:
    """Train on the fit part of a profile, calibrate bounds on the calibration part, and write both to `directory`.

    Without a split the usual one is taken, seeded as the settings are, with more calibration for a small profile and all
    questions of a picture in one part.
    Killed, it goes on where it stood when called again with the same arguments: its state is kept in a hidden file beside
    `directory` until it is done. An estimator that stands there already is kept beside it. Raises OutputPathError for a
    path that holds anything else, and UnknownChoiceError for a device that is none, before training; InvalidValueError for
    a profile too small to be parted.
    """
    directory = Path(directory)
    require_artifact_path(directory, DESCRIPTION_FILE)
    where = torch_device(device)
    if split is None:
        split = usual_split(profile, seed=settings.seed)
    parts = parts_of_profile(profile, split)
    checkpoint = directory.with_name(f".{directory.name}.checkpoint")
    trained = train_estimator(
        parts.fit,
        split=split,
        settings=settings,
        provenance=profile.provenance,
        device=where,
        checkpoint=checkpoint,
        on_progress=on_progress,
    )
    bounds = replace(calibrate_bounds(trained.network, parts), provenance=trained.description.provenance)
    with replaced_artifact(directory, DESCRIPTION_FILE) as (new, kept):
        write_estimator(trained, new)
        save_bounds(bounds, new)
    checkpoint.unlink(missing_ok=True)
    return WrittenEstimator(trained=trained, parts=parts, kept=kept)


def write_estimator(trained: TrainedEstimator, directory: Path) -> None:
    """Write description and weights into a directory that exists."""
    weights = save(trained.weights)
    description = trained.description.written(weights_sha256=hashlib.sha256(weights).hexdigest())
    (directory / WEIGHTS_FILE).write_bytes(weights)
    (directory / DESCRIPTION_FILE).write_bytes(description)
