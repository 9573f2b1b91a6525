"""Steps planned by hand; the properties over random loads are in tests/property/test_planner.py."""

from typing import Any

import pytest

from paceline.errors import InvalidValueError
from paceline.schedule import DecodeLoad, LinearStepTime, PlannerSettings, PrefillRequest, StepPlan, plan_step

MODEL = LinearStepTime(
    base_ms=2.0,
    per_decode_token_ms=0.25,
    per_decode_context_token_ms=0.0,
    per_prefill_token_ms=0.5,
    per_prefill_attention_token_ms=0.0,
)


def request(name: str, remaining: int, *, arrival: float = 0.0, **other: Any) -> PrefillRequest:
    return PrefillRequest(
        request_id=name,
        arrival_seconds=arrival,
        **{"prompt_tokens": remaining, **other, "remaining_tokens": remaining},
    )


def plan(
    *waiting: PrefillRequest, decodes: int = 0, partial: tuple[PrefillRequest, ...] = (), room: int = 100, **own: Any
) -> StepPlan:
    return plan_step(
        settings=PlannerSettings(**{"chunk_size": 100, **own}),
        decodes=DecodeLoad(tokens=decodes, context_tokens=10 * decodes),
        partial=partial,
        waiting=waiting,
        room=room,
        step_time=MODEL,
    )


def test_decodes_come_first_and_are_cut_only_by_the_budget() -> None:
    assert plan(request("a", 200), decodes=30).chunks == {"a": 70}
    crowded = plan(request("a", 200), decodes=130)
    assert (crowded.decode_tokens, crowded.chunks, crowded.admitted) == (100, {}, 0)


def test_a_short_waiting_request_passes_a_long_partial_one_under_srtf_and_aging() -> None:
    long = request("long", 500, arrival=0.0, prompt_tokens=600, context_tokens=100)
    short = request("short", 30, arrival=1.0)
    for policy in ("srtf", "aging"):
        assert plan(short, partial=(long,), policy=policy).chunks == {"short": 30, "long": 70}
    assert plan(short, partial=(long,), policy="fcfs").chunks == {"long": 100}


def test_spf_goes_by_the_prompt_and_srtf_by_what_remains() -> None:
    nearly_done = request("nearly done", 10, prompt_tokens=900, context_tokens=890)
    short = request("short", 95)
    assert list(plan(short, partial=(nearly_done,), policy="spf").chunks) == ["short", "nearly done"]
    assert list(plan(short, partial=(nearly_done,), policy="srtf").chunks) == ["nearly done", "short"]


def test_a_preempted_request_resumes_before_every_other() -> None:
    resumed = request("resumed", 90, arrival=9.0, resumed=True)
    assert list(plan(resumed, partial=(request("short", 5),), policy="srtf").chunks) == ["resumed", "short"]


def test_the_threshold_looks_at_what_is_left() -> None:
    first, second = request("a", 71), request("b", 5)
    assert plan(first, second, min_chunk_threshold=29).chunks == {"a": 71, "b": 5}
    assert plan(request("a", 72), second, min_chunk_threshold=29).chunks == {"a": 72}
    assert plan(request("a", 50), decodes=72, min_chunk_threshold=29).chunks == {}


def test_a_chunk_too_small_is_not_started_unless_it_finishes() -> None:
    assert plan(request("a", 50), decodes=70, min_chunk_tokens=40).chunks == {}
    assert plan(request("a", 30), decodes=70, min_chunk_tokens=40).chunks == {"a": 30}


def test_no_small_tail_is_left() -> None:
    assert plan(request("a", 110), min_chunk_tokens=20).chunks == {"a": 90}  # tail of 10 raised to 20
    assert plan(request("a", 70), decodes=10, max_chunk_tokens=60, min_chunk_tokens=20).chunks == {"a": 70}  # merged
    assert plan(request("a", 80), decodes=10, max_chunk_tokens=60, min_chunk_tokens=20).chunks == {"a": 60}
    assert plan(request("a", 100), decodes=20, min_chunk_tokens=60).chunks == {}  # 80 leaves 20, 40 is too small
    assert plan(request("a", 110), min_chunk_tokens=60).chunks == {"a": 100}  # the step would be empty: unavoidable


def test_the_step_ends_where_a_request_gets_nothing() -> None:
    assert plan(request("a", 50), request("b", 5, arrival=1.0), decodes=70, min_chunk_tokens=40).chunks == {}


def test_the_target_cuts_the_chunk_and_nothing_smaller_slips_in() -> None:
    cut = plan(request("a", 80), request("b", 4, arrival=1.0), decodes=8, target_time_ms=24.0)
    assert (cut.chunks, cut.predicted_ms) == ({"a": 40}, 24.0)
    assert plan(request("a", 80), decodes=40, target_time_ms=24.0, min_chunk_threshold=25).chunks == {}
    assert plan(request("a", 80), decodes=38, target_time_ms=24.0, min_chunk_threshold=25).chunks == {"a": 25}


def test_an_empty_step_makes_progress_past_target_threshold_and_size() -> None:
    # nothing fits 1 ms: the smallest chunk that the other settings call useful
    assert plan(request("a", 80), target_time_ms=1.0).chunks == {"a": 1}
    assert plan(request("a", 80), target_time_ms=1.0, min_chunk_tokens=30).chunks == {"a": 30}
    # 10 tokens fit 7 ms: within the target, though fewer than min_chunk_tokens
    assert plan(request("a", 80), target_time_ms=7.0, min_chunk_tokens=30).chunks == {"a": 10}
    # an image must be whole, whatever the target says
    assert plan(request("a", 80, indivisible_tokens=30), target_time_ms=7.0).chunks == {"a": 30}


def test_an_image_waits_for_a_step_that_holds_it() -> None:
    picture = request("a", 300, indivisible_tokens=60)
    assert plan(picture, decodes=50).chunks == {}
    assert plan(picture, decodes=40).chunks == {"a": 60}


def test_room_and_the_partial_limit_hold_waiting_requests_back_only() -> None:
    started = request("started", 40, arrival=5.0)
    assert plan(request("a", 30), partial=(started,), room=0).chunks == {"started": 40}
    assert plan(request("a", 30), request("b", 30), partial=(started,), room=1).chunks == {"a": 30, "started": 40}
    long, short = request("long", 300), request("short", 10, arrival=1.0)
    held = plan(long, short, partial=(started,), max_partial_prefills=1)
    assert held.chunks == {"started": 40}  # short does not pass long, which waits for started to end
    assert plan(request("a", 30), partial=(started,), max_partial_prefills=1).chunks == {"a": 30, "started": 40}
    assert plan(request("late", 300, arrival=9.0), partial=(started,), max_partial_prefills=1).chunks == {
        "started": 40,
        "late": 60,
    }


def test_nothing_to_do_is_an_empty_plan() -> None:
    empty = plan()
    assert (empty.chunks, empty.decode_tokens, empty.prefill_tokens, empty.admitted) == ({}, 0, 0, 0)


def test_a_target_without_a_model_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="step-time model"):
        plan_step(
            settings=PlannerSettings(chunk_size=100, target_time_ms=10.0),
            decodes=DecodeLoad(tokens=0, context_tokens=0),
            partial=[],
            waiting=[],
            room=1,
        )


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"remaining_tokens": 0}, "remaining"),
        ({"prompt_tokens": 0}, "prompt"),
        ({"context_tokens": -1}, "context"),
        ({"indivisible_tokens": -1}, "indivisible"),
    ],
)
def test_impossible_requests_cannot_be_built(changes: dict[str, int], name: str) -> None:
    cells = {"request_id": "a", "arrival_seconds": 0.0, "prompt_tokens": 5, "remaining_tokens": 5}
    with pytest.raises(InvalidValueError, match=name):
        PrefillRequest(**{**cells, **changes})
    with pytest.raises(InvalidValueError, match="decode load"):
        DecodeLoad(tokens=-1, context_tokens=0)
