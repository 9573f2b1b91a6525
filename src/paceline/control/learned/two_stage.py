"""Tier first, the rest later: the tier is chosen from the image tokens that each usually costs, experts and blocks from those
that the chosen one did cost."""

import math
from collections.abc import Mapping
from dataclasses import replace

from paceline.control.learned.controller import LearnedController
from paceline.control.ranked_grid import require_features
from paceline.errors import InvalidValueError
from paceline.records import TIERS, Decision, LatencyKind, RequestFeatures
from paceline.request_vector import DECIMALS, RANGES, REQUEST_VECTOR_NAMES, request_vector

_NAMES = {tier: f"log_vision_tokens_{tier}" for tier in TIERS}


class TwoStage:
    """A learned controller that decides twice: the tier before pictures are prepared, the rest once the tokens are known."""

    def __init__(self, *, controller: LearnedController, expected_vision_tokens: Mapping[str | None, int]) -> None:
        if set(expected_vision_tokens) != set(controller.tiers):
            expected = f"one number for each of {', '.join(str(tier) for tier in controller.tiers)}"
            raise InvalidValueError("expected_vision_tokens", dict(expected_vision_tokens), expected)
        self.controller = controller
        self.expected_vision_tokens = dict(expected_vision_tokens)

    @property
    def latency_kind(self) -> LatencyKind:
        """What the milliseconds of its controller are."""
        return self.controller.latency_kind

    @property
    def provenance(self) -> tuple[dict[str, object], ...]:
        """One JSON document a profiling run behind its controller's figures."""
        return self.controller.provenance

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The numbers of the request vector that its controller's choice depends on, by name."""
        return self.controller.looks_at

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return what the controller takes of the tier that it takes when it knows the expected image tokens alone.

        A tier of no configuration keeps its own count throughout. None of the tier fits: its smallest bound, marked and
        warned of, or BudgetTooSmallError when `strict`. Raises InvalidValueError as the controller does.
        """
        request = require_features(features)
        expected = self.expected_vision_tokens
        tier = self.controller.predict_stage1(budget_ms, features=_with_tokens(request, expected))
        untaken = {other: count for other, count in expected.items() if other != tier}
        known = _with_tokens(request, untaken)
        return self.controller.predict_stage2(budget_ms, tier=tier, features=known, strict=strict)

    def observe(self, decision: Decision, measured_ms: float) -> None:
        """Take note of the latency that a decision led to, as its controller does."""
        self.controller.observe(decision, measured_ms)


def _with_tokens(features: RequestFeatures, vision_tokens: Mapping[str | None, int]) -> RequestFeatures:
    """Return the features with other image tokens for these tiers, in the request's vector too."""
    numbers = dict(zip(REQUEST_VECTOR_NAMES, request_vector(features), strict=True))
    for tier, count in vision_tokens.items():
        for name in _NAMES.values() if tier is None else (_NAMES[tier],):
            lowest, highest = RANGES[name]
            numbers[name] = round(min(max(math.log1p(count), lowest), highest), DECIMALS)
    return replace(features, vision_tokens={**features.vision_tokens, **vision_tokens}, vector=tuple(numbers.values()))
