"""What a host needs of a controller, whatever it was learned from."""

from typing import Protocol

from paceline.control.table_entry import TableMetadata
from paceline.records import Decision, LatencyKind


class Controller(Protocol):
    """Chooses a configuration for a budget; says which latency it promises and what it was measured on."""

    @property
    def latency_kind(self) -> LatencyKind:
        """What its milliseconds are."""
        ...

    @property
    def metadata(self) -> TableMetadata:
        """Where its figures come from; the block ranking of their configurations among it."""
        ...

    def predict(self, budget_ms: float, *, strict: bool = False) -> Decision:
        """Return the configuration to take for this budget."""
        ...
