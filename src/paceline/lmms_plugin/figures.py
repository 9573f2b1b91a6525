"""What a run under a budget adds to lmms-eval's results, and the record of every request."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from paceline.runtime import AdaptiveAnswer
from paceline.slo import Proportion, percentile


def run_figures(answers: Sequence[AdaptiveAnswer]) -> dict[str, float]:
    """Return adherence with its 95 % interval, latencies in milliseconds and how often each configuration was taken.

    `bound_ms` is the mean of the promised bounds, left out where the controller promises none. Of requests with several
    pictures, or with none, no controller promises anything: they lower `promised`.
    """
    kept = Proportion(successes=sum(each.within_budget for each in answers), count=len(answers))
    interval = kept.interval()
    bounds = [each.bound_ms for each in answers if each.bound_ms is not None]
    measured = [each.measured_ms for each in answers]
    taken = Counter(each.config.key for each in answers)
    return {
        "requests": float(len(answers)),
        "budget_ms": answers[0].budget_ms,
        "adherence": kept.share,
        "adherence_low": interval.low,
        "adherence_high": interval.high,
        "promised": fmean(each.promised for each in answers),
        "latency_ms": fmean(measured),
        "latency_p95_ms": percentile(measured, 95),
        "ttft_ms": fmean(each.times.ttft_ms for each in answers),
        **({"bound_ms": fmean(bounds)} if bounds else {}),
        **{f"config_{key}": float(count) for key, count in sorted(taken.items())},
    }


def request_record(task: str, doc_id: object, answer: AdaptiveAnswer) -> dict[str, Any]:
    """Return one request as the file of records holds it, a JSON line."""
    return {
        "task": task,
        "doc_id": doc_id,
        "config": answer.config.key,
        "budget_ms": answer.budget_ms,
        "latency_kind": answer.latency_kind,
        "predicted_ms": answer.predicted_ms,
        "bound_ms": answer.bound_ms,
        "measured_ms": answer.measured_ms,
        "ttft_ms": answer.times.ttft_ms,
        "promised": answer.promised,
        "within_budget": answer.within_budget,
        "output_tokens": answer.times.output_tokens,
    }
