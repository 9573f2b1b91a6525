"""Steps planned by hand; the properties over random loads are in tests/property/test_planner.py."""

from typing import Any

import pytest

from paceline.errors import InvalidValueError
from paceline.schedule import (
    DecodeLoad,
    EncoderBudget,
    LinearStepTime,
    PlannerSettings,
    PrefillRequest,
    PromptImage,
    StepPlan,
    plan_step,
)

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
        queue_number=round(arrival),
        arrival_seconds=arrival,
        **{"prompt_tokens": remaining, **other, "remaining_tokens": remaining},
    )


def image(start: int, tokens: int, *, name: str = "image", compute: int | None = None, cache: int | None = None):
    return PromptImage(
        identifier=name,
        start=start,
        end=start + tokens,
        compute_embeds=tokens if compute is None else compute,
        cache_embeds=tokens if cache is None else cache,
    )


def plan(
    *waiting: PrefillRequest,
    decodes: int = 0,
    partial: tuple[PrefillRequest, ...] = (),
    room: int = 100,
    encoder: EncoderBudget | None = None,
    **own: Any,
) -> StepPlan:
    return plan_step(
        settings=PlannerSettings(**{"chunk_size": 100, **own}),
        decodes=DecodeLoad(tokens=decodes, context_tokens=10 * decodes),
        partial=partial,
        waiting=waiting,
        room=room,
        step_time=MODEL,
        encoder=encoder,
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
    # 10 tokens fit 17 ms, fewer than the threshold; 25 are useful then
    assert plan(request("a", 80), decodes=40, target_time_ms=17.0, min_chunk_threshold=25).chunks == {"a": 25}


def test_the_target_is_never_below_the_decodes_and_one_useful_chunk() -> None:
    # 40 decodes alone take 12 ms; a step with 6 tokens alone takes 5 ms, 0.4 of which is its base
    crowded = plan(request("a", 80), decodes=40, target_time_ms=5.0)
    assert (crowded.chunks, crowded.predicted_ms) == ({"a": 6}, 15.0)
    assert plan(request("a", 80), decodes=40, target_time_ms=5.0, target_base_share=0.5).chunks == {"a": 4}
    assert plan(request("a", 80), decodes=40, target_time_ms=5.0, target_base_share=0.1).chunks == {"a": 36}
    assert plan(request("a", 80), decodes=40, target_time_ms=5.0, target_base_share=1.0).chunks == {"a": 1}
    # the useful chunk is the step's: who needs less of it leaves it to the next
    assert plan(request("a", 3), request("b", 80), decodes=40, target_time_ms=5.0).chunks == {"a": 3, "b": 3}


def test_where_nothing_decodes_the_target_cuts_nothing() -> None:
    assert plan(request("a", 80), request("b", 80), target_time_ms=24.0).chunks == {"a": 80, "b": 20}


def test_an_empty_step_makes_progress_past_threshold_and_size() -> None:
    assert plan(request("a", 110), min_chunk_tokens=60).chunks == {"a": 100}
    # an image must be whole, whatever the largest chunk is otherwise
    assert plan(request("a", 80, images=(image(0, 30),)), indivisible_tokens=30, min_chunk_tokens=100).chunks == {
        "a": 80
    }


def test_an_image_waits_for_a_step_that_holds_it() -> None:
    picture = request("a", 300, images=(image(0, 60),))
    assert plan(picture, decodes=50, indivisible_tokens=60).chunks == {}
    assert plan(picture, decodes=40, indivisible_tokens=60).chunks == {"a": 60}
    later = request("a", 300, images=(image(20, 60), image(85, 40, name="other")))
    assert plan(later, decodes=50, indivisible_tokens=60).chunks == {"a": 20}
    assert plan(later, indivisible_tokens=60).chunks == {"a": 85}
    assert plan(later, decodes=50).chunks == {"a": 50}  # where images may be split


def test_a_chunk_ends_before_the_image_that_the_encoder_does_not_take() -> None:
    budget = EncoderBudget(compute_embeds=60, cache_embeds=100)
    two = request("a", 200, images=(image(10, 40), image(60, 40, name="other")))
    assert plan(two, encoder=budget).chunks == {"a": 60}
    assert plan(two, encoder=EncoderBudget(compute_embeds=80, cache_embeds=79)).chunks == {"a": 60}
    assert plan(two, encoder=EncoderBudget(compute_embeds=80, cache_embeds=80)).chunks == {"a": 100}
    cached = request("a", 200, images=(image(10, 40, compute=0), image(60, 40, name="other")))
    assert plan(cached, encoder=budget).chunks == {"a": 100}
    assert plan(cached, encoder=EncoderBudget(compute_embeds=60, cache_embeds=79)).chunks == {"a": 60}
    twice = request("a", 200, images=(image(10, 40), image(60, 40)))  # the same image
    assert plan(twice, encoder=budget).chunks == {"a": 100}


def test_two_requests_share_an_image_and_the_encoders_budget() -> None:
    budget = EncoderBudget(compute_embeds=50, cache_embeds=50)
    first = request("a", 40, images=(image(0, 40),))
    assert plan(first, request("b", 50, arrival=1.0, images=(image(0, 40),)), encoder=budget).chunks == {
        "a": 40,
        "b": 50,
    }
    other = request("b", 50, arrival=1.0, images=(image(10, 40, name="other"),))
    assert plan(first, other, request("c", 5, arrival=2.0), encoder=budget).chunks == {"a": 40, "b": 10, "c": 5}


def test_what_holds_the_encoders_room_gets_on_where_the_first_in_order_cannot() -> None:
    # `inside` is computing its image, which fills the cache: nothing but its progress frees it
    inside = request("inside", 300, prompt_tokens=400, context_tokens=30, images=(image(0, 90, compute=0, cache=0),))
    short = request("short", 90, arrival=1.0, prompt_tokens=100, context_tokens=10, images=(image(10, 60, name="b"),))
    full = EncoderBudget(compute_embeds=90, cache_embeds=20)
    for policy in ("spf", "srtf", "aging"):
        assert plan(partial=(inside, short), encoder=full, policy=policy).chunks == {"inside": 100}
        # a waiting one is not passed by another that waits
        chunks = plan(short, request("tiny", 3, arrival=2.0), partial=(inside,), encoder=full, policy="fcfs").chunks
        assert chunks == {"inside": 100}
    held = plan(short, request("last", 95, arrival=2.0), partial=(request("other", 96),), encoder=full, policy="srtf")
    assert held.chunks == {"other": 96}


def test_a_lower_priority_number_goes_first_and_preempted_ones_within_it() -> None:
    urgent, plain = request("urgent", 60, arrival=9.0, priority=-1), request("plain", 60, arrival=1.0)
    again = request("again", 60, arrival=5.0, resumed=True)
    for policy in ("fcfs", "spf", "srtf", "aging"):
        assert list(plan(urgent, again, plain, policy=policy, chunk_size=200).chunks) == ["urgent", "again", "plain"]
    assert list(plan(urgent, partial=(plain,)).chunks) == ["urgent", "plain"]


def test_first_come_is_by_the_order_of_queueing_and_not_by_a_clock() -> None:
    first = request("first", 60, arrival=600.0)
    later = PrefillRequest(
        request_id="later", queue_number=601, arrival_seconds=0.0, prompt_tokens=60, remaining_tokens=60
    )
    assert list(plan(first, later).chunks) == ["first", "later"]


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
    ],
)
def test_impossible_requests_cannot_be_built(changes: dict[str, int], name: str) -> None:
    cells = {"request_id": "a", "queue_number": 0, "arrival_seconds": 0.0, "prompt_tokens": 5, "remaining_tokens": 5}
    with pytest.raises(InvalidValueError, match=name):
        PrefillRequest(**{**cells, **changes})
    with pytest.raises(InvalidValueError, match="decode load"):
        DecodeLoad(tokens=-1, context_tokens=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": -1}, "tokens of an image"),
        ({"end": 3}, "tokens of an image"),
        ({"compute_embeds": -1}, "embeddings of an image"),
        ({"cache_embeds": -1}, "embeddings of an image"),
    ],
)
def test_impossible_images_and_budgets_cannot_be_built(changes: dict[str, int], message: str) -> None:
    cells: dict[str, Any] = {"identifier": "a", "start": 3, "end": 9, "compute_embeds": 6, "cache_embeds": 6}
    with pytest.raises(InvalidValueError, match=message):
        PromptImage(**{**cells, **changes})
    with pytest.raises(InvalidValueError, match="encoder budget"):
        EncoderBudget(compute_embeds=-1, cache_embeds=0)
