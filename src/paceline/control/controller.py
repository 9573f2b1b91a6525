"""What a host needs of a controller, whatever it was learned from."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

from paceline.records import Decision, LatencyKind, RequestFeatures


class Controller(Protocol):
    """Chooses a configuration for a budget; says which latency it promises and what it was measured on."""

    @property
    def latency_kind(self) -> LatencyKind:
        """What its milliseconds are."""
        ...

    @property
    def provenance(self) -> tuple[dict[str, object], ...]:
        """One JSON document a profiling run behind its figures; the block ranking of its configurations among it."""
        ...

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return the configuration to take for this budget and request.

        None fits: the nearest, marked and warned of, or BudgetTooSmallError when `strict`. Raises InvalidValueError when
        it needs the features and they are None.
        """
        ...


def as_promised(decision: Decision, features: RequestFeatures) -> Decision:
    """Return a decision with what it promises to this request: nothing, where the request has not one picture.

    What a controller knows comes from requests with one picture. One with several, or with none, is no draw from among them,
    so a bound calibrated on those says nothing of it: `within_budget` is False, `bound_ms` None and `pictures` among what is
    outside, whatever the milliseconds. Without a picture there is no tier either.
    """
    if features.pictures == 1:
        return decision
    config = decision.config if features.pictures else replace(decision.config, tier=None)
    outside = tuple(dict.fromkeys((*decision.outside, "pictures")))
    return replace(decision, config=config, within_budget=False, bound_ms=None, outside=outside)


@runtime_checkable
class DriftCorrecting(Protocol):
    """A controller that learns from what its decisions turned out to take."""

    def observe(self, decision: Decision, measured_ms: float) -> None:
        """Take note of the latency that a decision led to, of the controller's own latency kind."""
        ...


@runtime_checkable
class SeesPictures(Protocol):
    """A controller that looks at more than token counts: it needs the features of the picture and of the prompt."""

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The numbers of the request vector that its choice depends on, by name."""
        ...
