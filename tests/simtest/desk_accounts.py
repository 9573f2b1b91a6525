"""What a desk counts over many requests, counted again: promises that were broken, and the price of the engine's time."""

from collections import defaultdict
from typing import Any

TARGET_SHARE, STEP_SHARE, BANK, MOST = 0.7, 0.2, 50.0, 1000.0  # of α: docs/decisions/020-under-load.md
STEP_T0, SHARE, CEILING_T0, IDLE_IN_A_ROW = 0.0784, 0.5, 5.0, 8
PER_ARRIVAL, OF_MEAN, LONG, FEW, SURELY = 0.25, 0.05, 10.0, 8, 4.0  # docs/load.md: what arrivals ask for


class BrokenPromises:
    """How many more promises of a class, or of all, were broken than may be."""

    def __init__(self, alpha: float) -> None:
        self.alpha, self.excesses = alpha, defaultdict[Any, float](float)

    def note(self, name: Any, *, broken: bool) -> None:
        """Note one promise that was given, or that was withheld for the broken ones alone."""
        for each in ("all of them", name):
            moved = self.excesses[each] + broken - TARGET_SHARE * self.alpha
            self.excesses[each] = sorted((-BANK * self.alpha, moved, MOST * self.alpha))[1]

    def shift(self, name: Any) -> float:
        """Return by how much the level of the next bound of a class is smaller."""
        return STEP_SHARE * self.alpha * max(0.0, self.excesses["all of them"], self.excesses.get(name, 0.0))


class SecondsPrice:
    """What a second of the engine costs in accuracy, on a server whose largest configuration takes `t0` seconds."""

    def __init__(self, t0: float) -> None:
        self.step, self.ceiling = STEP_T0 / t0**2, CEILING_T0 / t0
        self.price, self.idle, self.last = 0.0, 0, None
        self.gap, self.count, self.work, self.chance, self.before = 0.0, 0, 0.0, 0.0, 0.0

    def take(
        self, work: float, now: float, *, found_idle: bool, found_empty: bool, is_least: bool, has_budget: bool
    ) -> None:
        """Note a request that takes so many seconds and comes now; of several that it could have taken the least or not."""
        gap = self._since(now)
        self.last, self.idle = now, self.idle + 1 if found_idle else 0
        left = max(0.0, self.price - self.step * SHARE * gap)
        raises = self.idle < IDLE_IN_A_ROW
        most = max(self.price, left) if is_least else self.ceiling
        self.price = min(left + raises * self.step * work, most, self.ceiling)
        self.chance = self.chance if found_empty else 0.0
        self.before += gap
        if not has_budget:
            self.work += work
            return
        self.count += 1
        counted = min(self.before, LONG * self.gap) if self.gap > 0 else self.before
        share = max(OF_MEAN, 1 / self.count)
        self.gap = (1 - share) * self.gap + share * counted
        if found_empty and self.gap > 0:
            self.chance -= self.work / self.gap
        self.work, self.before = work, 0.0

    def at(self, now: float) -> float:
        """Return what it has come down to."""
        gap = self._since(now)
        demand = 0.0 if self.idle >= IDLE_IN_A_ROW else max(0.0, self.price - self.step * SHARE * gap)
        if self.count < FEW or self.chance <= -SURELY:
            return demand
        gap += self.before
        mean = max(self.gap, (1 - OF_MEAN) * self.gap + OF_MEAN * gap, gap / LONG, 1e-9)
        return max(demand, min(PER_ARRIVAL / mean, self.ceiling))

    def _since(self, now: float) -> float:
        return 0.0 if self.last is None else max(0.0, now - self.last)

    @property
    def per_second(self) -> float:
        """What it is at the last arrival."""
        return self.at(self.last or 0.0)
