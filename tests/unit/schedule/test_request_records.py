from typing import Any

import pytest

from paceline.errors import InvalidValueError
from paceline.schedule import (
    REQUEST_METRICS,
    RequestTimes,
    TraceRequest,
    ttft_adherence,
    ttft_goodput_per_second,
)
from paceline.slo import Proportion

CELLS: dict[str, Any] = {
    "request_id": "a",
    "arrival_seconds": 10.0,
    "first_scheduled_seconds": 11.0,
    "first_token_seconds": 13.0,
    "completion_seconds": 17.0,
    "execution_seconds": 5.5,
    "prompt_tokens": 100,
    "output_tokens": 9,
}


def times(**changes: Any) -> RequestTimes:
    return RequestTimes(**{**CELLS, **changes})


def test_metrics_by_hand() -> None:
    assert {name: metric(times()) for name, metric in REQUEST_METRICS.items()} == {
        "request_execution_time": 5.5,
        "request_execution_time_normalized": pytest.approx(5.5 / 109),
        "prefill_e2e_time": 3.0,
        "prefill_time_execution_plus_preemption_normalized": 0.02,
        "decode_time_execution_plus_preemption_normalized": 0.5,  # 8 tokens after the first, in 4 s
    }
    assert (times().ttft_ms, times().tpot_ms) == (3000.0, 500.0)


def test_one_output_token_has_no_decode_metric() -> None:
    single = times(output_tokens=1, completion_seconds=13.0)
    assert single.tpot_ms is None
    assert REQUEST_METRICS["decode_time_execution_plus_preemption_normalized"](single) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_scheduled_seconds": 9.9}, "times of request 'a'.*arrival ≤ first scheduled ≤ first token ≤ compl"),
        ({"first_token_seconds": 10.5}, "times of request"),
        ({"completion_seconds": float("nan")}, "times of request"),
        ({"execution_seconds": -0.1}, "execution_seconds"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"output_tokens": 2.5}, "output_tokens"),
        ({"preemptions": -1}, "preemptions"),
        ({"ttft_budget_ms": 0.0}, "ttft_budget_ms"),
    ],
)
def test_impossible_times_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        times(**changes)


def test_adherence_and_goodput_count_only_requests_with_a_budget() -> None:
    requests = [times(ttft_budget_ms=3000.0), times(ttft_budget_ms=2999.0), times(ttft_budget_ms=5000.0), times()]
    assert ttft_adherence(requests) == Proportion(successes=2, count=3)
    assert ttft_goodput_per_second(requests, duration_seconds=4.0) == 0.5
    assert ttft_adherence([times()]) is None
    assert ttft_goodput_per_second([times()], duration_seconds=4.0) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"arrival_seconds": -1.0},
        {"arrival_seconds": float("inf")},
        {"prompt_tokens": 0},
        {"output_tokens": True},
        {"ttft_budget_ms": -5.0},
    ],
)
def test_impossible_trace_requests_cannot_be_built(changes: dict[str, Any]) -> None:
    cells = {"request_id": "a", "arrival_seconds": 0.0, "prompt_tokens": 5, "output_tokens": 5}
    TraceRequest(**cells)
    with pytest.raises(InvalidValueError, match=next(iter(changes))):
        TraceRequest(**{**cells, **changes})
