"""Benchmark runs in the simulator: the loads, the files and the summaries of runs against an engine."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from paceline.schedule.request_times import RequestTimes
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_log import StepRecord, read_step_log
from paceline.schedule.step_time import EngineTime
from paceline.schedule.trace_request import TraceRequest
from paceline.simulate import (
    LinearCost,
    ReplayedCost,
    ReplicaRun,
    RequestColumns,
    SimulatedEngine,
    StepCost,
    VidurTables,
    simulate_replicas,
    step_records,
)
from paceline.simulate.engine_settings import PACELINE, VLLM
from paceline.simulate.routers import ROUND_ROBIN
from paceline.simulate.simulation import FAST
from paceline.tune.host import OnProgress
from paceline.tune.run_files import REQUESTS, STEPS, read_requests

SPARE_SHARE = 2  # percent of blocks beyond what can be needed, more than any rules' own watermark


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedResult:
    """A simulated replay; times are seconds from the load's own zero. `step_count` is of all engines, also where no step was
    kept."""

    requests: tuple[RequestTimes, ...]
    steps: tuple[StepRecord, ...]
    wall_seconds: float
    step_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedHost:
    """Equal simulated engines behind a router, as a host of benchmark runs; no clock is read."""

    engine: SimulatedEngine
    cost: StepCost
    replicas: int = 1
    router: str = ROUND_ROBIN
    computed_by: str = FAST
    with_steps: bool = True

    def replay(self, requests: Sequence[TraceRequest], *, on_progress: OnProgress) -> SimulatedResult:
        """Serve all requests to their ends; raises what `simulate_replicas` raises."""
        runs = simulate_replicas(
            RequestColumns.of(requests),
            self.engine,
            self.cost,
            replicas=self.replicas,
            router=self.router,
            computed_by=self.computed_by,
            with_steps=self.with_steps,
        )
        on_progress(len(requests), len(requests))
        return joined(requests, runs, token_budget=self.engine.planner.chunk_size)


def joined(requests: Sequence[TraceRequest], runs: Sequence[ReplicaRun], *, token_budget: int) -> SimulatedResult:
    """Return the runs of all replicas as one: requests in the load's order, steps numbered by engine."""
    times: list[RequestTimes | None] = [None] * len(requests)
    steps: list[StepRecord] = []
    for number, replica in enumerate(runs):
        own = [requests[index] for index in replica.requests.tolist()]
        for index, each in zip(replica.requests.tolist(), replica.run.request_times(own), strict=True):
            times[index] = each
        if replica.run.steps is not None:
            names = [request.request_id for request in own]
            steps += step_records(replica.run.steps, names, token_budget=token_budget, engine=number)
    steps.sort(key=lambda step: step.started_seconds)  # stable: each engine's own order stays
    finished = tuple(each for each in times if each is not None)
    last = max(each.completion_seconds for each in finished)
    return SimulatedResult(
        requests=finished,
        steps=tuple(steps),
        wall_seconds=last - min(each.arrival_seconds for each in finished),
        step_count=sum(replica.run.step_count for replica in runs),
    )


def open_simulated(
    engine: SimulatedEngine, cost: StepCost
) -> Callable[[PlannerSettings | None], AbstractContextManager[SimulatedHost]]:
    """Return what opens a host under settings of the planner; None is vLLM's own rules with the same tokens a step."""

    @contextmanager
    def opened(settings: PlannerSettings | None) -> Generator[SimulatedHost]:
        stock = PlannerSettings(chunk_size=engine.planner.chunk_size)
        rules, planner = (VLLM, stock) if settings is None else (PACELINE, settings)
        yield SimulatedHost(engine=replace(engine, rules=rules, planner=planner), cost=cost)

    return opened


def read_cost(path: Path) -> StepCost:
    """Return a step-time model from a file.

    `.npz` is Vidur-style tables, a run's directory or its `steps.jsonl` the log to replay, everything else the JSON of
    `paceline tune step-time`. A log counts from the first arrival where the run's requests stand beside it. Raises
    StepTimeError, StepLogError or RequestFileError.
    """
    if path.suffix == ".npz":
        return VidurTables.load(path)
    log = path / STEPS if path.is_dir() else path
    if log.suffix != ".jsonl":
        return LinearCost.of(EngineTime.load(path))
    steps = read_step_log(log)
    requests = read_requests(log.parent) if (log.parent / REQUESTS).exists() else ()
    return ReplayedCost.of(steps, requests=requests)


def blocks_that_last(requests: Sequence[TraceRequest], *, max_num_seqs: int, block_size: int) -> int:
    """Return a number of blocks with which memory never runs out, whoever is served at once."""
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    blocks = min(max_num_seqs, len(requests)) * (1 + -(-longest // block_size))
    return 2 + blocks + -(-blocks * SPARE_SHARE // 100)
