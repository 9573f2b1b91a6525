"""The controller that never adapts: one configuration for every request, the yardstick of those that do."""

import warnings

from paceline.control.table import require_budget
from paceline.control.table_entry import TableEntry
from paceline.errors import BudgetTooSmallError, PacelineWarning
from paceline.records import Decision, LatencyKind, RequestFeatures


class FixedConfiguration:
    """Takes one configuration whatever the budget, and says whether its mean latency fits."""

    def __init__(
        self, *, entry: TableEntry, latency_kind: LatencyKind, provenance: tuple[dict[str, object], ...] = ()
    ) -> None:
        self.entry, self.provenance = entry, provenance
        self.latency_kind: LatencyKind = latency_kind

    def predict(
        self,
        budget_ms: float,
        *,
        features: RequestFeatures | None = None,  # noqa: ARG002  every request gets the same
        strict: bool = False,
    ) -> Decision:
        """Return the one configuration; where it does not fit, marked and warned of, or BudgetTooSmallError if `strict`."""
        require_budget(budget_ms)
        entry, fits = self.entry, self.entry.latency_ms <= budget_ms
        if not fits and strict:
            raise BudgetTooSmallError(budget_ms, entry.latency_ms)
        if not fits:
            warnings.warn(
                f"the fixed configuration {entry.config.key} takes {entry.latency_ms:.1f} ms, more than the budget of "
                f"{budget_ms:g} ms",
                PacelineWarning,
                stacklevel=2,
            )
        return Decision(
            config=entry.config,
            accuracy=entry.accuracy,
            latency_ms=entry.latency_ms,
            num_samples=entry.num_samples,
            within_budget=fits,
        )
