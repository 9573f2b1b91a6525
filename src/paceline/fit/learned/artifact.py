"""A learned controller's directory from a profile and its estimator: trained, and written in one step."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from paceline.analyze import dataset_names
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.control.learned.artifact import chooser_files
from paceline.control.learned.description import DESCRIPTION_FILE, ESTIMATOR_DIRECTORY, LEARNERS, ChooserDescription
from paceline.control.learned.reward import Reward
from paceline.control.loading import served_kind
from paceline.errors import UnknownChoiceError
from paceline.estimate.bounds import LatencyBounds, require_alpha
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.fit.artifact_directory import replaced_artifact, require_artifact_path
from paceline.fit.conformal import parts_of_profile, split_of
from paceline.fit.estimator.rows import ESTIMATOR_COLUMNS
from paceline.fit.learned.data import ChooserParts, chooser_parts
from paceline.fit.learned.grpo import GrpoLearner
from paceline.fit.learned.settings import DEFAULT_SEED, GrpoSettings, SupervisedSettings
from paceline.fit.learned.supervised import SupervisedLearner
from paceline.fit.learned.training import Learner, Progress, TrainedChooser, fingerprint_of, train_chooser
from paceline.profiles import Profile, SampleParts
from paceline.records import LATENCY_KINDS, LatencyKind, require_seed
from paceline.request_vector import REQUEST_VECTOR_NAMES

CHOOSER_COLUMNS = (*ESTIMATOR_COLUMNS, "metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenController:
    """A trained controller with the parts of its profile; `kept` is where the one that it replaced now stands.

    `rewards_per_second` counts rewards looked up in training, `model_requests_per_second` the requests that the model answered
    while it was profiled, each of which gives one reward: their ratio is what learning from a profile saves.
    """

    description: ChooserDescription
    parts: SampleParts
    kept: Path | None
    resumed_steps: int
    seconds: float
    steps_per_second: float
    rewards_per_second: float
    model_requests_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What a controller is to learn, and how: `learner` is one of LEARNERS, `alpha` the share that may exceed their bounds.

    A `latency_kind` of None is what the estimator serves: `ttft`, or with a PacelineWarning `prefill` where it has none.
    """

    learner: str = "supervised"
    reward: Reward = field(default_factory=Reward)
    latency_kind: LatencyKind | None = None
    alpha: float = DEFAULT_ALPHA
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS:
            raise UnknownChoiceError("learner", self.learner, LEARNERS)
        if self.latency_kind not in (None, *LATENCY_KINDS):
            raise UnknownChoiceError("latency kind", self.latency_kind, LATENCY_KINDS)
        require_alpha(self.alpha)
        require_seed(self.seed)


def train_controller(
    profile: Profile,
    estimator: Path | str,
    directory: Path | str,
    *,
    settings: ControllerSettings,
    on_progress: Progress | None = None,
) -> WrittenController:
    """Train on the fit part of a profile, as its estimator parted it, and write the controller to `directory`.

    The profile needs CHOOSER_COLUMNS, for each request's vector stands in its metadata. The directory gets a copy of the
    estimator, whose bounds decide what may be taken. Killed, training goes on where it stood when called again with the same
    arguments: its state is kept in a hidden file beside `directory` until it is done. A controller that stands there already
    is kept beside it. Raises OutputPathError for a path that holds anything else, EstimatorError for an estimator that cannot
    be trusted or is of another model, ProfileDataError for samples without vectors, and InvalidValueError for a profile too
    small to be parted and an α that the bounds cannot promise.
    """
    estimator, directory = Path(estimator), Path(directory)
    require_artifact_path(directory, DESCRIPTION_FILE)
    model, bounds = NetworkEstimator.load(estimator), load_bounds(estimator)
    model.require_model(frozenset(run.model for run in profile.provenance), artifact=estimator)
    samples = parts_of_profile(profile, split_of(model.description))
    kind = settings.latency_kind or served_kind(bounds, estimator)
    parts = _parts(samples.fit, profile.source, model, bounds, kind, settings)
    learner = TRAINED_BY[settings.learner](parts, settings)
    checkpoint = directory.with_name(f".{directory.name}.checkpoint")
    trained = train_chooser(learner, fingerprint_of(learner), checkpoint=checkpoint, on_progress=on_progress)
    description = _described(trained, parts, kind, settings, model, dataset_names(samples.fit))
    kept = _write(directory, chooser_files(description, trained.weights), estimator)
    checkpoint.unlink(missing_ok=True)
    return WrittenController(
        description=description,
        parts=samples,
        kept=kept,
        resumed_steps=trained.resumed_steps,
        seconds=trained.seconds,
        steps_per_second=trained.steps_per_second,
        rewards_per_second=trained.steps_per_second * learner.rewards_per_step,
        model_requests_per_second=1000 / float(np.mean(samples.fit["T_total"].to_numpy())),
    )


def _parts(
    fit_samples: pl.DataFrame,
    source: Path,
    model: NetworkEstimator,
    bounds: LatencyBounds,
    kind: LatencyKind,
    settings: ControllerSettings,
) -> ChooserParts:
    return chooser_parts(
        fit_samples,
        source=source,
        model=model,
        bounds=bounds,
        latency_kind=kind,
        alpha=settings.alpha,
        seed=settings.seed,
    )


def _write(directory: Path, files: Mapping[str, bytes], estimator: Path) -> Path | None:
    """Write a controller's directory with a copy of its estimator; return where the one that stood there is kept."""
    with replaced_artifact(directory, DESCRIPTION_FILE) as (new, kept):
        shutil.copytree(estimator, new / ESTIMATOR_DIRECTORY)
        for name, content in files.items():
            (new / name).write_bytes(content)
    return kept


def _supervised(parts: ChooserParts, settings: ControllerSettings) -> Learner:
    return SupervisedLearner(parts, SupervisedSettings(seed=settings.seed), settings.reward)


def _grpo(parts: ChooserParts, settings: ControllerSettings) -> Learner:
    return GrpoLearner(parts, GrpoSettings(seed=settings.seed), settings.reward)


TRAINED_BY: dict[str, Callable[[ChooserParts, ControllerSettings], Learner]] = {
    "supervised": _supervised,
    "grpo": _grpo,
}


def _described(
    trained: TrainedChooser,
    parts: ChooserParts,
    kind: LatencyKind,
    settings: ControllerSettings,
    model: NetworkEstimator,
    datasets: Sequence[str],
) -> ChooserDescription:
    network, data = trained.settings.network, parts.training
    ranges = zip(data.vectors_RF.min(axis=0).tolist(), data.vectors_RF.max(axis=0).tolist(), strict=True)
    return ChooserDescription(
        learner=settings.learner,
        latency_kind=kind,
        alpha=settings.alpha,
        configs=data.configs,
        input_ranges=dict(zip(REQUEST_VECTOR_NAMES, ranges, strict=True)),
        budget_range_ms=parts.budget_range_ms,
        members=network.members,
        hidden_dim=network.hidden_dim if network.num_layers else 0,
        num_layers=network.num_layers,
        reward=settings.reward,
        split=model.description.split,
        training=json.loads(json.dumps(asdict(trained.settings))),
        learning=trained.learning,
        datasets=tuple(datasets),
        num_requests=len(data.names) + len(parts.validation.names),
        estimator_sha256=str(model.weights_sha256),
        provenance=model.provenance,
    )
