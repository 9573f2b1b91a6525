"""Chat completions over real sockets, from a made-up model: written, measured, ended and handed back."""

import asyncio
import json
import threading
import time
from http.client import HTTPConnection

import pytest
from serving_desk import Client, calibrated_desk
from serving_host import ToldModel, ask, chat, listening, stop, told_server

from paceline.server.limits import Limits


@pytest.fixture(scope="module")
def told():
    served = told_server()
    with listening(served) as port:
        yield served, port


def test_without_a_budget_all_of_the_model_answers(told):
    served, port = told
    reply = ask(port, chat(picture=False, stop=["x"], temperature=0.5, seed=3, max_tokens=9))
    assert reply.status == 200 and reply.text == "4 2" and "paceline" not in reply.document
    assert reply.document["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert reply.document["choices"][0]["finish_reason"] == "stop" and reply.document["object"] == "chat.completion"
    question, config, caps = served.host.model.asked[-1]
    assert config == served.host.model.whole() and caps is None
    assert (question.max_tokens, question.stops, question.sampling.seed) == (9, ("x",), 3)
    assert reply.headers["x-request-id"] == reply.document["id"]


@pytest.mark.parametrize(
    "asked",
    [
        {"min_tokens": 5},
        {"stop_token_ids": [7]},
        {"bad_words": ["x"]},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"guided_json": {"type": "object"}},
        {"regex": "[0-9]+"},
        {"skip_special_tokens": False},
        {"prompt_logprobs": 1},
        {"continue_final_message": True},
    ],
)
def test_what_other_servers_do_and_this_one_does_not_is_refused_by_name(told, asked):
    _, port = told
    (name,) = asked
    reply = ask(port, chat(picture=False, **asked))
    error = reply.document["error"]
    assert (reply.status, error["code"], error["param"]) == (400, "unsupported_value", name)
    assert name in error["message"]


def test_what_changes_nothing_is_passed_over(told):
    _, port = told
    harmless = {"min_tokens": 0, "stop_token_ids": [], "skip_special_tokens": True, "length_penalty": 1.0, "user": "u"}
    assert ask(port, chat(picture=False, **harmless)).status == 200
    assert ask(port, chat(picture=False, min_tokens=2, max_tokens=2, ignore_eos=True)).status == 200


def test_a_budget_becomes_a_configuration_a_report_and_stages(told):
    served, port = told
    reply = ask(port, chat(20))
    report = reply.document["paceline"]
    question, config, _ = served.host.model.asked[-1]
    assert config.key == reply.headers["x-paceline-config"]
    assert report["config"] == {
        "tier": config.tier,
        "top_k": config.top_k,
        "num_active_blocks": config.num_active_blocks,
    }
    assert 0 < report["ttft_ms"] <= report["total_ms"] and report["image_tokens"] > 0
    names = [each.split(";")[0] for each in reply.headers["server-timing"].split(", ")]
    assert names == ["preprocess", "queue", "vision", "prefill"] and len(question.pictures) == 1


def test_a_stream_says_what_the_whole_answer_says(told):
    _, port = told
    for budget in (None, 20):
        whole, stream = ask(port, chat(budget)), ask(port, chat(budget, stream=True))
        assert stream.headers["content-type"].startswith("text/event-stream") and stream.text == whole.text
        opening, *_, last = stream.events
        assert opening["choices"][0]["delta"]["role"] == "assistant"
        assert ("paceline" in last) == (budget is not None) == (last["choices"] == [])
        finishes = [choice["finish_reason"] for event in stream.events for choice in event["choices"]]
        assert finishes[-1] == "stop" and not any(finishes[:-1])
    usage = ask(port, chat(stream=True, stream_options={"include_usage": True})).events[-1]
    assert usage["choices"] == [] and usage["usage"] == whole.document["usage"]


def test_the_recent_reports_hold_stages_and_no_word_of_a_prompt(told):
    _, port = told
    ask(port, chat(20))
    recent = ask(port, path="/paceline/recent").document
    assert recent[-1]["answered"] and set(recent[-1]["stages"]) == {
        "queue",
        "preprocess",
        "vision",
        "prefill",
        "decode",
    }
    assert recent[-1]["budget_ms"] == 20 and "How many" not in json.dumps(recent)


def test_models_health_and_metrics(told):
    _, port = told
    models = ask(port, path="/v1/models").document
    assert [each["id"] for each in models["data"]] == ["m"]
    assert ask(port, path="/v1/models/m").document == models["data"][0]
    assert ask(port, path="/v1/models/other").document["error"]["code"] == "model_not_found"
    assert ask(port, path="/health").document == {"status": "ok", "running": 0, "waiting": 0}
    page = ask(port, path="/metrics").body.decode()
    for name in ("vllm:time_to_first_token_seconds_count", "vllm:generation_tokens_total", "paceline:promises_total"):
        assert name in page
    assert ask(port, path="/nothing").document["error"]["code"] == "not_found"


REFUSED = [
    ({"n": 2}, 400, "n"),
    ({"logprobs": True}, 400, "logprobs"),
    ({"tools": [{"type": "function"}], "tool_choice": "required"}, 400, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ({"model": "other"}, 404, "model"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "messages"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"temperature": -1}, 400, "temperature"),
    ({"seed": 2**40}, 400, "seed"),
    ({"stop": [""]}, 400, "stop"),
    ({"latency_budget_ms": -3}, 400, "latency_budget_ms"),
    ({"latency_budget_ms": "soon"}, 400, "latency_budget_ms"),
]


@pytest.mark.parametrize(("fields", "status", "param"), REFUSED)
def test_what_is_not_answered_is_refused_naming_the_field(told, fields, status, param):
    _, port = told
    reply = ask(port, chat(picture=False, **{"messages": chat(picture=False)["messages"], **fields}))
    error = reply.document["error"]
    assert (reply.status, error["param"]) == (status, param) and error["message"] and error["code"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b'"a"', b"\xff\xfe", b'{"messages": NaN}', b'{"messages":[{}]}']
)
def test_what_is_no_chat_is_400(told, body):
    _, port = told
    reply = ask(port, body)
    assert reply.status == 400 and reply.document["error"]["type"] == "invalid_request_error"


class BrokenModelError(Exception):
    pass


def test_a_model_that_fails_before_its_first_token_is_503_and_the_next_request_is_answered():
    def fails(number):
        if failing:
            raise BrokenModelError

    failing, lines = [1], []
    with listening(told_server(ToldModel(at=fails), log=lines.append)) as port:
        reply = ask(port, chat(20))
        assert (reply.status, reply.document["error"]["code"]) == (503, "engine_failed")
        assert reply.headers["retry-after"] == "1" and "BrokenModelError" in reply.document["error"]["message"]
        failing.clear()
        assert ask(port, chat(20)).status == 200
    assert [json.loads(line)["error"] for line in lines] == ["engine_failed", None]


def test_a_model_that_fails_in_the_middle_of_a_stream_ends_it_with_an_error_event():
    def fails(number):
        if number == 1:
            raise BrokenModelError

    with listening(told_server(ToldModel(at=fails))) as port:
        reply = ask(port, chat(20, stream=True))
        assert reply.status == 200 and "error" in reply.events[-1]
        assert reply.events[-1]["error"]["code"] == "engine_failed"
        assert ask(port, path="/health").document["running"] == 0


def held_model(tokens=1000):
    """A model whose second text waits until it is let go."""
    begun, go_on = threading.Event(), threading.Event()

    def at(number):
        if number == 1:
            begun.set()
            go_on.wait(30)

    return ToldModel(texts=["a"] * tokens, at=at), begun, go_on


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("budget", [None, 20])
def test_an_answer_whose_client_left_ends_at_its_next_token(stream, budget):
    model, begun, go_on = held_model()
    served, lines = told_server(model), []
    served.app.finished = lambda scope, visit: lines.append((visit.status, scope["paceline.outcome"].error))
    with listening(served) as port:
        connection = HTTPConnection("127.0.0.1", int(port), timeout=30)
        connection.request("POST", "/v1/chat/completions", json.dumps(chat(budget, stream=stream)))
        answer = connection.getresponse() if stream else None
        assert begun.wait(30)
        if answer is not None:
            answer.close()
        connection.close()
        until_left(served, port)
        go_on.set()
        assert ask(port, chat(budget)).status == 200
    assert model.unwanted_after[0] == 2 and model.most_running == 1
    assert lines[0][1] == "client_left" and len(served.desk.ledger) == 0


def until_left(served, port):
    """Return once the server has heard that the client is gone: what is unwanted is what it tells the model."""
    while not all(event.is_set() for event in served.engine._unwanted):
        ask(port, path="/health")


def test_a_waiting_client_that_leaves_is_forgotten():
    model, begun, go_on = held_model(3)
    with listening(served := told_server(model)) as port:
        first = threading.Thread(target=ask, args=(port, chat(20)))
        first.start()
        assert begun.wait(30)
        connection = HTTPConnection("127.0.0.1", int(port))
        connection.request("POST", "/v1/chat/completions", json.dumps(chat(20)))
        while ask(port, path="/health").document["waiting"] != 1:
            pass
        assert len(served.desk.ledger) == 2
        connection.close()
        while ask(port, path="/health").document["waiting"] != 0:
            pass
        go_on.set()
        first.join()
        while ask(port, path="/health").document["running"] != 0:
            pass
        assert len(served.desk.ledger) == 0 and len(model.asked) == 1


def test_a_budget_that_passes_while_its_request_waits_is_429_for_who_would_rather_be_refused():
    model, begun, go_on = held_model(3)
    with listening(told_server(model)) as port:
        first = threading.Thread(target=ask, args=(port, chat(None)))
        first.start()
        assert begun.wait(30)
        reply = ask(port, chat(20, on_infeasible="refuse"))
        assert (reply.status, reply.document["error"]["code"]) == (429, "budget_contended")
        go_on.set()
        first.join()
        late = ask(port, chat(0.001)).document["paceline"]
    assert late["within_budget"] is False and len(model.asked) == 2


def test_told_to_stop_it_hands_back_what_waits_and_finishes_what_runs():
    model, begun, go_on = held_model(3)
    served, replies = told_server(model), {}

    def asking(name):
        replies[name] = ask(port, chat(20))

    with listening(served) as port:
        threads = [threading.Thread(target=asking, args=(name,)) for name in ("running", "waiting")]
        threads[0].start()
        assert begun.wait(30)
        threads[1].start()
        while ask(port, path="/health").document["waiting"] != 1:
            pass
        stop(port.server)
        threads[1].join(30)
        go_on.set()
    threads[0].join(30)
    assert replies["running"].status == 200 and replies["running"].text == "aaa"
    assert replies["waiting"].status == 503 and replies["waiting"].headers["retry-after"] == "1"
    assert replies["waiting"].document["error"]["code"] == "server_stopping"


@pytest.mark.parametrize(
    ("grace_seconds", "told"), [(0.1, 1), (3600, 2)], ids=["the grace is over", "it is told twice"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_ends_at_its_next_token_once(grace_seconds, told, stream):
    model = ToldModel(texts=["a"] * 10_000, at=lambda number: time.sleep(0.001) if number else None)
    reply = []
    with listening(told_server(model, limits=Limits(grace_seconds=grace_seconds))) as port:
        thread = threading.Thread(target=lambda: reply.append(ask(port, chat(20, stream=stream))))
        thread.start()
        while not model.asked:
            pass
        for _ in range(told):
            stop(port.server)
    thread.join(60)
    assert reply[0].status == 200 and len(reply[0].text) < 10_000 and model.unwanted_after


def test_two_at_once_have_the_model_one_after_the_other():
    model = ToldModel(at=lambda number: time.sleep(0.002))
    with listening(told_server(model)) as port:
        replies = []
        threads = [threading.Thread(target=lambda: replies.append(ask(port, chat(20, stream=True)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [reply.text for reply in replies] == ["4 2"] * 8 and model.most_running == 1


def test_a_wall_clock_that_jumps_changes_no_time(monkeypatch):
    served = told_server(ToldModel(at=lambda number: monkeypatch.setattr(time, "time", lambda: 1e9)))
    with listening(served) as port:
        report = ask(port, chat(20)).document["paceline"]
    assert 0 < report["ttft_ms"] < 60_000 and report["ttft_ms"] <= report["total_ms"] < 60_000


def test_a_cancellation_at_every_await_leaves_the_model_free():
    def client():
        made = Client(chat(20, stream=True))
        made.scope |= {"query_string": b"", "root_path": "", "http_version": "1.1"}
        return made

    async def cancelled_after(turns):
        served = told_server()
        task = asyncio.ensure_future(client().ask(served.app))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = (served.engine.running, served.engine.waiting, len(served.desk.ledger), served.app.bodies_bytes)
        served.engine.close()
        return left

    for turns in range(60):
        assert asyncio.run(cancelled_after(turns)) == (0, 0, 0, 0), turns


def test_promises_over_http_are_kept_by_the_servers_own_calibration():
    with listening(told_server(**{"controllers": calibrated_desk().controllers})) as port:
        for _ in range(60):
            last = ask(port, chat(500)).document["paceline"]
    assert last["promised"] and last["bound_ms"] is not None and last["within_budget"]


def test_detail_low_is_a_cap_without_a_budget_too(told):
    served, port = told
    ask(port, chat(image={"detail": "low"}))
    assert served.host.model.asked[-1][1].tier == "low"
