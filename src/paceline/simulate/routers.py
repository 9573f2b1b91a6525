"""Routers: which of several equal engines serves a request, decided when it arrives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.simulate.engine_settings import SimulatedEngine
from paceline.simulate.predicted_ttft import predicted_ttft_seconds
from paceline.simulate.simulation import PausableRun
from paceline.simulate.step_work import StepCost

ROUND_ROBIN, LEAST_OUTSTANDING, LEAST_PREDICTED_TTFT = "round_robin", "least_outstanding", "least_predicted_ttft"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedRequest:
    """What a router knows of a request: with candidates, of the first of them."""

    index: int
    arrival_seconds: float
    prompt_tokens: int
    prefill_factor: float
    ttft_budget_seconds: float


Router = Callable[[Sequence[PausableRun], SimulatedEngine, StepCost, RoutedRequest], int]  # the index of the engine


def round_robin(runs: Sequence[PausableRun], _engine: SimulatedEngine, _cost: StepCost, request: RoutedRequest) -> int:
    """Take turns."""
    return request.index % len(runs)


def least_outstanding(
    runs: Sequence[PausableRun], _engine: SimulatedEngine, _cost: StepCost, request: RoutedRequest
) -> int:
    """Take the engine with the fewest requests in its waiting queue, the first among equals."""
    for run in runs:
        run.advance_before(request.arrival_seconds)
    return min(range(len(runs)), key=lambda replica: runs[replica].waiting)


def least_predicted_ttft(
    runs: Sequence[PausableRun], engine: SimulatedEngine, cost: StepCost, request: RoutedRequest
) -> int:
    """Take the engine with the earliest predicted first token, the first among equals."""
    predicted: list[float] = []
    for run in runs:
        run.advance_before(request.arrival_seconds)
        predicted.append(
            predicted_ttft_seconds(
                run.state_at(request.arrival_seconds),
                engine,
                cost,
                prompt_tokens=request.prompt_tokens,
                prefill_factor=request.prefill_factor,
                ttft_budget_seconds=request.ttft_budget_seconds,
            )
        )
    return predicted.index(min(predicted))


ROUTERS: dict[str, Router] = {
    ROUND_ROBIN: round_robin,
    LEAST_OUTSTANDING: least_outstanding,
    LEAST_PREDICTED_TTFT: least_predicted_ttft,
}
