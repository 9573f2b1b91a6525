"""What a second of prefill costs the requests to come, in accuracy; and the configuration that is worth its price.

Everybody who takes all that fits his own budget leaves no room for the next tight one (the tragedy of the commons), so a
choice maximises accuracy − λ · seconds of prefill. λ = max(floor, κ r, μ). κ r is what a second takes from those who arrive in
it: r arrivals with a budget a second, each of which is taken to lose κ of its accuracy by waiting; it needs no tuning for a load
or a machine (`benchmarks/arrival_price.py`). μ rises by η w with the work that is taken, and falls by
η ρ with each second: a dual ascent on the constraint that work is at most a share ρ of time (as in online allocation: Balseiro,
Lu and Mirrokni, The Best of Both Worlds, 2023; its regret bound is about average work and says nothing of deadlines). So μ / η
is what an engine would have yet to do that worked at the share ρ of this one's speed: whoever comes after a burst pays for as
much of it as is left, and nothing once it is worked off.

Where requests in a row found nobody ahead of them, no time is scarce, however much of it is taken: they pay the floor, and
their work raises nothing. Who takes the least work that he can raises no price either, he only keeps it up: a higher one would
make nobody take less, and would stay long after there is room again (what control calls windup).

A client that asks again once it is answered arrives as often as the engine lets it, and takes no time from anybody. That is seen
where one after the other finds the engine empty that others would have found at work: a Poisson stream with the gaps of these
arrivals finds it so with probability exp(−Σ work / mean gap), and below exp(−4) nobody pays for arrivals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.errors import InvalidValueError

IDLE_IN_A_ROW = 8
LEAST_GAPS, GAP_WEIGHT, LONGEST_GAP = 8, 0.05, 10.0  # before r is known; of a gap in their mean; of a gap, in mean gaps
SMALLEST_GAP = 1e-9
SURELY_ALONE = 4.0  # −log of the chance that those who found the engine empty were independent of each other


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """`floor` λ0, accuracy a second; `per_arrival` κ, accuracy; `step` η, accuracy a second²; `share` ρ of time.

    `ceiling`, accuracy a second, is that of κ r and μ. With floor, κ and step 0 work has no price. Where even the least work
    exceeds the share, μ stays at the ceiling.
    """

    floor: float = 0.0
    per_arrival: float = 0.0
    step: float = 0.0
    share: float = 0.5
    ceiling: float = 20.0

    def __post_init__(self) -> None:
        for name in ("floor", "per_arrival", "step", "ceiling"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(name, value, "a finite number of at least 0")
        if not 0 < self.share <= 1:
            raise InvalidValueError("share", self.share, "a share of time above 0 and at most 1")


class WorkPrice:
    """The price of one engine's time, as requests arrive; knows no clock."""

    __slots__ = ("_alone", "_dual", "_gaps", "_idle_in_a_row", "_mean_gap", "_passed", "_work", "settings")

    def __init__(self, settings: PriceSettings) -> None:
        self.settings = settings
        self._dual = 0.0
        self._idle_in_a_row = 0
        self._mean_gap, self._gaps, self._alone = 0.0, 0, 0.0
        self._passed, self._work = 0.0, 0.0  # seconds and work since the last one with a budget

    @property
    def per_second(self) -> float:
        """Accuracy that a second of prefill must bring at the time of the last arrival."""
        return self.per_second_after(0.0)

    def per_second_after(self, gap_seconds: float) -> float:
        """Return the accuracy that a second of prefill must bring so long after the last arrival."""
        demand = 0.0 if self._nobody_waits else self._fallen(gap_seconds)
        return max(self.settings.floor, demand, self._of_arrivals(gap_seconds))

    @property
    def _nobody_waits(self) -> bool:
        return self._idle_in_a_row >= IDLE_IN_A_ROW

    def take(
        self,
        *,
        work_seconds: float,
        gap_seconds: float,
        found_idle: bool = False,
        found_empty: bool = False,
        is_least: bool = False,
        has_budget: bool = True,
    ) -> None:
        """Take note of a request's work and of the time since the arrival before it.

        `found_idle` says that it found nobody ahead of it, `found_empty` that it found nobody at all, `is_least` that it had a
        choice and took what is least work, `has_budget` that it loses something by waiting.
        """
        self._arrived(gap_seconds, work_seconds, found_empty=found_empty, has_budget=has_budget)
        self._idle_in_a_row = self._idle_in_a_row + 1 if found_idle else 0
        fallen = self._fallen(gap_seconds)
        risen = fallen if self._nobody_waits else fallen + self.settings.step * work_seconds
        self._dual = min(risen, max(self._dual, fallen) if is_least else math.inf, self.settings.ceiling)

    def _arrived(self, gap_seconds: float, work_seconds: float, *, found_empty: bool, has_budget: bool) -> None:
        self._passed += max(0.0, gap_seconds)
        self._alone *= found_empty
        if has_budget:
            self._gaps += 1
            weight = max(GAP_WEIGHT, 1 / self._gaps)
            # a pause says little of what follows it
            gap = min(self._passed, LONGEST_GAP * self._mean_gap) if self._mean_gap else self._passed
            self._mean_gap += weight * (gap - self._mean_gap)
            self._alone += self._work / self._mean_gap if found_empty and self._mean_gap else 0.0
            self._passed, self._work = 0.0, 0.0
        self._work += work_seconds

    def _of_arrivals(self, gap_seconds: float) -> float:
        """Return what a second takes from those who arrive in it, so long after the last arrival."""
        own = self.settings
        if self._gaps < LEAST_GAPS or self._alone >= SURELY_ALONE:
            return 0.0
        passed, mean = self._passed + gap_seconds, self._mean_gap
        gap = max(mean, mean + GAP_WEIGHT * (passed - mean), passed / LONGEST_GAP)
        return min(own.per_arrival / max(gap, SMALLEST_GAP), own.ceiling)

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
