"""`paceline demo`: the whole of it on the model that ships with the package, without a network or a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.flags.profiles import note_drift_in
from paceline.cli.printing import JsonFlag, note, print_json, print_table, progress_bars, say
from paceline.demo import (
    BOUND,
    FEWEST_SAMPLES,
    SAMPLE_PICTURE,
    SAMPLE_PROMPT,
    TABLE,
    DemoProgress,
    DemoRequest,
    DemoResult,
    no_page,
    promised_ms,
    proportions,
    run_demo,
    summary,
)
from paceline.slo import Proportion

SHOWN_PER_BUDGET = 3


def demo(
    out: Annotated[
        Path, typer.Option(help="Directory for the profile, table, estimator, report.html and summary.json.")
    ] = Path("demo-out"),
    samples: Annotated[
        int, typer.Option(help="Questions of each set to profile.", min=FEWEST_SAMPLES, max=100_000)
    ] = 45,
    requests: Annotated[
        int, typer.Option(help="Held-out questions to answer under each budget.", min=1, max=100_000)
    ] = 45,
    as_json: JsonFlag = False,
) -> None:
    """Profile the embedded model, learn what each setting costs and answer held-out questions under five budgets."""
    with progress_bars("profiling digits", "training the estimator", "answering held-out questions") as bars:
        profiled, trained, answered = bars
        progress = DemoProgress(on_profile=profiled, on_training=trained, on_request=answered)
        result = run_demo(out, samples=samples, requests=requests, progress=progress)
    if as_json:
        print_json(summary(result))
    else:
        _print_result(result)


def _print_result(result: DemoResult) -> None:
    fastest, slowest = result.table.latency_range_ms
    say(
        f"Profiled {result.profile.samples_total:,} samples under {len(result.profile.configurations)} configurations: "
        f"the time to first token is {fastest:.1f} to {slowest:.1f} ms here, accuracy is {result.table.accuracy_range[0]:.2f} to "
        f"{result.table.accuracy_range[1]:.2f}."
    )
    shown = [request for budget_ms in result.budgets_ms for request in result.at(BOUND, budget_ms)[:SHOWN_PER_BUDGET]]
    print_table(
        f"Held-out requests under the estimator with bound, the first {SHOWN_PER_BUDGET} a budget; time to first token in ms; "
        "setting is tier/top_k/blocks",
        ("budget", "setting", "bound", "measured", "kept", "answer", "truth", "right"),
        [_row(request) for request in shown],
    )
    count = len(result.at(BOUND, result.budgets_ms[0]))
    print_table(
        f"Accuracy at each budget ({count} held-out requests, 95 % CI)",
        ("budget", "estimator with bound", "table"),
        [_shares(budget_ms, result, lambda right, _kept: right) for budget_ms in result.budgets_ms],
    )
    print_table(
        "Share of requests that kept the budget",
        ("budget", "estimator with bound", "table", "no bound fits"),
        [
            (*_shares(budget_ms, result, lambda _right, kept: kept), _none_fits(budget_ms, result))
            for budget_ms in result.budgets_ms
        ],
    )
    say(
        "The estimator's bound promises that 95 of 100 requests keep their budgets, where some setting's bound fits them; "
        "it follows the machine when that becomes slower. The table promises the mean of what it measured: near a "
        "setting's own latency that holds about half the time."
    )
    note_drift_in(result.out / "profile")
    _print_next(result)


def _print_next(result: DemoResult) -> None:
    out, middle = result.out, result.budgets_ms[len(result.budgets_ms) // 2]
    page = f", the profile's figures in {out}/report.html" if no_page is None else ""
    say(f"\nEverything is in {out}/summary.json{page}. Try next:")
    commands = (
        f"paceline run digits --controller {out}/estimator --image {out}/{SAMPLE_PICTURE} "
        f'--prompt "{SAMPLE_PROMPT}" --budget {middle:g}',
        f"paceline evaluate {out}/profile --estimator {out}/estimator"
        + (f" --report {out}/evaluation.html" if no_page is None else ""),
        f"paceline table show {out}/table.json --budgets {' '.join(f'{b:g}' for b in result.budgets_ms)}",
        f"paceline budgets {out}/profile",
    )
    for command in commands:
        say(f"  {command}")
    if no_page is not None:
        note(f"pages were not drawn: {no_page}")
    note("(in a checkout without an activated environment, the command is .venv/bin/paceline)")


def _row(request: DemoRequest) -> tuple[object, ...]:
    answer, config = request.answer, request.answer.config
    return (
        f"{answer.budget_ms:.1f}",
        f"{config.tier}/{config.top_k}/{config.num_active_blocks}",
        f"{promised_ms(answer):.1f}",
        f"{answer.measured_ms:.1f}",
        "yes" if answer.within_budget else "no",
        answer.text,
        request.question.references[0],
        "yes" if request.correct else "no",
    )


def _shares(
    budget_ms: float, result: DemoResult, pick: Callable[[Proportion, Proportion], Proportion]
) -> tuple[str, str, str]:
    bound, table = (_share(pick(*proportions(result.at(name, budget_ms)))) for name in (BOUND, TABLE))
    return f"{budget_ms:.1f}", bound, table


def _none_fits(budget_ms: float, result: DemoResult) -> int:
    return sum(not request.answer.promised for request in result.at(BOUND, budget_ms))


def _share(proportion: Proportion) -> str:
    interval = proportion.interval()
    return f"{proportion.share:.2f} ({interval.low:.2f}–{interval.high:.2f})"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo")(demo)
