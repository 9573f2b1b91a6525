"""`paceline tune replay` and `paceline tune threshold sweep`: benchmark runs against vLLM."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.printing import JsonFlag, note, print_json, progress_bar
from paceline.cli.run_summary import print_summary
from paceline.cli.tune.flags import (
    DEFAULT_LOAD,
    DEFAULT_WEIGHTS,
    MACHINE_CLOCK,
    NO_ENGINE_ARGUMENTS,
    PROCESSOR_CLOCK,
    VIRTUAL_CLOCK,
    ChunkSizeOption,
    EngineArgsOption,
    EngineFlags,
    LengthScaleOption,
    LimitOption,
    LoadFlags,
    MaxChunkTokensOption,
    MaxModelLenOption,
    MaxPartialPrefillsOption,
    MinChunkTokensOption,
    ModelArgument,
    OutputMedianOption,
    PolicyOption,
    PromptMedianOption,
    PromptWeightOption,
    RateOption,
    SchedulerFlags,
    SeedOption,
    SpeedOption,
    StepTimeOption,
    SweptModelArgument,
    SyntheticOption,
    TargetBaseShareOption,
    TargetTimeMsOption,
    TimeWeightOption,
    TraceOption,
    TtftBudgetMsOption,
)
from paceline.errors import InvalidValueError
from paceline.profiles.atomic import refuse_occupied
from paceline.schedule.settings import DEFAULT_BASE_SHARE, PlannerSettings
from paceline.tune.run_files import write_run
from paceline.tune.summary import summarize
from paceline.tune.sweep import DEFAULT_REPETITIONS, DEFAULT_STEP, SweepPlan, run_sweep, thresholds_up_to


def replay(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new directory for the run.")],
    min_chunk_threshold: Annotated[
        int, typer.Option(help="Budget left in a step below which no further chunk is added.")
    ] = 0,
    stock: Annotated[bool, typer.Option("--stock", help="vLLM's own scheduler instead, for comparison.")] = False,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="vLLM's scheduler without a model, in virtual time by --step-time.")
    ] = False,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="Clock of the engine's thread alone, for a shared machine (CPU).")
    ] = False,
    as_json: JsonFlag = False,
    max_model_len: MaxModelLenOption = None,
    engine_args: EngineArgsOption = NO_ENGINE_ARGUMENTS,
    seed: SeedOption = 3407,
    trace: TraceOption = None,
    synthetic: SyntheticOption = False,
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
    min_chunk_tokens: MinChunkTokensOption = 0,
    max_chunk_tokens: MaxChunkTokensOption = None,
    max_partial_prefills: MaxPartialPrefillsOption = None,
    target_time_ms: TargetTimeMsOption = None,
    target_base_share: TargetBaseShareOption = DEFAULT_BASE_SHARE,
    step_time: StepTimeOption = None,
) -> None:
    """Serve a trace, or a synthetic load, with vLLM under given settings, and print what came of it."""
    engine = EngineFlags(model=model, max_model_len=max_model_len, engine_args=engine_args, seed=seed)
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
        step_time=step_time,
    )
    _replay(
        engine,
        load,
        scheduler,
        out,
        None if stock else scheduler.settings(min_chunk_threshold=min_chunk_threshold),
        as_json,
        clock=_clock(virtual=virtual, processor_time=processor_time),
    )


def _replay(
    engine: EngineFlags,
    load: LoadFlags,
    scheduler: SchedulerFlags,
    out: Path,
    settings: PlannerSettings | None,
    as_json: bool,
    *,
    clock: str,
) -> None:
    refuse_occupied(out)
    workload = load.loads(engine.context_tokens)(engine.seed)
    conditions = engine.conditions(scheduler)
    with redirect_stdout(sys.stderr):  # vLLM prints and logs where it likes
        open_host = engine.opener(scheduler, clock=clock)
        with progress_bar(f"replaying {workload.label}") as move, open_host(settings) as host:
            result = host.replay(workload.requests, on_progress=move)
    summary = summarize(result.requests)
    document = {
        "seed": engine.seed,
        "virtual": clock == VIRTUAL_CLOCK,
        "clock": clock,
        "scheduler": settings and asdict(settings),
        "load": workload.document(),
        **conditions,
        "summary": summary.document(),
    }
    write_run(out, result, document)
    if as_json:
        print_json(document)
    else:
        print_summary(f"{workload.label}, {settings.policy if settings else 'stock scheduler'}, in {out}", summary)


def _clock(*, virtual: bool, processor_time: bool) -> str:
    if virtual and processor_time:
        raise InvalidValueError("--processor-time", True, "one of --virtual and --processor-time: each is a clock")
    return VIRTUAL_CLOCK if virtual else PROCESSOR_CLOCK if processor_time else MACHINE_CLOCK


def sweep(
    out: Annotated[Path, typer.Option("--out", "-o", help="The sweep's directory; an unfinished sweep goes on.")],
    model: SweptModelArgument = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="In the simulator, by --step-time: no engine runs, and none is needed.")
    ] = False,
    largest: Annotated[
        int | None, typer.Option("--max", help="Largest threshold.", show_default="the last below 30 % of chunk size")
    ] = None,
    step: Annotated[int, typer.Option(help="From one threshold to the next.")] = DEFAULT_STEP,
    repetitions: Annotated[int, typer.Option(help="Runs of every threshold.")] = DEFAULT_REPETITIONS,
    as_json: JsonFlag = False,
    max_model_len: MaxModelLenOption = None,
    engine_args: EngineArgsOption = NO_ENGINE_ARGUMENTS,
    seed: SeedOption = 3407,
    trace: TraceOption = None,
    synthetic: SyntheticOption = False,
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
    min_chunk_tokens: MinChunkTokensOption = 0,
    max_chunk_tokens: MaxChunkTokensOption = None,
    max_partial_prefills: MaxPartialPrefillsOption = None,
    target_time_ms: TargetTimeMsOption = None,
    target_base_share: TargetBaseShareOption = DEFAULT_BASE_SHARE,
    step_time: StepTimeOption = None,
) -> None:
    """Run a load under every min_chunk_threshold from 0 up, several times; a killed sweep goes on where it stopped."""
    engine = EngineFlags(model=model, max_model_len=max_model_len, engine_args=engine_args, seed=seed)
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
        step_time=step_time,
    )
    thresholds = thresholds_up_to(largest, step=step, chunk_size=chunk_size)
    if model is None and not simulate:
        raise InvalidValueError("MODEL", None, "a model for vLLM to serve, or --simulate")
    _sweep(engine, load, scheduler, out, thresholds, repetitions, as_json, simulate=simulate)


def _sweep(
    engine: EngineFlags,
    load: LoadFlags,
    scheduler: SchedulerFlags,
    out: Path,
    thresholds: Sequence[int],
    repetitions: int,
    as_json: bool,
    *,
    simulate: bool,
) -> None:
    plan = SweepPlan(
        thresholds=tuple(thresholds),
        repetitions=repetitions,
        seed=engine.seed,
        settings=scheduler.settings(),
    )
    load_of_seed = load.loads(engine.context_tokens)
    first = load_of_seed(engine.seed)
    bar = progress_bar(f"sweeping {len(plan.thresholds)} thresholds, {first.label}")
    conditions = engine.conditions(scheduler) | ({"simulated": True} if simulate else {})
    open_host = engine.simulated_opener(scheduler, first) if simulate else engine.opener(scheduler)
    with redirect_stdout(sys.stderr), bar as move:
        folders = run_sweep(
            out,
            plan,
            workload_of=lambda repetition: load_of_seed(engine.seed + repetition),
            open_host=open_host,
            conditions=conditions,
            clock=lambda: datetime.now(UTC),
            on_progress=move,
        )
    if as_json:
        print_json({"out": str(out), "thresholds": list(plan.thresholds), "runs": [str(folder) for folder in folders]})
    note(f"next: paceline tune threshold select --root {out}")
