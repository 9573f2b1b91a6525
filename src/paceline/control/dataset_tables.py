"""A table for each dataset: where a request's dataset is known, the accuracies and latencies of its own kind decide."""

from collections.abc import Mapping

from paceline.control.table import LookupTable
from paceline.errors import TableError
from paceline.records import Decision, LatencyKind, RequestFeatures


class DatasetTables:
    """Lookup tables by dataset, and one over all of them for requests of another dataset or of none."""

    def __init__(self, *, tables: Mapping[str, LookupTable], otherwise: LookupTable) -> None:
        for name, table in tables.items():
            if table.latency_kind != otherwise.latency_kind:
                raise TableError(
                    f"the table of {name} holds {table.latency_kind} latencies and the one over all datasets "
                    f"{otherwise.latency_kind} ones; expected one latency kind: build them together"
                )
        self.tables = {_plain(name): table for name, table in tables.items()}
        self.otherwise = otherwise

    @property
    def latency_kind(self) -> LatencyKind:
        """What the milliseconds of all these tables are."""
        return self.otherwise.latency_kind

    @property
    def provenance(self) -> tuple[dict[str, object], ...]:
        """One JSON document a profiling run that the tables were built from."""
        return self.otherwise.provenance

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        """Return what the table of the request's dataset takes; the table over all where the dataset is not known."""
        dataset = None if features is None or features.dataset is None else _plain(features.dataset)
        table = self.otherwise if dataset is None else self.tables.get(dataset, self.otherwise)
        return table.predict(budget_ms, strict=strict)


def _plain(name: str) -> str:
    return name.replace("-", "_")
