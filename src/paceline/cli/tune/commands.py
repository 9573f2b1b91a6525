"""`paceline tune`: choose scheduler parameters from benchmark runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.flags.lists import ListFlagCommand
from paceline.cli.printing import JsonFlag, note, note_written, print_facts, print_json, print_table, progress_bar, say
from paceline.cli.tune import runs
from paceline.cli.tune.flags import ChunkSizeOption
from paceline.cli.tune.price import price
from paceline.errors import InvalidValueError
from paceline.fit.step_time import StepTimeFit, fit_configurations, fit_step_time, save_step_time
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_log import read_step_log
from paceline.schedule.trace_request import TraceRequest
from paceline.simulate import SimulatedEngine
from paceline.simulate.engine_settings import PACELINE
from paceline.tune.aging import SHORT_REQUEST_FACTOR, STATISTICS, AgingWeights, aging_weights
from paceline.tune.run_files import STEPS
from paceline.tune.select import (
    AGGREGATIONS,
    DEFAULT_BASELINE,
    RULES,
    SCORED,
    ScoreWeights,
    ThresholdChoice,
    ThresholdScore,
    select_threshold,
)
from paceline.tune.simulated import SimulatedHost, blocks_that_last, read_cost
from paceline.tune.simulated_aging import TriedWeights, simulated_aging
from paceline.tune.trace import read_trace

HELP = "Replay loads against vLLM and choose scheduler parameters from the runs."
RunArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's directory.")]
STEP_TIME_FILE = "step_time.json"


def register(app: typer.Typer) -> None:
    """Add `paceline tune` and its commands to the command line."""
    tune = typer.Typer(name="tune", help=HELP, no_args_is_help=True)
    tune.command("replay")(runs.replay)
    tune.command("aging")(aging)
    tune.command("step-time")(step_time)
    tune.command("price", cls=ListFlagCommand)(price)
    threshold = typer.Typer(
        name="threshold", help="Sweep min_chunk_threshold, and select one from a sweep.", no_args_is_help=True
    )
    threshold.command("sweep")(runs.sweep)
    threshold.command("select")(select)
    tune.add_typer(threshold)
    app.add_typer(tune)


def select(
    root: Annotated[Path, typer.Option("--root", help="The sweep's directory: <start time>/<threshold>/*.csv in it.")],
    baseline: Annotated[
        int, typer.Option("--baseline", help="Threshold that a run is divided by, and that stays unless it is beaten.")
    ] = DEFAULT_BASELINE,
    w_request: Annotated[
        float, typer.Option("--w-request", "--w_request", help="Weight of P95 request_execution_time.")
    ] = SCORED["request"].weight,
    w_prefill: Annotated[
        float, typer.Option("--w-prefill", "--w_prefill", help="Weight of P95 prefill_e2e_time.")
    ] = SCORED["prefill"].weight,
    w_prefill_exec_norm: Annotated[
        float,
        typer.Option(
            "--w-prefill-exec-norm", "--w_prefill_exec_norm", help="Weight of the mean normalized prefill time."
        ),
    ] = SCORED["prefill_exec_norm"].weight,
    w_request_exec_norm: Annotated[
        float,
        typer.Option(
            "--w-request-exec-norm", "--w_request_exec_norm", help="Weight of the mean normalized request time."
        ),
    ] = SCORED["request_exec_norm"].weight,
    w_decode: Annotated[
        float, typer.Option("--w-decode", "--w_decode", help="Weight of the mean normalized decode time.")
    ] = SCORED["decode"].weight,
    run_agg: Annotated[
        str, typer.Option("--run-agg", "--run_agg", help=f"How runs are put together: {', '.join(AGGREGATIONS)}.")
    ] = "mean",
    rule: Annotated[
        str,
        typer.Option(
            "--rule",
            help="interval: the baseline unless a score's interval lies below it; reference: the smallest score.",
        ),
    ] = RULES[0],
    as_json: JsonFlag = False,
) -> None:
    """Recommend a min_chunk_threshold: each run against its own baseline, and nothing that noise alone would explain."""
    weights = ScoreWeights(
        request=w_request,
        prefill=w_prefill,
        prefill_exec_norm=w_prefill_exec_norm,
        request_exec_norm=w_request_exec_norm,
        decode=w_decode,
    )
    choice = select_threshold(root, baseline=baseline, weights=weights, run_agg=run_agg, rule=rule)
    _warn_of_gaps(choice)
    if as_json:
        print_json(choice.document())
        return
    columns = ("threshold", "runs", "score", "CI", "", *(name.replace("_", " ") for name in SCORED))
    title = "Score and the ratios to the baseline it weighs, below 1 is better; CI: 95 %, for all scores at once"
    print_table(title, columns, [_score_row(each) for each in choice.scores])
    say(f"Recommended min_chunk_threshold: {choice.recommended}")
    say(f"Why: {choice.reason}.")


def aging(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's directory; with --simulate, a trace.")],
    statistic: Annotated[
        str, typer.Option("--statistic", help=f"Over the run's requests: {', '.join(STATISTICS)}.")
    ] = STATISTICS[0],
    short_request_factor: Annotated[
        float, typer.Option("--short-request-factor", help="Of the prefill rate, in the alternative's time_weight.")
    ] = SHORT_REQUEST_FACTOR,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate the trace by --step-time, and try the weights on it.")
    ] = False,
    step_time: Annotated[
        Path | None, typer.Option("--step-time", help="With --simulate: what a step takes (docs/simulate.md).")
    ] = None,
    chunk_size: ChunkSizeOption = 2048,
    max_num_seqs: Annotated[int, typer.Option(help="With --simulate: most requests that run at once.")] = 128,
    num_blocks: Annotated[
        int | None,
        typer.Option(help="With --simulate: blocks of the key-value cache.", show_default="memory never runs out"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print weights for the aging policy from a run's normalized prefill times, or from a simulated run's."""
    if simulate:
        engine = _simulated_engine(run, step_time, chunk_size, max_num_seqs, num_blocks)
        _aging_simulated(*engine, statistic, short_request_factor, as_json)
        return
    if step_time is not None:
        raise InvalidValueError("--step-time", str(step_time), "none without --simulate: a run has its own times")
    found = aging_weights(run, statistic=statistic, short_request_factor=short_request_factor)
    if as_json:
        print_json(found.document())
    else:
        _print_weights(found)


def _simulated_engine(
    trace: Path, step_time: Path | None, chunk_size: int, max_num_seqs: int, num_blocks: int | None
) -> tuple[tuple[TraceRequest, ...], SimulatedHost]:
    if step_time is None:
        raise InvalidValueError("--step-time", None, "what a step takes: in virtual time it is the clock")
    requests = read_trace(trace).requests
    engine = SimulatedEngine(
        rules=PACELINE,
        planner=PlannerSettings(chunk_size=chunk_size),
        max_num_seqs=max_num_seqs,
        num_blocks=num_blocks or blocks_that_last(requests, max_num_seqs=max(1, max_num_seqs), block_size=16),
    )
    return requests, SimulatedHost(engine=engine, cost=read_cost(step_time))


def _aging_simulated(
    requests: Sequence[TraceRequest], host: SimulatedHost, statistic: str, short_request_factor: float, as_json: bool
) -> None:
    with progress_bar(f"simulating {len(requests):,} requests") as move:
        found, tried = simulated_aging(
            requests, host, statistic=statistic, short_request_factor=short_request_factor, on_progress=move
        )
    if as_json:
        print_json({**found.document(), "simulated": [each.document() for each in tried]})
        return
    _print_weights(found)
    columns = ("policy", "time_weight", "prompt_weight", "TTFT mean ms", "P50", "P95", "P99", "longest")
    print_table(f"On the same {len(requests):,} requests, simulated", columns, [_tried_row(each) for each in tried])


def _tried_row(tried: TriedWeights) -> list[object]:
    weights = tried.weights
    figures = (tried.ttft_mean_ms, tried.ttft_p50_ms, tried.ttft_p95_ms, tried.ttft_p99_ms, tried.ttft_max_ms)
    return [
        tried.name,
        None if weights is None else f"{weights.time_weight:.4g}",
        None if weights is None else f"{weights.prompt_weight:.4g}",
        *(f"{figure:,.1f}" for figure in figures),
    ]


def step_time(
    run: RunArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Model file.", show_default=f"RUN_DIR/{STEP_TIME_FILE}")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit the step-time model that target_time_ms needs on a run's step log, and state its held-out error.

    Of a folder of step logs by experts and blocks, `steps` of a profile that an engine measured, one model each.
    """
    fit = _fitted(run)
    path = output or run / STEP_TIME_FILE
    kept = save_step_time(fit, path)
    note_written(path, kept=kept)
    if as_json:
        print_json(fit.document())
    else:
        _print_fit(fit)


def _fitted(run: Path) -> StepTimeFit:
    logs = sorted(run.glob(f"*/{STEPS}"))
    if (run / STEPS).exists() or not logs:
        return fit_step_time(read_step_log(run / STEPS))
    return fit_configurations({log.parent.name: read_step_log(log) for log in logs})


def _warn_of_gaps(choice: ThresholdChoice) -> None:
    sentences = [f"left out: {sentence}" for sentence in choice.left_out]
    sentences += [
        f"run {run} has no baseline threshold; its smallest, {threshold}, takes its place"
        for run, threshold in choice.fallbacks.items()
    ]
    if len({each.runs for each in choice.scores}) > 1:
        sentences.append("some thresholds stand in fewer runs than others: their scores are over other runs")
    for sentence in sentences:
        note(sentence, mark="caution")


def _score_row(score: ThresholdScore) -> list[object]:
    ends = (score.interval.low, score.interval.high) if score.interval else (None, None)
    figures = (score.score, *ends, *(score.ratios[name] for name in SCORED))
    return [score.threshold, score.runs, *(None if figure is None else f"{figure:.3f}" for figure in figures)]


def _print_weights(found: AgingWeights) -> None:
    seconds = ", ".join(f"{name} {value:.3g}" for name, value in found.seconds_per_prefill_token.items())
    by_tokens = found.token_weighted_mean
    rows = [
        ("seconds per prefill token", f"{seconds} (over {found.requests:,} requests, short and long alike)"),
        (
            "mean weighted by tokens",
            "not known: the run has no lengths"
            if by_tokens is None
            else f"{by_tokens:.3g} (all seconds ÷ all prompt tokens)",
        ),
    ]
    for name, weights in (("weights", found.weights), ("alternative", found.alternative)):
        rows.append((name, f"time_weight {weights.time_weight:.6g}, prompt_weight {weights.prompt_weight:.6g}"))
    print_facts(f"Aging weights from the {found.statistic}", rows)


def _print_fit(fit: StepTimeFit) -> None:
    error = fit.held_out
    interval = error.mae.interval()
    spread = f" (95 % CI {interval})" if interval else ""
    rows = [
        *((name, f"{value:.6g}") for name, value in fit.model.document().items()),
        ("steps fitted", f"{fit.fitted_steps:,} (the first {fit.warmup_steps} left out)"),
        ("held-out error, ms", f"{error.mae.mean:.3f}{spread} mean absolute, P95 {error.p95_ms:.3f}"),
        ("of the mean step", f"{error.relative_error:.1%}, n = {error.mae.count:,}"),
    ]
    rows += [
        (f"of {kind.replace('_', ' ')} steps", f"{each.relative_error:.1%}, n = {each.mae.count:,}")
        for kind, each in fit.held_out_by_kind.items()
    ]
    rows += [
        (f"under {key}", f"a step {each.base_ms:.4g}, a prompt token {each.per_prefill_token_ms:.4g}")
        for key, each in fit.configurations.items()
    ]
    print_facts("Step-time model", rows)
    if error.mae.mean >= error.baseline_mae_ms:
        note(
            f"no better than always saying the mean step ({error.baseline_mae_ms:.3f} ms): "
            "measure on an idle machine, or longer, before keeping a target with it",
            mark="caution",
        )
