"""Promises that are kept as often as they say, whatever chose them: adaptive conformal inference on their own outcomes.

A bound is calibrated on requests; a promise is given where a bound just fits its budget. Who searches many configurations for
one that fits finds those whose bounds came out low by chance, or err where they are used, and of promises then fewer are kept
than of bounds: the winner's curse. A machine that has changed breaks them until the scores know it. So the promises that were
given are counted themselves: an account holds how many more were broken than a share α' may be,

    excess ← max(−bank, excess + broken − α'),

and while it is above 0 the level of the next bounds is smaller than the calibration's by γ times it (Gibbs and Candès, Adaptive
Conformal Inference under Distribution Shift, 2021; one-sided, for a bound is never below what was calibrated, and with some
broken promises in the bank, for below α' they come in clusters too). Of any T promises and withheld ones in a row at most
α'T + bank + 1 are broken until the account stands above 0, where bounds widen; with α' = 0.7 α and a bank of 50 α that is 38 of
1,000 for α = 0.05; the rest is for those that break until wider bounds take hold. A request that nothing fits only because of the
account counts as a kept promise, so that it comes down again.

Where the smaller level asks for more than the largest score, the bound goes on beyond it as steeply as the scores end.

Each class has an account of its own and all together one: the larger excess counts.
"""

import math
from collections.abc import Hashable, Sequence

from paceline.estimate.bounds import RANK_SLACK, require_alpha

TARGET_SHARE = 0.7  # α' / α
STEP_SHARE = 0.2  # γ / α
BANK = 50.0  # broken promises, times α
LARGEST_SCORE = 50.0  # of a logarithm beyond those seen: a time that many times longer is never
MOST = 1000.0  # of excess, times α: what comes after a disaster is forgotten in some 1,400 promises


class PromiseAccounts:
    """What the outcomes of promises ask of the next ones, by class; for one thread, knows no clock."""

    def __init__(self, alpha: float) -> None:
        require_alpha(alpha)
        self._target, self._step = TARGET_SHARE * alpha, STEP_SHARE * alpha
        self._bank, self._most = BANK * alpha, MOST * alpha
        self._pooled = 0.0
        self._excesses: dict[Hashable, float] = {}

    def shift(self, name: Hashable) -> float:
        """Return by how much the level of a bound of this class is to be smaller than the calibration's."""
        return self._step * max(self._pooled, self._excesses.get(name, 0.0), 0.0)

    def observe(self, name: Hashable, *, kept: bool) -> None:
        """Take note of a promise that was kept, or broken."""
        moved = (0.0 if kept else 1.0) - self._target
        self._pooled = self._within(self._pooled + moved)
        self._excesses[name] = self._within(self._excesses.get(name, 0.0) + moved)

    def withheld(self, name: Hashable) -> None:
        """Take note of a promise that was not given because of the shift alone."""
        self.observe(name, kept=True)

    def _within(self, excess: float) -> float:
        return min(max(excess, -self._bank), self._most)


def shifted_score(ordered: Sequence[float], rank: int, shift: float) -> float:
    """Return the score that bounds at a level smaller by `shift` than that of a rank (from 1) of ascending scores.

    Beyond the largest score it rises by what lies between that and the median for each time that the level of the rank, or of
    one score where that is more, is asked for again.
    """
    count = len(ordered)
    place = rank + shift * (count + 1)
    last = min(count, math.ceil(place - RANK_SLACK))
    beyond = max(0.0, place - count) / max(count + 1 - rank, 1)
    return min(ordered[last - 1] + beyond * (ordered[-1] - ordered[count // 2]), max(LARGEST_SCORE, ordered[last - 1]))
