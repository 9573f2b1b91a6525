"""One request put to an estimator by a person: what is not said is the median of the training rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.errors import InvalidValueError
from paceline.estimate.description import EstimatorDescription
from paceline.records import KnobConfig, RequestFeatures


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Values that configurations must have; None for a knob of any value."""

    tier: str | None = None
    top_k: int | None = None
    num_active_blocks: int | None = None

    def select(self, configs: Sequence[KnobConfig]) -> tuple[KnobConfig, ...]:
        """Return the configurations with these values; the one that they name, though it was never measured, for none.

        Raises InvalidValueError when no configuration has them and they do not name one by themselves.
        """
        asked = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        found = tuple(each for each in configs if all(getattr(each, name) == value for name, value in asked.items()))
        if found:
            return found
        named = KnobConfig(**{**dict.fromkeys(self.__slots__), **asked})
        present = {name for name in self.__slots__ if getattr(configs[0], name) is not None}
        if set(asked) != present:
            listed = ", ".join(each.key for each in configs)
            raise InvalidValueError(
                "configuration", named.key, f"values that one of {listed} has, or all knobs of another"
            )
        return (named,)


def typical_request(
    description: EstimatorDescription, *, vision_tokens: Sequence[float] | None = None, text_tokens: int | None = None
) -> RequestFeatures:
    """Return a request with image tokens for every tier: one number for all, one a tier in order, or the medians.

    Raises InvalidValueError for another count of numbers.
    """
    tiers = list(dict.fromkeys(config.tier for config in description.configs))
    if not all(map(math.isfinite, vision_tokens or ())):
        raise InvalidValueError("vision_tokens", list(vision_tokens or ()), "finite numbers")
    if vision_tokens is None:
        by_tier = dict(description.typical_vision_tokens)
    elif len(vision_tokens) in (1, len(tiers)):
        counts = [*vision_tokens] * (len(tiers) if len(vision_tokens) == 1 else 1)
        by_tier = {tier: round(count) for tier, count in zip(tiers, counts, strict=True)}
    else:
        listed = ", ".join(str(tier) for tier in tiers)
        raise InvalidValueError("vision_tokens", list(vision_tokens), f"one number, or one for each of {listed}")
    return RequestFeatures(
        text_tokens=description.typical_text_tokens if text_tokens is None else text_tokens, vision_tokens=by_tier
    )
