"""`paceline simulate`: a load in virtual time, under one setting or thousands."""

import os
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from sys import maxsize
from typing import Annotated, Any

import typer

from paceline.cli.flags.lists import ListFlagCommand, split_list
from paceline.cli.printing import JsonFlag, print_json, print_table, progress_bar
from paceline.cli.run_summary import print_summary
from paceline.cli.simulate.memory import (
    DeviceMemoryOption,
    KvDtypeOption,
    MemoryFlags,
    MemoryUtilizationOption,
    ModelConfigOption,
    NumBlocksOption,
    OtherMemoryOption,
    TensorParallelOption,
)
from paceline.cli.tune.flags import (
    DEFAULT_LOAD,
    DEFAULT_WEIGHTS,
    ChunkSizeOption,
    LengthScaleOption,
    LimitOption,
    LoadFlags,
    MaxChunkTokensOption,
    MaxPartialPrefillsOption,
    MinChunkTokensOption,
    OutputMedianOption,
    PolicyOption,
    PromptMedianOption,
    PromptWeightOption,
    RateOption,
    SchedulerFlags,
    SeedOption,
    SpeedOption,
    SyntheticOption,
    TargetBaseShareOption,
    TargetTimeMsOption,
    TimeWeightOption,
    TtftBudgetMsOption,
)
from paceline.errors import InvalidValueError
from paceline.profiles.atomic import refuse_occupied
from paceline.schedule.request_times import RequestTimes
from paceline.schedule.settings import DEFAULT_BASE_SHARE
from paceline.schedule.step_time import LinearStepTime
from paceline.simulate import ROUTERS, RULES, LinearCost, SimulatedEngine, StepCost
from paceline.simulate.engine_settings import PACELINE
from paceline.simulate.memory_size import DEFAULT_UTILIZATION
from paceline.simulate.routers import ROUND_ROBIN
from paceline.simulate.simulation import ENGINES, FAST
from paceline.tune.environment import package_versions
from paceline.tune.run_files import write_run
from paceline.tune.simulated import SimulatedHost, read_cost
from paceline.tune.simulated_sweep import SettingFigures, front, read_grid, settings_of, sweep_simulated
from paceline.tune.summary import plain_figures, summarize
from paceline.tune.workload import Workload

DEFAULT_MAX_NUM_SEQS = 128
TraceArgument = Annotated[
    Path | None, typer.Argument(metavar="TRACE", help="CSV or JSONL of arrivals and lengths (docs/traces.md).")
]
StepTimeOption = Annotated[
    Path,
    typer.Option(help="A model file of `paceline tune step-time`, Vidur-style tables (.npz), or a run to replay."),
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="A new directory for the run's files.")]
SweepOption = Annotated[
    list[str] | None,
    typer.Option(help="Settings to try in every combination: policy=fcfs,srtf chunk_size=256,512,1024."),
]


def register(app: typer.Typer) -> None:
    """Add `paceline simulate` to the command line."""
    app.command("simulate", cls=ListFlagCommand)(simulate)


def simulate(
    step_time: StepTimeOption,
    trace: TraceArgument = None,
    synthetic: SyntheticOption = False,
    out: OutOption = None,
    sweep: SweepOption = None,
    as_json: JsonFlag = False,
    rules: Annotated[str, typer.Option(help=f"Whose scheduler: {', '.join(RULES)}.")] = PACELINE,
    engine: Annotated[str, typer.Option(help=f"What computes it: {', '.join(ENGINES)}; equal steps.")] = FAST,
    max_num_seqs: Annotated[int, typer.Option(help="Most requests that run at once.")] = DEFAULT_MAX_NUM_SEQS,
    num_blocks: NumBlocksOption = None,
    model_config: ModelConfigOption = None,
    device_memory: DeviceMemoryOption = None,
    memory_utilization: MemoryUtilizationOption = DEFAULT_UTILIZATION,
    other_memory: OtherMemoryOption = None,
    tensor_parallel: TensorParallelOption = 1,
    kv_dtype: KvDtypeOption = None,
    block_size: Annotated[int, typer.Option(help="Tokens of a block.")] = 16,
    watermark: Annotated[
        float | None, typer.Option(help="Share of blocks that an admission leaves free.", show_default="the rules' own")
    ] = None,
    replicas: Annotated[int, typer.Option(help="Equal engines.")] = 1,
    router: Annotated[str, typer.Option(help=f"Who serves a request: {', '.join(ROUTERS)}.")] = ROUND_ROBIN,
    target_step_time: Annotated[
        Path | None,
        typer.Option(help="What the time target predicts steps with.", show_default="--step-time, if a model file"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes of a sweep.", show_default="one a core")] = None,
    seed: SeedOption = 3407,
    limit: LimitOption = None,
    length_scale: LengthScaleOption = 1.0,
    speed: SpeedOption = 1.0,
    rate: RateOption = None,
    ttft_budget_ms: TtftBudgetMsOption = None,
    prompt_median: PromptMedianOption = DEFAULT_LOAD.prompt_median,
    output_median: OutputMedianOption = DEFAULT_LOAD.output_median,
    policy: PolicyOption = "fcfs",
    time_weight: TimeWeightOption = DEFAULT_WEIGHTS.time_weight,
    prompt_weight: PromptWeightOption = DEFAULT_WEIGHTS.prompt_weight,
    chunk_size: ChunkSizeOption = 2048,
    min_chunk_threshold: Annotated[
        int, typer.Option(help="Budget left in a step below which no further chunk is added.")
    ] = 0,
    min_chunk_tokens: MinChunkTokensOption = 0,
    max_chunk_tokens: MaxChunkTokensOption = None,
    max_partial_prefills: MaxPartialPrefillsOption = None,
    target_time_ms: TargetTimeMsOption = None,
    target_base_share: TargetBaseShareOption = DEFAULT_BASE_SHARE,
) -> None:
    """Serve a trace, or a synthetic load, in virtual time: no engine runs and no clock is read."""
    load = LoadFlags(
        trace=trace,
        synthetic=synthetic,
        limit=limit,
        length_scale=length_scale,
        speed=speed,
        rate=rate,
        ttft_budget_ms=ttft_budget_ms,
        prompt_median=prompt_median,
        output_median=output_median,
    )
    scheduler = SchedulerFlags(
        policy=policy,
        time_weight=time_weight,
        prompt_weight=prompt_weight,
        chunk_size=chunk_size,
        min_chunk_tokens=min_chunk_tokens,
        max_chunk_tokens=max_chunk_tokens,
        max_partial_prefills=max_partial_prefills,
        target_time_ms=target_time_ms,
        target_base_share=target_base_share,
        step_time=None,
    )
    memory = MemoryFlags(
        num_blocks=num_blocks,
        model_config=model_config,
        device_memory=device_memory,
        memory_utilization=memory_utilization,
        other_memory=other_memory,
        tensor_parallel=tensor_parallel,
        kv_dtype=kv_dtype,
    )
    if out is not None:
        refuse_occupied(out)
    workload = load.loads(maxsize)(seed)
    cost = read_cost(step_time)
    simulated = SimulatedEngine(
        rules=rules,
        planner=scheduler.planner(min_chunk_threshold=min_chunk_threshold),
        max_num_seqs=max_num_seqs,
        num_blocks=memory.blocks(rules, workload, max_num_seqs=max_num_seqs, block_size=block_size),
        block_size=block_size,
        watermark=watermark,
        target_model=_target_model(target_step_time, step_time, cost),
    )
    host = SimulatedHost(
        engine=simulated, cost=cost, replicas=replicas, router=router, computed_by=engine, with_steps=out is not None
    )
    if sweep:
        _sweep(workload, host, split_list_of_settings(sweep), workers or os.cpu_count() or 1, out, as_json)
    else:
        _run(workload, host, step_time, out, seed, as_json)


def split_list_of_settings(words: list[str]) -> list[str]:
    """Return one word a setting: `policy=fcfs,srtf` may come apart at its commas."""
    joined: list[str] = []
    for part in split_list(words) or []:
        if "=" in part or not joined:
            joined.append(part)
        else:
            joined[-1] += f",{part}"
    return joined


def _target_model(named: Path | None, step_time: Path, cost: StepCost) -> LinearStepTime | None:
    if named is not None:
        return LinearStepTime.load(named)
    return LinearStepTime.load(step_time) if isinstance(cost, LinearCost) else None


def _run(workload: Workload, host: SimulatedHost, step_time: Path, out: Path | None, seed: int, as_json: bool) -> None:
    started = time.perf_counter()
    result = host.replay(workload.requests, on_progress=lambda _done, _total: None)
    loop_seconds = time.perf_counter() - started
    summary = summarize(result.requests)
    document: dict[str, object] = {
        "simulated": True,
        "rules": host.engine.rules,
        "policy": host.engine.planner.policy,
        "steps": result.step_count,
        **plain_figures(result.requests),
        "seed": seed,
        "scheduler": asdict(host.engine.planner),
        "engine": _engine_document(host),
        "load": workload.document(),
        "step_time": str(step_time),
        "versions": package_versions(),
        "summary": summary.document(),
    }
    if out is not None:
        write_run(out, result, document, more_of=_names_of_the_field)
    if as_json:
        print_json({**document, "loop_seconds": loop_seconds})  # no part of the run, which is the same on any machine
        return
    place = f", in {out}" if out else ""
    print_summary(
        f"simulated, {workload.label}, rules {host.engine.rules}, {host.engine.planner.policy}{place}", summary
    )


def _engine_document(host: SimulatedHost) -> dict[str, object]:
    names = ("rules", "max_num_seqs", "num_blocks", "block_size", "watermark")
    described: dict[str, object] = {name: getattr(host.engine, name) for name in names}
    return {**described, "replicas": host.replicas, "router": host.router, "computed_by": host.computed_by}


def _names_of_the_field(request: RequestTimes) -> dict[str, object]:
    """Return a request's times once more under the names that simulators write."""
    return {
        "scheduled_seconds": request.first_scheduled_seconds,
        "completed_seconds": request.completion_seconds,
        "restarts": request.preemptions,
    }


def _sweep(
    workload: Workload, host: SimulatedHost, words: list[str], workers: int, out: Path | None, as_json: bool
) -> None:
    if out is not None or host.replicas != 1:
        given = out if out is not None else f"{host.replicas} replicas"
        raise InvalidValueError("--sweep", given, "one engine and no --out: it prints, and leaves no run's files")
    settings = settings_of(host.engine, read_grid(words))
    if workers > 1 and host.computed_by == FAST:
        import_module("paceline.simulate.fast.engine")  # a missing extra is told here, once
    with progress_bar(f"simulating {len(settings)} settings, {workload.label}") as move:
        figures = sweep_simulated(
            workload.requests, settings, host.cost, workers=workers, on_progress=move, computed_by=host.computed_by
        )
    best = front(figures)
    if as_json:
        document: dict[str, Any] = {
            "simulated": True,
            "load": workload.document(),
            "settings": [each.document() for each in figures],
            "front": [each.document() for each in best],
        }
        print_json(document)
        return
    columns = (
        *best[0].changes,
        "TTFT P50 ms",
        "P95",
        "P99",
        "TPOT P50 ms",
        "P95",
        "requests/s",
        "goodput/s",
        "preemptions",
    )
    title = f"{len(best)} of {len(figures)} settings that no other beats, simulated, {workload.label}"
    print_table(title, columns, [_row(each) for each in best])


def _row(figures: SettingFigures) -> list[object]:
    def shown(value: float | None, digits: int = 1) -> str | None:
        return None if value is None else f"{value:,.{digits}f}"

    return [
        *("none" if value is None else value for value in figures.changes.values()),
        shown(figures.ttft_p50_ms),
        shown(figures.ttft_p95_ms),
        shown(figures.ttft_p99_ms),
        shown(figures.tpot_p50_ms),
        shown(figures.tpot_p95_ms),
        shown(figures.requests_per_second, 2),
        shown(figures.goodput_per_second, 2),
        f"{figures.preemptions:,}",
    ]
