"""`paceline warm-up` before a real vLLM whose caches of prompts and of pictures are on, as they are by default."""

import time
from statistics import median

import pytest
from budget_server import budget_server

from paceline.quick.asking import Caller
from paceline.remote import ServerAddress
from paceline.warm_up.requests import WarmUpRequests
from paceline.warm_up.warming import WarmUp

SIZES_PX, WORDS, BUDGETS_MS = [(160, 160), (192, 128), (128, 192)], [3, 9], [10_000.0]
NEW = 20  # requests with pictures that were not there before


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    with budget_server(tmp_path_factory.mktemp("warm_up"), "--mm-processor-cache-gb", "1") as started:
        yield Caller(address=ServerAddress.parse(started.address), clock=time.monotonic)


def counted(caller):
    """What came from vLLM's caches: tokens of prompts, and pictures, each beside how many were looked for."""
    _, page = caller.get("/metrics", timeout_seconds=60)
    values = dict.fromkeys(("prefix_cache_hits", "prefix_cache_queries", "mm_cache_hits", "mm_cache_queries"), 0.0)
    for line in page.decode().splitlines():
        name = line.removeprefix("vllm:").partition("_total{")[0]
        if name in values:
            values[name] += float(line.rsplit(" ", 1)[1])
    return values


def report(caller, body):
    answer = caller.ask(body | {"stream_options": {"include_usage": True}}, timeout_seconds=300)
    assert answer.error is None and answer.report is not None, answer
    return answer.report


def test_no_cache_answers_a_warm_up_and_bounds_hold_for_pictures_that_come_after_it(caller):
    requests = WarmUpRequests(seed=1, sizes_px=SIZES_PX, words=WORDS, budgets_ms=BUDGETS_MS)
    result = WarmUp(caller, requests).run()
    assert result.calibration.reached and result.calibration.requests == 45 and result.asked >= 48
    found = counted(caller)
    assert found["mm_cache_queries"] >= result.asked and found["mm_cache_hits"] == 0
    # of each prompt at most the chat template's own first tokens, which every request has
    assert (
        found["prefix_cache_queries"] > 50 * result.asked
        and found["prefix_cache_hits"] <= 0.05 * found["prefix_cache_queries"]
    )

    later = WarmUpRequests(seed=2, sizes_px=SIZES_PX, words=WORDS, budgets_ms=BUDGETS_MS)
    bodies = [later.next_body("digits") for _ in range(NEW)]
    new = [report(caller, body) for body in bodies]
    assert all(each["bound_ms"] is not None and each["promised"] for each in new)
    assert median(each["ttft_ms"] / each["bound_ms"] for each in new) < 1.5

    before = counted(caller)
    for _ in range(NEW):  # what a warm-up must not do
        report(caller, bodies[0])
    after = counted(caller)
    assert after["mm_cache_hits"] - before["mm_cache_hits"] == NEW
    assert after["prefix_cache_hits"] - before["prefix_cache_hits"] > NEW * 32
