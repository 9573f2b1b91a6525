"""The learned controller: what a request asks and shows decides among the configurations whose bound fits its budget.

A network scores the grid for the request's vector and budget (`paceline.control.learned.network`); what the scores mean is up
to the learner. It chooses among the configurations whose bound fits as it was calibrated, as it did in training. The choice
is accepted if the request lies within what it was trained on, and if its bound fits as it stands, corrected for drift;
otherwise BoundController's is taken, and marked.
Legend of array suffixes: C configurations, most accurate first and the smaller first of equals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paceline.control.estimated import DEFAULT_ALPHA, BoundController
from paceline.control.learned.artifact import read_chooser
from paceline.control.learned.description import RETRAIN
from paceline.control.learned.network import ChooserNetwork
from paceline.control.learned.reward import Reward
from paceline.control.ranked_grid import Places, RankedConfigs, RankedTimes, require_features
from paceline.control.table import require_budget
from paceline.errors import ControllerError
from paceline.estimate.bounds import DEFAULT_CONFIDENCE, LatencyBounds
from paceline.estimate.latency_model import LatencyModel
from paceline.records import Decision, KnobConfig, LatencyKind, RequestFeatures
from paceline.request_vector import request_vector

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Considered:
    """A request under a budget: what is offered (places, the most accurate first), what each takes and how it scores."""

    budget_ms: float
    offered: Places
    times: RankedTimes
    scores_C: Floats


class LearnedController:
    """Takes the configuration that a learned chooser prefers, as long as its bound fits the budget.

    A `supervised` chooser predicts accuracies: the best predicted reward is preferred. A `grpo` chooser has preferences. It
    chooses among what fits now, drift included. What it prefers for a request beyond its training is refused, unless
    `trust_outside`, and for a request with no picture or several in any case: then the decision is BoundController's, marked
    `refused`. `observe` corrects the bounds while it serves; an instance is meant for one stream of requests on one machine.
    """

    def __init__(
        self,
        *,
        chooser: ChooserNetwork,
        model: LatencyModel,
        bounds: LatencyBounds,
        alpha: float = DEFAULT_ALPHA,
        confidence: float | None = DEFAULT_CONFIDENCE,
        trust_outside: bool = False,
    ) -> None:
        kind = chooser.description.latency_kind
        self.chooser, self.alpha, self.trust_outside = chooser, alpha, trust_outside
        self.latency_kind: LatencyKind = kind
        self.provenance = bounds.provenance
        self.bound = BoundController(model=model, bounds=bounds, alpha=alpha, confidence=confidence, latency_kind=kind)
        self._values = VALUES[chooser.description.learner]
        self._in_scores_C = _places_in_scores(self.bound.ranked, chooser.configs)

    @staticmethod
    def load(
        directory: Path | str, *, alpha: float = DEFAULT_ALPHA, trust_outside: bool = False
    ) -> "LearnedController":
        """Read a learned controller's directory; raises ControllerError, with file and remedy, for one not to be trusted."""
        artifact = read_chooser(Path(directory))
        chooser = ChooserNetwork(description=artifact.description, weights=artifact.weights)
        return LearnedController(
            chooser=chooser, model=artifact.estimator, bounds=artifact.bounds, alpha=alpha, trust_outside=trust_outside
        )

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The numbers of the request vector that its choice depends on, by name."""
        return self.chooser.looks_at

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return what the chooser prefers, if its bound is within the budget; equals are settled as BoundController does.

        None fits: BoundController's decision, with `within_budget` False and a PacelineWarning, or BudgetTooSmallError when
        `strict`. Raises InvalidValueError for a budget that is not above 0, and for features without those of the picture.
        """
        decision, times = self._decided(budget_ms, features)
        if decision is None and strict:
            self.bound.note_refusal(budget_ms, times)
        return decision or self.bound.ranked.none_fits(budget_ms, times, strict=strict)

    def observe(self, decision: Decision, measured_ms: float) -> None:
        """Take note of the latency that a decision led to, so that bounds follow a machine that became slower or faster.

        Raises InvalidValueError for a latency that is no time, and for a decision that carries no bound.
        """
        self.bound.observe(decision, measured_ms)

    def _decided(self, budget_ms: float, features: RequestFeatures | None) -> tuple[Decision | None, RankedTimes]:
        """Return the decision, None where nothing fits, and what the configurations take."""
        require_budget(budget_ms)
        request = require_features(features)
        ranked, times = self.bound.ranked, self.bound.times(request)
        fitting = ranked.fitting(budget_ms, times)
        if request.pictures != 1:  # its training had one picture a request
            unseen = ranked.decision(int(fitting[0]), times, refused=True) if len(fitting) else None
            return unseen, times
        vector = request_vector(request)
        if not len(fitting):
            return None, times
        outside = self.chooser.outside(vector, budget_ms)
        refused = bool(outside) and not self.trust_outside
        place = int(fitting[0]) if refused else self._preferred(budget_ms, vector, times, fitting)
        return ranked.decision(place, times, refused=refused, outside=outside), times

    def _preferred(self, budget_ms: float, vector: tuple[float, ...], times: RankedTimes, fitting: Places) -> int:
        """Return the place that the chooser prefers of those that fit now."""
        scores_C = self.chooser.scores(vector, budget_ms)[self._in_scores_C]
        considered = _Considered(budget_ms=budget_ms, offered=fitting, times=times, scores_C=scores_C)
        return int(fitting[self._values(considered, self.chooser.description.reward).argmax()])


def _predicted_rewards(considered: _Considered, reward: Reward) -> Floats:
    """Return the predicted reward of what is offered."""
    offered, times = considered.offered, considered.times
    return reward.of(considered.scores_C[offered], times.latencies_C[offered], considered.budget_ms)


def _preferences(considered: _Considered, reward: Reward) -> Floats:  # noqa: ARG001  its training has spent the reward
    """Return the preference for what is offered."""
    return considered.scores_C[considered.offered]


# the first of equals is taken: the one that BoundController prefers
VALUES: dict[str, Callable[[_Considered, Reward], Floats]] = {"supervised": _predicted_rewards, "grpo": _preferences}


def _places_in_scores(ranked: RankedConfigs, scored: tuple[KnobConfig, ...]) -> Places:
    """Return where the chooser's scores hold each ranked configuration."""
    if set(scored) != set(ranked.configs):
        keys = sorted(config.key for config in set(scored) ^ set(ranked.configs))
        raise ControllerError(
            "chooser and latency model",
            f"only one of them covers {', '.join(keys)}",
            expected="the model that the chooser was trained with",
            mend=RETRAIN,
        )
    return np.array([scored.index(config) for config in ranked.configs])
