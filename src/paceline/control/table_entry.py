"""What a lookup table holds: one aggregated measurement a configuration, and where they come from."""

import math
from dataclasses import dataclass, field
from typing import Literal

from paceline.control.certificate import Certificate
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind

AGGREGATION_METHODS = ("mean", "median", "max_accuracy")
DEFAULT_TOLERANCE = 0.05

AggregationMethod = Literal["mean", "median", "max_accuracy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """One configuration with its aggregated accuracy and latency; deviations are of the population form (÷ n)."""

    config: KnobConfig
    accuracy: float
    latency_ms: float
    num_samples: int
    accuracy_std: float
    latency_std_ms: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.accuracy):
            raise InvalidValueError("accuracy", self.accuracy, "a finite number")
        if not (math.isfinite(self.latency_ms) and self.latency_ms > 0):
            raise InvalidValueError("latency", self.latency_ms, "a finite number above 0: nothing takes no time")
        for name, value in {"accuracy_std": self.accuracy_std, "latency_std": self.latency_std_ms}.items():
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(name, value, "a finite number of at least 0")
        if self.num_samples < 1:
            raise InvalidValueError("num_samples", self.num_samples, "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMetadata:
    """How a table was aggregated and from what; `provenance` holds one JSON document a profiling run.

    `chosen_on` is the number of questions a configuration whose accuracies were smoothed over the grid, None for plain
    aggregates; `certificate` is what was certified on others.
    """

    aggregation_method: AggregationMethod
    tolerance: float
    latency_kind: LatencyKind
    datasets: tuple[str, ...]
    num_profiling_results: int
    provenance: tuple[dict[str, object], ...] = field(default=())
    certificate: Certificate | None = None
    chosen_on: int | None = None

    def __post_init__(self) -> None:
        if self.aggregation_method not in AGGREGATION_METHODS:
            raise UnknownChoiceError("aggregation method", self.aggregation_method, AGGREGATION_METHODS)
        if self.latency_kind not in LATENCY_KINDS:
            raise UnknownChoiceError("latency kind", self.latency_kind, LATENCY_KINDS)
        require_tolerance(self.tolerance)


def require_tolerance(tolerance: float) -> None:
    """Raise InvalidValueError unless `tolerance` is a share of the budget from 0 to 1."""
    if not 0 <= tolerance <= 1:
        raise InvalidValueError("tolerance", tolerance, "a share of the budget from 0 to 1, for example 0.05")
