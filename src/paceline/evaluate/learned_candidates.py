"""Learned controllers to be judged, from their directories: what they are called, and that all keep to the same bounds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.control.controller import Controller
from paceline.control.learned.description import (
    DESCRIPTION_FILE,
    ESTIMATOR_DIRECTORY,
    ChooserDescription,
    read_chooser_description,
)
from paceline.control.loading import load_controller
from paceline.errors import InvalidValueError
from paceline.estimate.bounds_file import SCORES, file_sha256
from paceline.estimate.description import WEIGHTS_FILE
from paceline.evaluate.names import LEARNED
from paceline.records import LatencyKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedCandidates:
    """Learned controllers and their descriptions by name, and the directory of the estimator that they share."""

    controllers: dict[str, Controller]
    descriptions: dict[str, ChooserDescription]
    estimator: Path

    @property
    def latency_kind(self) -> LatencyKind:
        """What the first of them was trained for; `evaluate` refuses others beside it."""
        return next(iter(self.controllers.values())).latency_kind


def load_learned_candidates(
    directories: Sequence[Path],
    *,
    alpha: float,
    latency_kind: LatencyKind | None = None,
    estimator: Path | None = None,
) -> LearnedCandidates:
    """Load learned controllers as `grpo` (learner grpo) and `supervised`; two of one learner with their directory's name.

    They must hold the same estimator and bounds, those of `estimator` where that is given: otherwise they would not be
    judged under one rule. Raises InvalidValueError for others, for two of one name, and for another latency kind than
    theirs, which is taken for None;
    ControllerError or EstimatorError for what cannot be trusted.
    """
    described = [read_chooser_description(directory / DESCRIPTION_FILE)[0] for directory in directories]
    shared = directories[0] / ESTIMATOR_DIRECTORY if estimator is None else estimator
    for directory in directories:
        _require_same_estimator(directory, shared)
    descriptions = dict(zip(_names(directories, described), described, strict=True))
    controllers: dict[str, Controller] = {}
    for name, directory in zip(descriptions, directories, strict=True):
        controllers[name] = load_controller(directory, alpha=alpha, latency_kind=latency_kind)
    return LearnedCandidates(controllers=controllers, descriptions=descriptions, estimator=shared)


def _names(directories: Sequence[Path], described: Sequence[ChooserDescription]) -> list[str]:
    learners = [LEARNED[each.learner] for each in described]
    alike = Counter(learners)
    names = [
        learner if alike[learner] == 1 else f"{learner}_{directory.resolve().name}"
        for learner, directory in zip(learners, directories, strict=True)
    ]
    if len(set(names)) != len(names):
        listed = ", ".join(str(directory) for directory in directories)
        raise InvalidValueError("controllers", listed, "directories of different names where two have the same learner")
    return names


def _require_same_estimator(directory: Path, shared: Path) -> None:
    for name in (WEIGHTS_FILE, SCORES):
        own, other = file_sha256(directory / ESTIMATOR_DIRECTORY / name), file_sha256(shared / name)
        if own != other:
            raise InvalidValueError(
                "estimator",
                str(shared),
                f"the one that {directory} was trained with ({name} of SHA-256 {own[:12]}…, not {other[:12]}…): judge each "
                "controller with its own estimator, or train it again with this one",
            )
