"""The lookup-table controller: a latency budget in, the most accurate configuration that keeps it out.

Every decision a table can give is built once, ordered by latency; `predict` is one bisection and hands one of them out.
"""

import math
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

from paceline.control.certificate import Certificate
from paceline.control.table_entry import TableEntry, TableMetadata, require_tolerance
from paceline.control.table_file import parse_entries, parse_metadata, read_document, require_agreement
from paceline.errors import BudgetTooSmallError, InvalidValueError, PacelineWarning, TableError
from paceline.records import Decision, KnobConfig, LatencyKind, RequestFeatures

BUDGET_STEP_MS = 5
INFINITY = math.inf
WIDE_SCORER = "cider/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatistics:
    """Figures over the configurations of a table.

    `config_distribution` counts, of the budgets in the file's `lookup_table`, those that lead to each configuration.
    """

    num_configs: int
    latency_range_ms: tuple[float, float]
    accuracy_range: tuple[float, float]
    latency_mean_ms: float
    latency_median_ms: float
    latency_std_ms: float
    config_distribution: dict[str, int]


class LookupTable:
    """Measured configurations, and for any budget the best of them; immutable, safe to share between threads."""

    __slots__ = ("_decisions", "_latencies", "_nearest", "_scale", "entries", "metadata")

    def __init__(self, *, entries: Iterable[TableEntry], metadata: TableMetadata) -> None:
        self.entries = tuple(sorted(entries, key=lambda entry: (entry.latency_ms, -entry.accuracy, entry.config.size)))
        self.metadata = metadata
        keys = Counter(entry.config.key for entry in self.entries)
        if not keys:
            raise TableError("a lookup table needs at least one configuration; the profile it was built from has none")
        if len(keys) < len(self.entries):
            raise TableError(f"configuration {keys.most_common(1)[0][0]} is in the table twice; expected each once")
        self._scale = 1.0 + metadata.tolerance
        self._latencies = [entry.latency_ms for entry in self.entries]
        self._decisions = _best_so_far(self.entries)
        self._nearest = _decision(self.entries[0], within_budget=False)

    @staticmethod
    def load(path: Path | str) -> "LookupTable":
        """Read a table file; raises TableError with the field that cannot be trusted."""
        path = Path(path)
        document = read_document(path)
        try:
            table = LookupTable(entries=parse_entries(document, path), metadata=parse_metadata(document, path))
        except TableError as error:
            raise error if str(path) in str(error) else TableError(f"{path}: {error}") from error
        require_agreement(document, table.key_at, path)
        return table

    @property
    def latency_kind(self) -> LatencyKind:
        """What this table's milliseconds are: `prefill` (vision and LLM prefill) or `total`."""
        return self.metadata.latency_kind

    @property
    def provenance(self) -> tuple[dict[str, object], ...]:
        """One JSON document a profiling run that this table was built from."""
        return self.metadata.provenance

    @property
    def certificate(self) -> Certificate | None:
        """What was certified of this table's configurations; None for a table without a certificate."""
        return self.metadata.certificate

    def certified_only(self) -> "LookupTable":
        """Return the table of the certified configurations and the full one, which no budget leads beyond.

        Raises TableError for a table without a certificate.
        """
        if self.certificate is None:
            raise TableError(
                "this table holds no certificate, and certified configurations alone are asked for; expected one that "
                "`paceline profile --certify` wrote and finished: certify, or leave certified_only out"
            )
        certified = set(self.certificate.certified)
        return LookupTable(entries=[each for each in self.entries if each.config in certified], metadata=self.metadata)

    @property
    def latency_range_ms(self) -> tuple[float, float]:
        """The fastest and the slowest configuration's latency."""
        return self._latencies[0], self._latencies[-1]

    @property
    def accuracy_range(self) -> tuple[float, float]:
        """The smallest and the largest accuracy of any configuration."""
        accuracies = [entry.accuracy for entry in self.entries]
        return min(accuracies), max(accuracies)

    @property
    def front(self) -> tuple[TableEntry, ...]:
        """The configurations that some budget leads to, fastest first; the others are never taken."""
        taken = {decision.config for decision in self._decisions}
        return tuple(entry for entry in self.entries if entry.config in taken)

    @property
    def never_taken(self) -> tuple[TableEntry, ...]:
        """The configurations that no budget leads to: another is as accurate and as fast; fastest first."""
        front = set(self.front)
        return tuple(entry for entry in self.entries if entry not in front)

    @property
    def thresholds_ms(self) -> tuple[float, ...]:
        """The smallest budget that leads to each configuration of the front, rounded up to a hundredth of a ms."""
        return tuple(self._threshold_ms(entry) for entry in self.front)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader must know before trusting the figures of this table; empty for a plain prefill table."""
        counts = [entry.num_samples for entry in self.entries]
        found = {
            f"accuracies are smoothed over the grid from {self.metadata.chosen_on} questions a configuration": (
                self.metadata.chosen_on is not None
            ),
            "nothing of this table is certified: its certifying part did not begin": (
                self.metadata.chosen_on is not None and self.certificate is None
            ),
            "aggregated by max_accuracy: optimistic, each configuration shows its single best sample": (
                self.metadata.aggregation_method == "max_accuracy"
            ),
            "latency kind total: for analysis only, decode length is not under any knob's control": (
                self.latency_kind == "total"
            ),
            f"configurations have {min(counts):,} to {max(counts):,} samples: they may not be the same ones": (
                min(counts) < max(counts)
            ),
            "accuracies of captions (CIDEr, 0 to 10) are averaged with others (0 to 1) and outweigh them: build a table for "
            "each data set": len(self._scorers) > 1 and WIDE_SCORER in self._scorers,
        }
        return tuple(sentence for sentence, applies in found.items() if applies)

    @property
    def _scorers(self) -> set[str]:
        """The scorers of the table's data sets, as far as the profile told them."""
        runs: list[Any] = [run.get("datasets") or {} for run in self.metadata.provenance]
        return {scorer for run in runs for name, scorer in run.items() if name in self.metadata.datasets}

    def predict(
        self,
        budget_ms: float,
        *,
        features: RequestFeatures | None = None,  # noqa: ARG002  a table gives every request of a budget the same
        tolerance: float | None = None,
        strict: bool = False,
    ) -> Decision:
        """Return the most accurate configuration with latency ≤ budget · (1 + tolerance); ties: faster, then smaller.

        The request's features are not looked at. None fits: the configuration nearest in latency, with `within_budget`
        False and a PacelineWarning, or BudgetTooSmallError when `strict`. Raises InvalidValueError for a budget that is
        not a number above 0.
        """
        require_budget(budget_ms)
        if tolerance is None:
            fitting = bisect_right(self._latencies, budget_ms * self._scale)
        else:
            require_tolerance(tolerance)
            fitting = bisect_right(self._latencies, budget_ms * (1.0 + tolerance))
        if fitting:
            return self._decisions[fitting - 1]
        return self._none_fits(budget_ms, strict)

    def predict_stage1(self, budget_ms: float) -> str | None:
        """Return the tier alone: what must be chosen before the vision encoder runs; None if the model has no tiers."""
        return self.predict(budget_ms).config.tier

    def predict_stage2(self, budget_ms: float) -> tuple[int | None, int | None]:
        """Return top_k and num_active_blocks: what may be chosen until the LLM starts."""
        config = self.predict(budget_ms).config
        return config.top_k, config.num_active_blocks

    def candidates(self, budget_ms: float, *, tolerance: float | None = None) -> tuple[TableEntry, ...]:
        """Return every configuration that fits the budget, in the order `predict` prefers them; empty if none does."""
        require_budget(budget_ms)
        tolerance = self.metadata.tolerance if tolerance is None else tolerance
        require_tolerance(tolerance)
        fitting = bisect_right(self._latencies, budget_ms * (1.0 + tolerance))
        return tuple(sorted(self.entries[:fitting], key=_preference))

    def entry_of(self, config: KnobConfig) -> TableEntry:
        """Return the entry of a configuration; raises TableError when the table has none."""
        for entry in self.entries:
            if entry.config == config:
                return entry
        raise TableError(f"configuration {config.key} is not in the table; expected one of its {len(self.entries)}")

    def require_kind(self, kind: str) -> None:
        """Raise TableError unless this table's latencies are of `kind`, so that unlike times are never compared."""
        if kind != self.latency_kind:
            raise TableError(
                f"the table holds {self.latency_kind} latencies and cannot be compared with {kind} ones; "
                f"build a table of {kind} latencies, or measure {self.latency_kind} ones"
            )

    def key_at(self, budget_ms: float) -> str:
        """Return the key of the configuration that `predict` takes, the nearest without a warning where none fits."""
        require_budget(budget_ms)
        fitting = bisect_right(self._latencies, budget_ms * self._scale)
        return (self._decisions[fitting - 1] if fitting else self._nearest).config.key

    def by_budget(self) -> dict[str, str]:
        """Return the configuration's key at every multiple of 5 ms, from the first budget that something fits to the
        first that everything fits."""
        low = max(1, math.ceil(self._latencies[0] / self._scale / BUDGET_STEP_MS))
        high = max(low, math.ceil(self._latencies[-1] / BUDGET_STEP_MS))
        budgets = range(low * BUDGET_STEP_MS, high * BUDGET_STEP_MS + 1, BUDGET_STEP_MS)
        return {str(budget): self.key_at(budget) for budget in budgets}

    @property
    def statistics(self) -> TableStatistics:
        """Figures over the configurations of this table."""
        return TableStatistics(
            num_configs=len(self.entries),
            latency_range_ms=self.latency_range_ms,
            accuracy_range=self.accuracy_range,
            latency_mean_ms=fmean(self._latencies),
            latency_median_ms=median(self._latencies),
            latency_std_ms=pstdev(self._latencies),
            config_distribution=dict(Counter(self.by_budget().values())),
        )

    def document(self) -> dict[str, Any]:
        """Return the table as the JSON document of a table file."""
        metadata, certificate = self.metadata, self.certificate
        certified = {
            **({} if certificate is None else {"certificate": certificate.document()}),
            **({} if metadata.chosen_on is None else {"chosen_on": metadata.chosen_on}),
        }
        return {
            "config_table": {entry.config.key: _cells(entry) for entry in self.entries},
            "lookup_table": self.by_budget(),
            "statistics": _statistics_cells(self.statistics),
            "metadata": {
                "aggregation_method": metadata.aggregation_method,
                "tolerance": metadata.tolerance,
                "use_prefill_only": metadata.latency_kind == "prefill",
                "latency_kind": metadata.latency_kind,
                "datasets": list(metadata.datasets),
                "num_profiling_results": metadata.num_profiling_results,
                "provenance": list(metadata.provenance),
                "cautions": list(self.cautions),
                **certified,
            },
        }

    def _threshold_ms(self, entry: TableEntry) -> float:
        hundredths = max(1, math.ceil(entry.latency_ms / self._scale * 100))
        # the division may round below the latency, and then the rounded-up budget misses it by a float's breadth
        return hundredths / 100 if self.key_at(hundredths / 100) == entry.config.key else (hundredths + 1) / 100

    def _none_fits(self, budget_ms: float, strict: bool) -> Decision:
        fastest_ms = self._latencies[0]
        if strict:
            raise BudgetTooSmallError(budget_ms, fastest_ms)
        warnings.warn(
            f"no configuration keeps a budget of {budget_ms:g} ms; taking the nearest, {self._nearest.config.key} at "
            f"{fastest_ms:.1f} ms",
            PacelineWarning,
            stacklevel=3,
        )
        return self._nearest


def require_budget(budget_ms: float) -> None:
    """Raise InvalidValueError unless a budget is a finite number of milliseconds above 0."""
    if not 0.0 < budget_ms < INFINITY:  # also true of NaN
        raise InvalidValueError("latency budget", budget_ms, "a number of milliseconds above 0, for example 200")


def _preference(entry: TableEntry) -> tuple[float, float, tuple[int, int, int]]:
    return -entry.accuracy, entry.latency_ms, entry.config.size


def _decision(entry: TableEntry, *, within_budget: bool) -> Decision:
    return Decision(
        config=entry.config,
        accuracy=entry.accuracy,
        latency_ms=entry.latency_ms,
        num_samples=entry.num_samples,
        within_budget=within_budget,
    )


def _best_so_far(entries: tuple[TableEntry, ...]) -> list[Decision]:
    """Return, for each rank by latency, the decision when the entries up to that rank fit."""
    decisions: list[Decision] = []
    best = entries[0]
    for entry in entries:
        best = min(best, entry, key=_preference)
        decisions.append(_decision(best, within_budget=True))
    return decisions


def _cells(entry: TableEntry) -> dict[str, float | int]:
    return {
        "accuracy": entry.accuracy,
        "latency": entry.latency_ms,
        "num_samples": entry.num_samples,
        "accuracy_std": entry.accuracy_std,
        "latency_std": entry.latency_std_ms,
    }


def _statistics_cells(statistics: TableStatistics) -> dict[str, Any]:
    low, high = statistics.latency_range_ms
    return {
        "num_configs": statistics.num_configs,
        "latency_range": [low, high],
        "accuracy_range": list(statistics.accuracy_range),
        "latency_stats": {
            "min": low,
            "max": high,
            "mean": statistics.latency_mean_ms,
            "median": statistics.latency_median_ms,
            "std": statistics.latency_std_ms,
        },
        "config_distribution": statistics.config_distribution,
    }
