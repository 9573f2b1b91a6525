import pytest

from paceline.errors import RequestRefusedError
from paceline.wire.budget import AskedBudget, read_budget


def test_a_body_says_a_budget_and_what_to_do_without_one_that_fits():
    assert read_budget({}, []) is None
    assert read_budget({"latency_budget_ms": None}, [(b"accept", b"*/*")]) is None
    assert read_budget({"latency_budget_ms": 300}, []) == AskedBudget(ms=300.0)
    fields = {"latency_budget_ms": 0.5, "latency_budget_kind": "total", "on_infeasible": "refuse"}
    assert read_budget(fields, []) == AskedBudget(ms=0.5, kind="total", on_infeasible="refuse")


@pytest.mark.parametrize("name", [b"x-llm-d-slo-ttft-ms", b"x-slo-ttft-ms", b"x-sgl-ttft-slo-ms"])
def test_headers_of_gateways_are_budgets_of_the_first_token(name):
    assert read_budget({}, [(name, b" 250.5 ")]) == AskedBudget(ms=250.5)
    assert read_budget({"latency_budget_ms": 250}, [(name, b"250")]) == AskedBudget(ms=250)


@pytest.mark.parametrize("name", [b"request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"])
def test_a_ceiling_of_the_whole_is_a_total_budget_and_never_one_of_the_first_token(name):
    assert read_budget({}, [(name, b"15000")]) == AskedBudget(ms=15000, kind="total", from_proxy=True)
    assert read_budget({"latency_budget_ms": 300}, [(name, b"15000")]) == AskedBudget(ms=300)
    both = {"latency_budget_ms": 15000, "latency_budget_kind": "total"}
    assert read_budget(both, [(name, b"15000")]) == AskedBudget(ms=15000, kind="total")


@pytest.mark.parametrize(
    ("fields", "headers", "param", "says"),
    [
        (
            {"latency_budget_ms": 300},
            [(b"x-slo-ttft-ms", b"200")],
            "x-slo-ttft-ms",
            "300 ms and x-slo-ttft-ms says 200",
        ),
        ({}, [(b"x-slo-ttft-ms", b"200"), (b"x-slo-ttft-ms", b"201")], "x-slo-ttft-ms", "expected one budget"),
        (
            {},
            [(b"request-timeout-ms", b"1"), (b"x-envoy-expected-rq-timeout-ms", b"2")],
            "x-envoy-expected-rq-timeout-ms",
            "one",
        ),
        (
            {"latency_budget_ms": 9, "latency_budget_kind": "total"},
            [(b"x-slo-ttft-ms", b"9")],
            "latency_budget_kind",
            "of them",
        ),
        ({"latency_budget_kind": "ttft"}, [], "latency_budget_kind", "expected latency_budget_ms too"),
        ({"latency_budget_ms": 9, "latency_budget_kind": "tpot"}, [], "latency_budget_kind", "expected ttft or total"),
        ({"latency_budget_ms": 9, "on_infeasible": []}, [], "on_infeasible", "expected degrade or refuse"),
        *(
            ({"latency_budget_ms": value}, [], "latency_budget_ms", "above 0 and at most 3,600,000")
            for value in (0, -1, 3_600_001, float("nan"), float("inf"), 10**400, "300", True, [300], {})
        ),
        *(
            ({}, [(b"x-slo-ttft-ms", value)], "x-slo-ttft-ms", "above 0 and at most 3,600,000")
            for value in (b"0", b"-1", b"3600001", b"nan", b"inf", b"1e3", b"", b"\xff", b"0x10", b"1" * 400)
        ),
    ],
)
def test_what_is_no_budget_is_refused_with_the_field_and_what_was_expected(fields, headers, param, says):
    with pytest.raises(RequestRefusedError, match="expected") as refused:
        read_budget(fields, headers)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert says in str(refused.value)
