import json
from dataclasses import replace

import pytest
from PIL import Image

from paceline.errors import InvalidValueError
from paceline.lmms_plugin.chat import DEFAULT_MAX_NEW_TOKENS, chat_request, cut_at
from paceline.lmms_plugin.figures import request_record, run_figures
from paceline.records import KnobConfig, StageTimes
from paceline.runtime import AdaptiveAnswer

PICTURE, OTHER = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (5, 9), "blue")


def message(*contents, role="user"):
    return {
        "role": role,
        "content": [dict(type=kind, **{"text" if kind == "text" else "url": v}) for kind, v in contents],
    }


def test_a_picture_and_its_text_become_one_request():
    messages = [message(("image", PICTURE), ("text", "Be short."), ("text", "What is it?"))]
    asked = chat_request(messages, {"max_new_tokens": 16, "until": ["\n\n"], "temperature": 0}, name="document 3")
    assert (asked.max_new_tokens, asked.until) == (16, ("\n\n",))
    assert asked.asked == {"image": PICTURE, "prompt": "Be short.\nWhat is it?"}


@pytest.mark.parametrize(
    "contents",
    [
        [("image", PICTURE), ("image", OTHER), ("text", "Which is larger?")],
        [("text", "Look:"), ("image", PICTURE), ("text", "What is it?")],
        [("image", PICTURE)],
        [("text", "What is red?")],
    ],
)
def test_any_other_document_is_the_chat_that_it_is_with_every_picture_by_itself(contents):
    asked = chat_request([message(*contents)], {"until": "x"}, name="d")
    assert asked.until == ("x",) and asked.max_new_tokens == DEFAULT_MAX_NEW_TOKENS
    [sent] = asked.asked["messages"]
    assert sent["role"] == "user"
    assert [(part["type"], part.get("image", part.get("text"))) for part in sent["content"]] == contents
    system = message(("text", "Be short."), role="system")
    chat = chat_request([system, message(("image", PICTURE), ("text", "?"))], {}, name="d").asked["messages"]
    assert [each["role"] for each in chat] == ["system", "user"]


@pytest.mark.parametrize(
    ("contents", "settings", "words"),
    [
        ([("video", "film.mp4"), ("text", "?")], {}, "content of document 1 is 'video'"),
        ([("image", PICTURE), ("text", "?")], {"temperature": 0.7}, "temperature of document 1 is 0.7"),
        ([("image", PICTURE), ("text", "?")], {"do_sample": True}, "do_sample of document 1 is True"),
        ([("image", PICTURE), ("text", "?")], {"num_beams": 4}, "num_beams of document 1 is 4"),
    ],
)
def test_what_cannot_be_steered_is_refused(contents, settings, words):
    with pytest.raises(InvalidValueError, match=words):
        chat_request([message(*contents)], settings, name="document 1")


def test_answers_end_where_the_task_says():
    assert (
        cut_at("red\n\nbecause", ["\n\n", "."]) == "red" and cut_at("a. b", ["", "."]) == "a" and cut_at("x", []) == "x"
    )


def answer(measured_ms, *, bound_ms=12.0, tier="low", promised=True):
    times = StageTimes(
        preprocess_ms=1.0,
        before_vision_ms=0.0,
        vision_ms=4.0,
        vision_to_decoder_ms=0.0,
        llm_prefill_ms=5.0,
        first_token_to_decode_ms=0.0,
        decode_ms=2.0,
        after_last_step_ms=0.0,
        total_ms=11.0,
        output_tokens=2,
    )
    return AdaptiveAnswer(
        text="red",
        config=KnobConfig(tier=tier, top_k=4, num_active_blocks=8),
        budget_ms=11.0,
        latency_kind="ttft",
        predicted_ms=10.0,
        bound_ms=bound_ms,
        measured_ms=measured_ms,
        promised=promised,
        refused=False,
        within_budget=measured_ms <= 11.0,
        outside=(),
        vision_tokens=16,
        text_tokens=8,
        times=times,
        waited_ms=0.0,
        features_us=1.0,
        decision_us=1.0,
    )


def test_a_run_says_what_became_of_its_budget():
    found = run_figures([answer(10.0), answer(12.0, tier="high"), answer(9.0), answer(10.5, promised=False)])
    assert found["adherence"] == 0.75 and found["promised"] == 0.75 and found["budget_ms"] == 11.0
    assert found["adherence_low"] < 0.75 < found["adherence_high"]
    assert found["ttft_ms"] == 10.0 and found["bound_ms"] == 12.0 and found["latency_ms"] == pytest.approx(10.375)
    assert (found["config_low_4_8"], found["config_high_4_8"]) == (3.0, 1.0)
    assert "bound_ms" not in run_figures([answer(10.0, bound_ms=None)])
    record = request_record("task", 7, replace(answer(10.0)))
    assert json.loads(json.dumps(record))["config"] == "low_4_8" and record["doc_id"] == 7 and record["ttft_ms"] == 10.0
