"""`paceline demo`: the whole of it on the model that ships with the package, without a network or a GPU."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.printing import LOG, OUT, JsonFlag, print_json, print_table, progress_bars
from paceline.demo import SAMPLE_PICTURE, SAMPLE_PROMPT, DemoRequest, DemoResult, proportions, run_demo, summary
from paceline.slo import Proportion

SHOWN_PER_BUDGET = 3


def demo(
    out: Annotated[Path, typer.Option(help="Directory for the profile, the table and summary.json.")] = Path(
        "demo-out"
    ),
    samples: Annotated[int, typer.Option(help="Questions of each set to profile.", min=1)] = 25,
    requests: Annotated[int, typer.Option(help="Held-out questions to answer under each budget.", min=1)] = 45,
    as_json: JsonFlag = False,
) -> None:
    """Profile the embedded model, build its lookup table and answer held-out questions under five budgets."""
    with progress_bars("profiling digits", "answering held-out questions") as (profiled, answered):
        result = run_demo(out, samples=samples, requests=requests, on_profile=profiled, on_request=answered)
    if as_json:
        print_json(summary(result))
    else:
        _print_result(result)


def _print_result(result: DemoResult) -> None:
    fastest, slowest = result.table.latency_range_ms
    OUT.print(
        f"Profiled {result.profile.samples_total:,} samples under {len(result.profile.configurations)} configurations: "
        f"prefill takes {fastest:.1f} to {slowest:.1f} ms here, accuracy is {result.table.accuracy_range[0]:.2f} to "
        f"{result.table.accuracy_range[1]:.2f}."
    )
    shown = [request for budget_ms in result.budgets_ms for request in result.at(budget_ms)[:SHOWN_PER_BUDGET]]
    print_table(
        f"Held-out requests, {SHOWN_PER_BUDGET} a budget; prefill in ms; setting is tier/top_k/blocks",
        ("budget", "setting", "promised", "measured", "kept", "answer", "expected", "right"),
        [_row(request) for request in shown],
    )
    print_table(
        "What each budget bought",
        ("budget ms", "accuracy (95 % CI)", "adherence (95 % CI)", "n"),
        [_budget(budget_ms, result.at(budget_ms)) for budget_ms in result.budgets_ms],
    )
    OUT.print(
        "A table promises the mean of what it measured, so near a configuration's own latency a budget holds about half the "
        "time; where there is room it holds always."
    )
    middle = result.budgets_ms[len(result.budgets_ms) // 2]
    OUT.print(f"\nEverything is in {result.out}/summary.json. Try next:")
    commands = (
        f"paceline run digits --table {result.out}/table.json --image {result.out}/{SAMPLE_PICTURE} "
        f'--prompt "{SAMPLE_PROMPT}" --budget {middle:g}',
        f"paceline table show {result.out}/table.json --budgets {' '.join(f'{b:g}' for b in result.budgets_ms)}",
        f"paceline budgets {result.out}/profile",
    )
    for command in commands:
        OUT.print(f"  {command}", soft_wrap=True, highlight=False)
    LOG.print("(in a checkout without an activated environment, the command is .venv/bin/paceline)")


def _row(request: DemoRequest) -> tuple[object, ...]:
    answer, config = request.answer, request.answer.config
    return (
        f"{answer.budget_ms:.1f}",
        f"{config.tier}/{config.top_k}/{config.num_active_blocks}",
        f"{answer.predicted_ms:.1f}",
        f"{answer.measured_ms:.1f}",
        "kept" if answer.within_budget else "missed",
        answer.text,
        request.question.references[0],
        "right" if request.correct else "wrong",
    )


def _budget(budget_ms: float, requests: list[DemoRequest]) -> tuple[object, ...]:
    right, kept = proportions(requests)
    return f"{budget_ms:.1f}", _share(right), _share(kept), kept.count


def _share(proportion: Proportion) -> str:
    interval = proportion.interval()
    return f"{proportion.share:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo")(demo)
