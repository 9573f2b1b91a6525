"""What requests with a kind of budget took that were alone in the engine, and what that bounds."""

from collections.abc import Sequence

from paceline.control.choosing import needed_ms
from paceline.estimate.promises import PromiseAccounts
from paceline.estimate.recent import ClassedScores, RecentScores, size_class
from paceline.records import Decision


class AloneBounds:
    """Bounds of requests that are alone, from what others took that were; for one thread, knows no clock.

    A tier is a class of `scores`; `promises` are the accounts of those given to requests that were alone, which widen the bounds
    of those to come. Numbers are of milliseconds in the engine, as a controller says them (`needed_ms`) and as they come to here.
    """

    def __init__(self, alpha: float) -> None:
        self.scores = ClassedScores(alpha)
        self.promises = PromiseAccounts(alpha)

    def of(self, decision: Decision) -> RecentScores:
        """Return the scores that a configuration's bound is made of."""
        return self.scores.of(decision.config.tier, needed_ms(decision))

    def learn(self, decision: Decision, measured_ms: float) -> None:
        """Take note of what a request took under a configuration."""
        self.scores.observe(decision.config.tier, measured_ms, needed_ms(decision))

    def settle(self, budget_ms: float, *, kept: bool) -> None:
        """Take note of a promise of a budget that was kept, or broken."""
        self.promises.observe(size_class(budget_ms), kept=kept)

    def withheld(self, budget_ms: float) -> None:
        """Take note of a promise that was not given because earlier ones were broken."""
        self.promises.withheld(size_class(budget_ms))

    def typical_ms(self, decision: Decision) -> float:
        """Return what a configuration takes, by the controller and by what such requests took here."""
        return self.of(decision).median * needed_ms(decision)

    def bounded_ms(self, budget_ms: float, tier: str | None, ms: float) -> float:
        """Return the bound of what a controller says of a tier, wider for broken promises of such budgets; that without one."""
        shift = self.promises.shift(size_class(budget_ms))
        return ms * (self.scores.of(tier, ms).upper_at(shift) or 1.0)

    def fits_as_calibrated(self, budget_ms: float, found: Sequence[Decision], *, before_ms: float) -> bool:
        """Tell whether some bound would fit a budget if earlier promises had been kept, where none does."""
        if not self.promises.shift(size_class(budget_ms)):
            return False
        uppers = ((needed_ms(each), self.of(each).upper) for each in found)
        return any(upper is not None and before_ms + upper * ms <= budget_ms for ms, upper in uppers)

    def surely_ms(self, found: Sequence[Decision]) -> float | None:
        """Return what each of these configurations exceeds, but for a share α of requests; None before that is known."""
        lowers = [self.of(each).lower for each in found]
        each_ms = [lower * needed_ms(each) for lower, each in zip(lowers, found, strict=True) if lower is not None]
        return min(each_ms) if len(each_ms) == len(found) else None

    def upper_ms(self, decision: Decision) -> float:
        """Return what a configuration takes at most, as far as it is known."""
        scores = self.of(decision)
        return max(scores.upper or 1.0, scores.lower or 1.0) * needed_ms(decision)
