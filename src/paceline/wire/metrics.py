"""Counts of promises and decisions, in Prometheus's text format (version 0.0.4) under the names that dashboards may rely on."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from paceline.records import KnobConfig

Outcome = Literal["kept", "missed", "none_fit", "refused"]
COVERAGE_WINDOW = 1000  # requests
TTFT_BOUNDS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60)
DECISION_BOUNDS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05)


@dataclass(slots=True)
class Histogram:
    """Values counted by the smallest bound that holds them."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, said: str) -> Iterable[str]:
        """Return the lines of the page for this histogram."""
        yield from _head(name, "histogram", said)
        running = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            running += count
            yield f'{name}_bucket{{le="{bound}"}} {running}'
        yield f"{name}_sum {self.total!r}"
        yield f"{name}_count {running}"


class PromiseMetrics:
    """What one server process decided and promised since it started, and what came of it."""

    def __init__(self, *, alpha: float) -> None:
        self.alpha = alpha
        self.promises: Counter[Outcome] = Counter()
        self.decisions: Counter[tuple[KnobConfig, bool]] = Counter()
        self.covered: deque[bool] = deque(maxlen=COVERAGE_WINDOW)
        self.covered_beside: deque[bool] = deque(maxlen=COVERAGE_WINDOW)
        self.predicted_ttft = Histogram(TTFT_BOUNDS_S)
        self.measured_ttft = Histogram(TTFT_BOUNDS_S)
        self.decision_seconds = Histogram(DECISION_BOUNDS_S)

    def text(
        self,
        *,
        calibration_requests: int,
        calibration_needed: int,
        drift_factor: float | None,
        unfinished: int,
        price_per_second: float = 0.0,
        step_drift: float = 1.0,
    ) -> str:
        """Return the page; `drift_factor` multiplies the controller's own milliseconds, None before it is known.

        `price_per_second` is the accuracy that a second of prefill must bring now, `step_drift` how much slower steps are than
        their model says.
        """
        return "\n".join(
            (
                *self._promise_lines(),
                *_gauge(
                    "paceline:calibration_requests", "Requests that the bounds are calibrated on.", calibration_requests
                ),
                *_gauge(
                    "paceline:calibration_needed",
                    "Requests that a bound needs: with fewer nothing is promised.",
                    calibration_needed,
                ),
                *_gauge("paceline:drift_factor", "Bounds are the controller's milliseconds times this.", drift_factor),
                *_gauge("paceline:work_price", "Accuracy that a second of prefill must bring now.", price_per_second),
                *_gauge("paceline:step_drift_factor", "Steps take their model's time times this.", step_drift),
                *_gauge("paceline:requests_unfinished", "Requests accepted and not yet answered.", unfinished),
                *self.predicted_ttft.lines(
                    "paceline:ttft_predicted_seconds", "Expected time to first token, budgeted requests."
                ),
                *self.measured_ttft.lines(
                    "paceline:ttft_measured_seconds", "Measured time to first token, budgeted requests."
                ),
                *self.decision_seconds.lines(
                    "paceline:decision_seconds", "From the last byte of a request to its decision."
                ),
                "",
            )
        )

    def _promise_lines(self) -> Iterable[str]:
        yield from _head("paceline:promises_total", "counter", "Requests with a budget, by what came of it.")
        outcomes: tuple[Outcome, ...] = ("kept", "missed", "none_fit", "refused")
        for outcome in outcomes:
            yield f'paceline:promises_total{{alpha="{self.alpha:g}",outcome="{outcome}"}} {self.promises[outcome]}'
        said = f"Share of the last {COVERAGE_WINDOW} requests alone in the engine that stayed within their bound."
        yield from _gauge("paceline:coverage_ratio", said, _share(self.covered))
        yield from _gauge("paceline:coverage_requests", "Requests that the coverage ratio is of.", len(self.covered))
        said = f"Share of the last {COVERAGE_WINDOW} requests with others beside them that stayed within their bound."
        yield from _gauge("paceline:coverage_beside_ratio", said, _share(self.covered_beside))
        said = "Requests that the coverage ratio beside others is of."
        yield from _gauge("paceline:coverage_beside_requests", said, len(self.covered_beside))
        yield from _gauge("paceline:coverage_target", "The share that bounds are made for: 1 - alpha.", 1 - self.alpha)
        yield from _head("paceline:decisions_total", "counter", "Configurations taken.")
        for (config, degraded), count in self.decisions.items():
            knobs = f'tier="{config.tier}",top_k="{config.top_k}",blocks="{config.num_active_blocks}"'
            yield f'paceline:decisions_total{{{knobs},degraded="{str(degraded).lower()}"}} {count}'


def _share(held: Collection[bool]) -> float | None:
    return sum(held) / len(held) if held else None


def _head(name: str, kind: str, said: str) -> Iterable[str]:
    yield f"# HELP {name} {said}"
    yield f"# TYPE {name} {kind}"


def _gauge(name: str, said: str, value: float | None) -> Iterable[str]:
    yield from _head(name, "gauge", said)
    yield f"{name} {'NaN' if value is None else repr(value)}"
