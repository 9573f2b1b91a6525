import time
from contextlib import nullcontext
from dataclasses import replace
from statistics import median
from types import SimpleNamespace

import pytest
from thread_clock import ThreadClock

from paceline.measure.verify import CACHE_LIMIT, KnobCheck, TierTokens, Verification, overhead_ratios, verify
from paceline.models.critical_section import replaced
from paceline.records import KnobGrid
from paceline.slo import Interval

RANKING = (7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1)


@pytest.fixture
def in_processor_time(monkeypatch):
    clock = SimpleNamespace(perf_counter=time.thread_time)
    for module in ("one_pass", "verify"):
        monkeypatch.setattr(f"paceline.measure.{module}.time", clock)
    monkeypatch.setattr("paceline.measure.verify.clock_for", lambda *_: ThreadClock())


def test_the_embedded_model_passes_its_verification(digits, questions, in_processor_time):
    seen = []
    grid = KnobGrid(tiers=("low", "high"), top_ks=(2, 8), block_counts=(8, 16))
    record = verify(digits, questions[0], grid, RANKING, pairs=12, on_progress=lambda *at: seen.append(at))
    assert record.cache_max_abs_diff < CACHE_LIMIT and record.restore_max_abs_diff == 0
    assert record.stage_closure <= 0.01 and record.other_share <= 0.15
    assert all(check is not None and check.works for check in record.knobs.values())
    assert record.knobs["tier"].moves_latency and record.knobs["num_active_blocks"].moves_latency
    assert seen[-1] == (7, 7)


def test_a_knob_that_does_nothing_is_found(digits, questions, monkeypatch):
    """Take the routers away: setting top_k then changes nothing, and the record says so."""
    monkeypatch.setattr(
        "paceline.models.knobs.replaced",
        lambda owner, name, value: nullcontext() if name == "top_k" else replaced(owner, name, value),
    )
    grid = KnobGrid(tiers=("low",), top_ks=(2, 8), block_counts=(16,))
    record = verify(digits, questions[0], grid, RANKING, pairs=12)
    assert record.knobs["top_k"].works is False
    assert "the knob top_k has no effect" in record.failures
    assert record.knobs["tier"] is None


def test_a_tier_that_moves_no_picture_is_told_with_its_caps():
    tokens = tuple(
        TierTokens(tier=tier, vision_tokens=30, image_tokens=30, cap=cap)
        for tier, cap in (("low", 576), ("high", 1152))
    )
    idle = {"tier": KnobCheck(works=False, moves_latency=False, detail="")}
    (told,) = record(knobs=idle, tier_tokens=tokens).failures
    assert told.startswith("the knob tier has no effect: the picture takes 30 image tokens under every tier")
    assert "low 576, high 1152" in told and "tier_token_caps in the model's paceline.json" in told
    moved = (tokens[0], replace(tokens[1], image_tokens=60))
    assert record(knobs=idle, tier_tokens=moved).failures == ["the knob tier has no effect"]


def record(**changes):
    good = {
        "model": "m",
        "knobs": {"tier": KnobCheck(works=True, moves_latency=True, detail="")},
        "cache_max_abs_diff": 1e-5,
        "restore_max_abs_diff": 0.0,
        "stage_closure": 0.0001,
        "other_share": 0.08,
        "mean_total_ms": 40.0,
        "hook_overhead": 0.001,
        "hook_overhead_interval": Interval(low=-0.002, high=0.004),
        "pairs": 60,
    }
    good |= {"lacking": {}, "unsupported_modes": ()}
    return Verification(**{**good, **changes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cache_max_abs_diff": 2e-3}, "cached and uncached logits differ"),
        ({"restore_max_abs_diff": 1e-9}, "not restored"),
        ({"stage_closure": 0.02}, "stages miss the total"),
        ({"other_share": 0.16}, "unattributed"),
        ({"other_share": 0.03, "mean_total_ms": 1500.0}, "unattributed"),
        ({"hook_overhead": 0.03, "hook_overhead_interval": Interval(low=0.02, high=0.04)}, "hooks cost"),
    ],
)
def test_each_limit_is_judged(change, said):
    assert record().failures == []
    (failure,) = record(**change).failures
    assert said in failure


def test_overhead_compares_as_many_pairs_as_asked(digits, request_high):
    ratios = overhead_ratios(digits, request_high, pairs=9)
    # one pair may meet a stall of the machine, most of nine do not
    assert len(ratios) == 9 and min(ratios) > 0 and 0.2 < median(ratios) < 5
