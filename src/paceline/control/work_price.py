"""What a second of prefill costs the requests to come, in accuracy; and the configuration that is worth its price.

Everybody who takes all that fits his own budget leaves no room for the next tight one (the tragedy of the commons), so a
choice maximises accuracy − λ · seconds of prefill. λ = max(floor, μ); μ rises by η w with the work that is taken, and falls by
η ρ with each second: a dual ascent on the constraint that work is at most a share ρ of time (as in online allocation: Balseiro,
Lu and Mirrokni, The Best of Both Worlds, 2023; its regret bound is about average work and says nothing of deadlines). So μ / η
is what an engine would have yet to do that worked at the share ρ of this one's speed: whoever comes after a burst pays for as
much of it as is left, and nothing once it is worked off.

Where requests in a row found nobody ahead of them, no time is scarce, however much of it is taken: they pay the floor, and
their work raises nothing. Who takes the least work that he can raises no price either, he only keeps it up: a higher one would
make nobody take less, and would stay long after there is room again (what control calls windup).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.errors import InvalidValueError

IDLE_IN_A_ROW = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """`floor` λ0, accuracy a second; `step` η, accuracy a second²; `share` ρ of time; `ceiling` of μ, accuracy a second.

    With floor and step 0 work has no price. Where even the least work exceeds the share, μ stays at the ceiling.
    """

    floor: float = 0.0
    step: float = 0.0
    share: float = 0.5
    ceiling: float = 20.0

    def __post_init__(self) -> None:
        for name in ("floor", "step", "ceiling"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(name, value, "a finite number of at least 0")
        if not 0 < self.share <= 1:
            raise InvalidValueError("share", self.share, "a share of time above 0 and at most 1")


class WorkPrice:
    """The price of one engine's time, as requests arrive; knows no clock."""

    __slots__ = ("_dual", "_idle_in_a_row", "settings")

    def __init__(self, settings: PriceSettings) -> None:
        self.settings = settings
        self._dual = 0.0
        self._idle_in_a_row = 0

    @property
    def per_second(self) -> float:
        """Accuracy that a second of prefill must bring at the time of the last arrival."""
        return self.per_second_after(0.0)

    def per_second_after(self, gap_seconds: float) -> float:
        """Return the accuracy that a second of prefill must bring so long after the last arrival."""
        return self.settings.floor if self._nobody_waits else max(self.settings.floor, self._fallen(gap_seconds))

    @property
    def _nobody_waits(self) -> bool:
        return self._idle_in_a_row >= IDLE_IN_A_ROW

    def take(
        self, *, work_seconds: float, gap_seconds: float, found_idle: bool = False, is_least: bool = False
    ) -> None:
        """Take note of a request's work and of the time since the arrival before it.

        `found_idle` says that it found nobody ahead of it, `is_least` that it had a choice and took what is least work.
        """
        self._idle_in_a_row = self._idle_in_a_row + 1 if found_idle else 0
        fallen = self._fallen(gap_seconds)
        risen = fallen if self._nobody_waits else fallen + self.settings.step * work_seconds
        self._dual = min(risen, max(self._dual, fallen) if is_least else math.inf, self.settings.ceiling)

    def _fallen(self, gap_seconds: float) -> float:
        """Return what is left of the price after so long, within its ceiling; a clock that went back takes nothing off."""
        own = self.settings
        return min(max(0.0, self._dual - own.step * own.share * max(0.0, gap_seconds)), own.ceiling)


def worthiest(
    accuracies: Sequence[float], work_seconds: Sequence[float], fits: Sequence[bool], *, price_per_second: float
) -> int | None:
    """Return the place of the largest accuracy − price · work among what fits, the least work of equals; None without any."""
    best, best_worth = None, (-math.inf, -math.inf)
    for place, (accuracy, work, is_fitting) in enumerate(zip(accuracies, work_seconds, fits, strict=True)):
        if is_fitting:
            worth = (accuracy - price_per_second * work, -work)
            if worth > best_worth:
                best, best_worth = place, worth
    return best
