"""Weights of the aging policy without an engine: from a simulated run of a load, tried on the same load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from paceline.schedule.policies import PolicyWeights
from paceline.schedule.request_times import RequestTimes
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.trace_request import TraceRequest
from paceline.simulate.engine_settings import PACELINE
from paceline.slo import percentile
from paceline.tune.aging import STATISTICS, AgingWeights, weights_of
from paceline.tune.host import OnProgress
from paceline.tune.simulated import SimulatedHost

BASELINE = "fcfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedWeights:
    """What a load's first tokens come to in ms under one policy; `weights` is None for fcfs."""

    name: str
    weights: PolicyWeights | None
    ttft_mean_ms: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    ttft_p99_ms: float
    ttft_max_ms: float

    def document(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        weights = self.weights
        return {
            "name": self.name,
            "time_weight": weights and weights.time_weight,
            "prompt_weight": weights and weights.prompt_weight,
            "ttft_ms": {
                "mean": self.ttft_mean_ms,
                "p50": self.ttft_p50_ms,
                "p95": self.ttft_p95_ms,
                "p99": self.ttft_p99_ms,
                "max": self.ttft_max_ms,
            },
        }


def simulated_aging(
    requests: Sequence[TraceRequest],
    host: SimulatedHost,
    *,
    statistic: str,
    short_request_factor: float,
    on_progress: OnProgress,
) -> tuple[AgingWeights, tuple[TriedWeights, ...]]:
    """Return the weights that a run under fcfs gives, and what both ways to weigh by each statistic come to.

    The host's engine and chunk rules stay; its policy does not matter. Raises what `SimulatedHost.replay` raises, and
    UnknownChoiceError for a statistic that does not exist.
    """
    total = 1 + 2 * len(STATISTICS)
    served = _served(requests, host, None)
    on_progress(1, total)
    weights = weights_of(served, statistic=statistic, short_request_factor=short_request_factor)
    tried = [_figures(BASELINE, None, served)]
    for each in STATISTICS:
        found = weights_of(served, statistic=each, short_request_factor=short_request_factor)
        for name, chosen in ((f"aging, {each}", found.weights), (f"aging, {each}, alternative", found.alternative)):
            tried.append(_figures(name, chosen, _served(requests, host, chosen)))
            on_progress(len(tried), total)
    return weights, tuple(tried)


def _served(
    requests: Sequence[TraceRequest], host: SimulatedHost, weights: PolicyWeights | None
) -> tuple[RequestTimes, ...]:
    planner: PlannerSettings = host.engine.planner
    planner = (
        replace(planner, policy=BASELINE) if weights is None else replace(planner, policy="aging", weights=weights)
    )
    tried = replace(host, engine=replace(host.engine, rules=PACELINE, planner=planner), with_steps=False)
    return tried.replay(requests, on_progress=lambda _done, _total: None).requests


def _figures(name: str, weights: PolicyWeights | None, requests: Sequence[RequestTimes]) -> TriedWeights:
    ttfts = [request.ttft_ms for request in requests]
    return TriedWeights(
        name=name,
        weights=weights,
        ttft_mean_ms=fmean(ttfts),
        ttft_p50_ms=percentile(ttfts, 50),
        ttft_p95_ms=percentile(ttfts, 95),
        ttft_p99_ms=percentile(ttfts, 99),
        ttft_max_ms=max(ttfts),
    )
