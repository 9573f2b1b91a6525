"""How the figures of a run are printed, served by an engine or simulated."""

from paceline.cli.printing import print_facts
from paceline.tune.summary import RunSummary


def print_summary(title: str, summary: RunSummary) -> None:
    """Print percentiles with their intervals, throughput, and goodput where requests have budgets."""
    rows: list[tuple[str, object]] = [(f"TTFT P{p} ms (95 % CI)", each) for p, each in summary.ttft_ms.items()]
    rows += [(f"TPOT P{p} ms (95 % CI)", each) for p, each in summary.tpot_ms.items()]
    rows += [
        ("requests", f"{summary.requests:,} in {summary.duration_seconds:.2f} s, {summary.preemptions:,} preemptions"),
        (
            "throughput",
            f"{summary.requests_per_second:.2f} requests/s, {summary.output_tokens_per_second:.1f} tokens/s",
        ),
    ]
    if summary.adherence is not None:
        rows += [
            ("within their budgets", summary.adherence),
            ("goodput", f"{summary.goodput_per_second:.2f} requests/s ({summary.goodput_interval})"),
        ]
    print_facts(title, rows)
