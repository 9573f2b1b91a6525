import asyncio
import json

import pytest
from serving_desk import CONFIGS, Client, FakeServer, calibrated_desk, chat, new_desk, picture_url, table

from paceline.control.work_price import PriceSettings
from paceline.errors import InvalidValueError
from paceline.schedule import LoadCandidate, LoadController, LoadSettings, PlannerSettings, ServerLoad
from paceline.schedule.server_load import MILLISECONDS
from paceline.serving.answer import EngineTimes
from paceline.serving.desk import SMALLEST_LEFT_MS
from paceline.serving.middleware import CURRENT, FETCHED, RECEIVED, BudgetMiddleware


def ask(body, *, desk=None, server=None, **connection):
    server = server or FakeServer()
    middleware = BudgetMiddleware(server, desk or new_desk(), clock=Ticks(0.001), wall=lambda: 100.0)
    client = asyncio.run(Client(body, **connection).ask(middleware)) if isinstance(body, bytes | dict) else None
    return client, server


class Ticks:
    """A clock that goes on by so many seconds whenever it is read."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


UNTOUCHED = [
    b'{"model" : "m",  "messages":[{"role":"user","content":"h\xc3\xa9"}] , "seed": 12345678901234567890123}',
    b'{"model":"m","messages":[{"role":"user","content":"\\u00e9\\ud83d"}]}',
    b'{"model":"m","x":NaN,"vllm_xargs":{"session_id":"paceline_top_k"}}',
    b'{"latency_budget_ms":null,"model":"m"}',
    b'{"on_infeasible":"refuse"}',
    b'{"latency_budget_ms": 3',
    b"[1, 2]",
    b"",
    json.dumps({"model": "m", "messages": []}).encode("utf-16"),
    json.dumps(chat()).encode(),
]


@pytest.mark.parametrize("body", UNTOUCHED)
@pytest.mark.parametrize("parts", [1, 4])
def test_without_a_budget_a_body_passes_byte_for_byte(body, parts):
    client, server = ask(body, parts=parts)
    ((scope, received),) = server.received
    assert received == body
    assert scope is client.scope and client.status == 200
    assert not any(name.startswith("x-paceline") for name in client.headers)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/inference/v1/generate"])
def test_a_clients_own_knobs_are_stripped_and_named(path):
    body = {"model": "m", "vllm_xargs": {"paceline_top_k": 99, "a": 1}, "mm_processor_kwargs": {"size": {}}}
    client, server = ask(body, path=path)
    ((scope, received),) = server.received
    assert json.loads(received) == {"model": "m", "vllm_xargs": {"a": 1}}
    assert dict(scope["headers"])[b"content-length"] == str(len(received)).encode()
    assert client.headers["x-paceline-stripped"] == "mm_processor_kwargs, vllm_xargs.paceline_top_k"
    kept, server = ask(body, path=path, desk=new_desk(client_knobs=True))
    assert json.loads(server.received[0][1]) == body and "x-paceline-stripped" not in kept.headers


def test_a_budget_becomes_a_configuration_and_a_report():
    desk = calibrated_desk()
    client, server = ask(chat(30, temperature=0, vllm_xargs={"paceline_top_k": 99, "session": "s"}), desk=desk)
    sent = json.loads(server.received[0][1])
    assert not {"latency_budget_ms", "latency_budget_kind", "on_infeasible"} & set(sent)
    knobs = {"paceline_top_k": 8, "paceline_active_blocks": 16, "paceline_ttft_budget_ms": 30}
    assert sent["vllm_xargs"] == {"session": "s", **knobs}
    assert sent["mm_processor_kwargs"] == {"size": {"longest_edge": 40}} and sent["temperature"] == 0
    assert sent["messages"] == chat()["messages"]
    assert client.body.startswith(
        b'{"choices":[{"message":{"content":"42"}}],"usage":{"completion_tokens":1},"paceline":{'
    )
    report = client.document["paceline"]
    assert report["config"] == {"tier": "medium", "top_k": 8, "num_active_blocks": 16}
    assert (report["image_tokens"], report["budget_ms"], report["budget_kind"]) == (40, 30, "ttft")
    assert (report["promised"], report["degraded"], report["alpha"], report["calibration_n"]) == (True, False, 0.05, 50)
    assert report["bound_ms"] == pytest.approx(28.0) and report["expected_ms"] == pytest.approx(28.0)
    assert report["total_ms"] > 0 and report["ttft_ms"] is None and report["within_budget"] is None
    assert client.headers["x-paceline-config"] == "medium_8_16"
    assert client.headers["x-paceline-bound-ms"] == "28.00"
    assert client.headers["x-paceline-stripped"] == "vllm_xargs.paceline_top_k"
    assert int(client.headers["content-length"]) == len(client.body)


@pytest.mark.parametrize(
    ("spent_ms", "tier", "bound_ms", "promised"),
    [
        (0, "medium", 28, True),
        (7, "medium", 29, True),
        (17, "low", 29, True),
        (25, "low", 37, False),
        (40, "low", 52, False),
    ],
)
def test_what_passed_before_a_decision_is_taken_off_the_budget(spent_ms, tier, bound_ms, promised):
    """The pictures of a chat may have been fetched since its last byte came."""
    desk, times = calibrated_desk(), []

    def told():
        times.append(CURRENT.get())
        times[0].first_token_wall = 100.0

    middleware = BudgetMiddleware(FakeServer(on_start=told), desk, clock=Ticks(0.001), wall=lambda: 100.0)
    client = Client(chat(30, stream=True))
    client.scope |= {RECEIVED: 0.001 - spent_ms / 1e3, FETCHED: float(spent_ms)}
    asyncio.run(client.ask(middleware))
    events = [json.loads(line[6:]) for line in client.body.decode().split("\n\n") if line.startswith("data: {")]
    report = events[-1]["paceline"]
    assert report["config"]["tier"] == tier and report["promised"] is promised and report["degraded"] is not promised
    assert report["bound_ms"] == report["expected_ms"] == pytest.approx(bound_ms)
    assert report["ttft_ms"] > spent_ms and client.headers["server-timing"].startswith(f"fetch;dur={spent_ms}.00")
    # those that stand beside it in the engine's order are compared by what is left, and what it took teaches without
    sent = json.loads(middleware.app.received[0][1])["vllm_xargs"]
    assert sent["paceline_ttft_budget_ms"] == pytest.approx(max(30 - spent_ms, SMALLEST_LEFT_MS))
    assert times[0].fetch_ms == spent_ms


def test_what_a_request_teaches_is_without_what_passed_before_its_decision():
    desk = new_desk()
    learned = []
    desk.alone["ttft"].scores.observe = lambda tier, measured_ms, needed_ms: learned.append(measured_ms)
    for spent_ms in (0, 0, 0, 0, 500):
        client = Client(chat(1000, stream=True))
        client.scope |= {RECEIVED: 0.001 - spent_ms / 1e3}
        asyncio.run(client.ask(BudgetMiddleware(FakeServer(), desk, clock=Ticks(0.001), wall=lambda: 100.0)))
    assert len(learned) == 2 and learned[0] == pytest.approx(learned[1])


@pytest.mark.parametrize(("spent_ms", "status"), [(0, 200), (29, 429), (400, 429)])
def test_who_would_rather_be_refused_is_once_too_little_is_left(spent_ms, status):
    """Not for good (422): another time its pictures come sooner."""
    client = Client(chat(30, on_infeasible="refuse"))
    client.scope |= {RECEIVED: 0.001 - spent_ms / 1e3}
    asyncio.run(client.ask(BudgetMiddleware(FakeServer(), calibrated_desk(), clock=Ticks(0.001), wall=lambda: 100.0)))
    assert client.status == status
    if status == 429:
        error = client.document["error"]
        assert (
            error["code"] == "budget_contended"
            and error["expected_wait_ms"] == spent_ms
            and "fetching" in error["message"]
        )


def test_a_whole_answers_first_token_is_when_its_engine_had_it():
    def told():
        times: EngineTimes = CURRENT.get()
        times.handed_over_wall, times.queue_ms, times.vision_ms, times.prefill_ms = 100.001, 1.5, 4.0, 13.0
        times.first_token_at(100.02)

    desk = calibrated_desk()
    client, _ = ask(chat(30), desk=desk, server=FakeServer(on_start=told))
    report = client.document["paceline"]
    assert report["ttft_ms"] == pytest.approx(20) and report["within_budget"] is True
    assert client.headers["server-timing"] == "preprocess;dur=1.00, queue;dur=1.50, vision;dur=4.00, prefill;dur=13.00"
    assert desk.metrics.promises["kept"] == 1
    assert len(desk.alone["ttft"].scores.pooled) == 50  # the first requests of a process teach nothing
    for _ in range(3):
        ask(chat(30), desk=desk, server=FakeServer(on_start=told))
    assert len(desk.alone["ttft"].scores.pooled) == 51 and list(desk.metrics.covered) == [True]


def test_a_stream_is_measured_at_its_first_token_and_reports_in_the_usage_chunk():
    desk = calibrated_desk()
    client, server = ask(chat(12, stream=True, stream_options={"include_usage": False, "x": 1}), desk=desk)
    sent = json.loads(server.received[0][1])
    assert sent["stream_options"] == {"include_usage": True, "x": 1}
    events = [json.loads(line[6:]) for line in client.body.decode().split("\n\n") if line.startswith("data: {")]
    (report,) = [each["paceline"] for each in events if "paceline" in each]
    assert events[-1]["paceline"] == report and events[-1]["usage"] and client.body.endswith(b"data: [DONE]\n\n")
    assert report["config"]["tier"] == "low" and 0 < report["ttft_ms"] < report["total_ms"]
    assert client.headers["x-paceline-config"] == "low_2_16"
    # the start waits for the first byte
    assert [message["type"] for message in client.sent[:2]] == ["http.response.start", "http.response.body"]
    assert b"assistant" in client.sent[1]["body"]
    assert desk.metrics.promises["kept"] == 1


def test_an_error_of_the_servers_own_passes():
    desk = calibrated_desk()
    client, _ = ask(chat(30), desk=desk, server=FakeServer(status=400))
    assert client.status == 400 and "paceline" not in client.document
    assert desk.metrics.promises.total() == 0 and len(desk.alone["ttft"].scores.pooled) == 50


REFUSED = {
    "no number": (chat("30"), 400, "latency_budget_ms", "above 0"),
    "another path": ({"latency_budget_ms": 3}, 400, "latency_budget_ms", "/v1/chat/completions"),
    "kind": (chat(30, latency_budget_kind="total"), 400, "latency_budget_kind", "expected ttft"),
    "elsewhere": (chat(30, image={"url": "https://example.com/a.png"}), 400, "messages", "data:image"),
    "no header": (chat(30, image={"url": "data:image/png;base64,AAAA"}), 415, "messages", "PNG, JPEG"),
    "too large": (chat(30, image={"url": picture_url(9001, 10)}), 413, "messages", "200:1"),
    "video": (
        {**chat(30), "messages": [{"role": "user", "content": [{"type": "video_url"}]}]},
        400,
        "messages",
        "video_url",
    ),
    "no messages": ({"latency_budget_ms": 30}, 400, "messages", "expected a list"),
    "three": (
        {**chat(30), "messages": chat()["messages"] * 3},
        400,
        "messages",
        "3 pictures; this server takes at most 2",
    ),
    "content": ({**chat(30), "messages": [{"role": "user", "content": 3}]}, 400, "messages", "neither text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_budget_can_be_kept_on_is_refused_before_the_engine_sees_it(case):
    body, status, param, says = REFUSED[case]
    path = "/v1/completions" if case == "another path" else "/v1/chat/completions"
    desk = new_desk(most_pictures=2)
    client, server = ask(body, path=path, desk=desk)
    error = client.document["error"]
    assert (client.status, error["param"]) == (status, param) and says in error["message"] and not server.received
    assert {"message", "type", "param", "code"} <= set(error) and len(desk.ledger) == 0


def test_a_budget_that_surely_cannot_be_kept_is_refused_where_the_caller_says_so():
    desk = calibrated_desk(factor=2.0)  # 24 ms is the least of all
    client, server = ask(chat(20, on_infeasible="refuse"), desk=desk)
    error = client.document["error"]
    assert (client.status, error["code"]) == (422, "budget_infeasible") and not server.received
    assert (error["least_budget_ms"], error["config"]) == (24.0, "low_2_16")
    assert desk.metrics.promises["refused"] == 1
    degraded, server = ask(chat(20), desk=desk)
    report = degraded.document["paceline"]
    assert degraded.status == 200 and report["degraded"] and not report["promised"] and server.received
    assert report["not_promised_because"] == "no configuration is bounded by this budget"
    assert desk.metrics.promises["none_fit"] == 1


def test_who_says_refuse_in_the_body_is_refused_a_budget_that_stands_in_a_header():
    desk = calibrated_desk(factor=2.0)
    body, headers = chat(on_infeasible="refuse"), [(b"x-slo-ttft-ms", b"20")]
    client, server = ask(body, desk=desk, headers=headers)
    assert (client.status, client.document["error"]["code"]) == (422, "budget_infeasible") and not server.received
    client, _ = ask(chat(latency_budget_kind="total"), desk=desk, headers=headers)
    assert (client.status, client.document["error"]["param"]) == (400, "latency_budget_kind")


def test_the_answer_of_a_request_with_a_budget_of_its_total_is_waited_for_once():
    desk = new_desk(controllers={"ttft": table(), "total": table()}, after_seconds=lambda: 0.008)
    reading = desk.read("/v1/chat/completions", [], json.dumps(chat(500, latency_budget_kind="total")).encode())
    ticket = desk.accept(reading, received_seconds=0.0, now_seconds=0.0)
    wait_ms = 1e3 * desk.line.wait_seconds(now_seconds=0.0)
    assert wait_ms == pytest.approx(ticket.promise.expected_ms) == pytest.approx(ticket.decision.latency_ms)


def test_nobody_is_refused_whom_any_configuration_may_serve_by_its_lower_bound():
    desk = new_desk(alpha=0.3)
    for number in range(20):
        desk.alone["ttft"].scores.observe("low", 10.0, 10.0)
        desk.alone["ttft"].scores.observe("medium", 30.0 if number % 2 else 2.0, 10.0)  # 4.4 to 66 ms of 22
        desk.alone["ttft"].scores.observe("high", 10.0, 10.0)
    assert ask(chat(8, on_infeasible="refuse"), desk=desk)[0].status == 200
    assert ask(chat(4, on_infeasible="refuse"), desk=desk)[0].status == 422
    occupied(desk, 0.001)
    assert ask(chat(8, on_infeasible="refuse"), desk=desk)[0].status == 200
    assert ask(chat(4, on_infeasible="refuse"), desk=desk)[0].status == 422


def test_the_least_budget_that_a_refusal_names_is_no_budget_that_it_refuses():
    desk = new_desk(alpha=0.3)
    for _ in range(3):  # enough for a lower bound, too few for an upper one
        desk.alone["ttft"].scores.observe("low", 20.0, 10.0)
    client, _ = ask(chat(20, on_infeasible="refuse"), desk=desk)
    assert client.status == 422 and client.document["error"]["least_budget_ms"] == pytest.approx(24.0)


def occupied(desk, seconds):
    """Let the desk's engine have a request of so many seconds before all others."""
    entry = desk.ledger.accept(0.0)
    work = desk.line.work_of(100, seconds)
    decision = desk.line.decide([LoadCandidate(accuracy=1.0, work=work)], now_seconds=0.0, ttft_budget_seconds=None)
    desk.line.admit(entry.number, decision, work, now_seconds=0.0)
    return entry


def test_a_budget_is_contended_where_the_requests_ahead_take_too_long():
    desk = calibrated_desk()
    occupied(desk, 4.5)
    client, server = ask(chat(100, on_infeasible="refuse"), desk=desk)
    assert (client.status, client.document["error"]["code"]) == (429, "budget_contended") and not server.received
    assert client.headers["retry-after"] == "5" and len(desk.ledger) == 1
    assert client.document["error"]["expected_wait_ms"] == pytest.approx(4500, rel=0.01)
    degraded, server = ask(chat(100), desk=desk)
    report = degraded.document["paceline"]
    assert degraded.status == 200 and report["degraded"] and not report["promised"]
    assert "not even the fastest" in report["not_promised_because"] and report["config"]["tier"] == "low"
    assert report["expected_ms"] > 4000
    # an order by deadline must not let it pass those that can keep theirs
    assert "paceline_ttft_budget_ms" not in json.loads(server.received[0][1])["vllm_xargs"]


def test_who_says_refuse_is_refused_after_the_bounds_of_requests_beside_others_and_comes_back_in_time():
    desk = calibrated_desk()
    occupied(desk, 1.0)
    kind = desk.line.controller.kind(1.3)
    for _ in range(40):  # first tokens came after twice what was predicted
        desk.line.controller.scores.observe(kind, measured_seconds=2.0, predicted_seconds=1.0)
    client, _ = ask(chat(1300, on_infeasible="refuse"), desk=desk)
    assert client.status == 429 and client.headers["retry-after"] == "1"
    client, _ = ask(chat(2500, on_infeasible="refuse"), desk=desk)
    assert client.document["paceline"]["promised"]
    too_small, _ = ask(chat(5, on_infeasible="refuse"), desk=desk)
    assert (too_small.status, too_small.document["error"]["code"]) == (422, "budget_infeasible")


def test_beside_others_nothing_is_promised_before_such_requests_were_answered():
    desk = calibrated_desk()
    occupied(desk, 0.1)
    report = ask(chat(500), desk=desk)[0].document["paceline"]
    assert not report["promised"] and report["bound_ms"] is None and report["calibration_n"] == 0
    assert report["not_promised_because"].startswith("0 of 19 requests like it were answered beside others")
    assert 100 < report["expected_ms"] < 140 and report["config"] == {
        "tier": "high",
        "top_k": 8,
        "num_active_blocks": 16,
    }
    for _ in range(19):
        desk.line.controller.scores.observe(None, measured_seconds=1.1, predicted_seconds=1.0)
    report = ask(chat(500), desk=desk)[0].document["paceline"]
    assert report["promised"] and report["bound_ms"] == pytest.approx(1.1 * report["expected_ms"])
    tight = ask(chat(115), desk=desk)[0].document["paceline"]
    assert tight["promised"] and tight["config"]["tier"] != "high" and tight["bound_ms"] <= 115


def test_a_servers_own_budget_is_that_of_chats_that_ask_for_none():
    desk = calibrated_desk(default_budget_ms=25)
    report = ask(chat(), desk=desk)[0].document["paceline"]
    assert (report["budget_ms"], report["budget_by_default"], report["config"]["tier"]) == (25, True, "medium")
    asked = ask(chat(500), desk=desk)[0].document["paceline"]
    assert asked["budget_ms"] == 500 and "budget_by_default" not in asked
    assert not len(desk.ledger) and not len(desk.line)


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
@pytest.mark.parametrize("headers", [(), [(b"request-timeout-ms", b"500")]])
def test_a_stream_keeps_its_form_where_its_client_asked_for_no_budget(options, headers):
    """A chunk of usage has no choices: a client that asked for neither may not know that there is such a thing."""
    desk = calibrated_desk(default_budget_ms=25, controllers={"ttft": table(), "total": table()})
    said = {} if options is None else {"stream_options": options}
    client, server = ask(chat(stream=True, **said), desk=desk, headers=headers)
    sent = json.loads(server.received[0][1])
    assert sent.get("stream_options") == options and "mm_processor_kwargs" in sent
    assert any(name.startswith("x-paceline-config") for name in client.headers)


@pytest.mark.parametrize("body", UNTOUCHED[2:-1])
def test_a_servers_own_budget_refuses_nobody_and_leaves_whole_what_it_cannot_decide(body):
    desk = calibrated_desk(default_budget_ms=25)
    client, server = ask(body, desk=desk)
    assert server.received[0][1] == body and client.status == 200
    assert not any(name.startswith("x-paceline-config") for name in client.headers)
    knobs = chat(vllm_xargs={"paceline_top_k": 2})
    knobs["messages"][0]["content"][0]["image_url"]["url"] = "https://localhost/unknown.png"
    received = json.loads(ask(knobs, desk=desk)[1].received[0][1])
    assert received == {**knobs, "vllm_xargs": {}}
    assert not len(desk.ledger) and not len(desk.line)


def test_a_servers_own_budget_leaves_alone_who_sets_the_knobs_and_other_routes():
    desk = calibrated_desk(default_budget_ms=25, client_knobs=True)
    knobs = chat(vllm_xargs={"paceline_top_k": 2})
    assert json.loads(ask(knobs, desk=desk)[1].received[0][1]) == knobs
    assert json.loads(ask(chat(), desk=desk, path="/v1/completions")[1].received[0][1]) == chat()


@pytest.mark.parametrize("budget", [0, -5, float("nan"), 4e6, True, "25"])
def test_a_servers_own_budget_is_one_that_a_request_could_ask_for(budget):
    with pytest.raises(InvalidValueError, match="default_budget_ms"):
        new_desk(default_budget_ms=budget)
    with pytest.raises(InvalidValueError, match="default_budget_ms is 25.* totals alone"):
        new_desk(default_budget_ms=25, controllers={"total": table()})


def test_a_request_without_a_budget_counts_as_one_under_the_largest_configuration():
    desk = calibrated_desk()
    ask(chat(30), desk=desk)
    entry = desk.accept_native(1.0)
    report = ask(chat(500), desk=desk)[0].document["paceline"]
    assert report["expected_ms"] == pytest.approx(76.0, abs=4)  # two of 38
    desk.finish_native(entry, 2.0)
    assert not len(desk.ledger) and not len(desk.line)


def test_the_price_makes_those_cheaper_that_come_later():
    line = ServerLoad(
        LoadController(
            LoadSettings(alpha=0.05, price=PriceSettings(floor=20.0)), PlannerSettings(chunk_size=1), MILLISECONDS
        )
    )
    desk = calibrated_desk(line=line)
    alone = ask(chat(500), desk=desk)[0].document["paceline"]
    assert alone["config"] == {"tier": "low", "top_k": 2, "num_active_blocks": 16} and alone["promised"]
    occupied(desk, 0.1)
    beside = ask(chat(500), desk=desk)[0].document["paceline"]
    assert beside["config"] == alone["config"]
    page = desk.metrics_text(0.0)
    assert "paceline:work_price 20.0" in page and "paceline:coverage_beside_ratio NaN" in page


def test_time_is_priced_by_what_the_largest_configuration_takes_here():
    desk = new_desk(price_at=lambda t0_seconds: PriceSettings(floor=0.07 / t0_seconds))
    assert desk.line.controller.price.per_second == pytest.approx(0.07 / 0.038)  # by the table
    middleware = BudgetMiddleware(FakeServer(), desk, clock=Ticks(0.03))

    async def alone():
        for _ in range(8):
            await Client(chat(500, stream=True)).ask(middleware)

    asyncio.run(alone())
    slower = desk.alone["ttft"].scores.pooled.median
    assert slower > 1.2 and desk.line.controller.price.per_second == pytest.approx(0.07 / 0.038 / slower)


def test_nothing_is_promised_before_calibration():
    early = ask(chat(500), desk=new_desk())[0].document["paceline"]
    assert not early["promised"] and early["bound_ms"] is None and early["calibration_n"] == 0
    assert early["not_promised_because"].startswith("0 of 45 requests that calibrate")
    assert early["config"]["tier"] == "high"  # what the controller says, for want of anything better


def test_a_request_beside_another_teaches_the_bounds_of_those_alone_nothing():
    desk = calibrated_desk()

    async def both():
        middleware = BudgetMiddleware(FakeServer(), desk)
        for _ in range(3):  # the first of a process teach nothing anyway
            await Client(chat(500, stream=True)).ask(middleware)
        clients = [Client(chat(500, stream=True)) for _ in range(3)]
        await asyncio.gather(*(client.ask(middleware) for client in clients))

    asyncio.run(both())
    assert len(desk.alone["ttft"].scores.pooled) == 50 and len(desk.ledger) == 0
    assert desk.line.controller.scores.count(None) == 2  # the first of the three had nobody beside it when it came


@pytest.mark.parametrize(
    ("fields", "tier", "tokens", "undercut"),
    [
        ({"image": {"detail": "low"}}, "low", 10, False),
        ({"image": {"detail": "high"}}, "high", 90, None),
        ({"mm_processor_kwargs": {"size": {"longest_edge": 60}}}, "high", 60, False),
        ({"mm_processor_kwargs": {"size": {"longest_edge": 40}}}, "medium", 40, False),
        ({"mm_processor_kwargs": {"size": {"longest_edge": 5}}}, "low", 5, False),
        ({"mm_processor_kwargs": {"size": {"longest_edge": 60}}, "budget_ms": 13}, "low", 10, True),
    ],
)
def test_what_the_caller_caps_is_never_exceeded_and_undercut_for_the_budget_alone(fields, tier, tokens, undercut):
    client, server = ask(chat(**{"budget_ms": 500, **fields}), desk=calibrated_desk())
    report = client.document["paceline"]
    assert (report["config"]["tier"], report["image_tokens"]) == (tier, tokens)
    assert json.loads(server.received[0][1])["mm_processor_kwargs"] == {"size": {"longest_edge": tokens}}
    assert report.get("cap", {}).get("undercut") is undercut


def test_a_chat_without_a_picture_has_no_image_tokens_no_tier_and_no_promise():
    desk = calibrated_desk()
    for _ in range(5):
        client, server = ask(chat(500, picture=False, stream=True), desk=desk)
    events = [json.loads(line[6:]) for line in client.body.decode().split("\n\n") if line.startswith("data: {")]
    report = events[-1]["paceline"]
    assert (report["image_tokens"], report["config"]["tier"], report["promised"]) == (0, None, False)
    assert "no picture" in report["not_promised_because"] and client.headers["x-paceline-config"] == "none_8_16"
    assert "mm_processor_kwargs" not in json.loads(server.received[0][1])
    assert len(desk.alone["ttft"].scores.pooled) == 50  # it says nothing of requests with a picture


def test_several_pictures_are_counted_under_one_tier_and_not_promised():
    desk = calibrated_desk()
    for _ in range(5):
        client, server = ask(chat(30, picture=3, stream=True), desk=desk)
    events = [json.loads(line[6:]) for line in client.body.decode().split("\n\n") if line.startswith("data: {")]
    report = events[-1]["paceline"]
    assert (report["image_tokens"], report["config"]["tier"], report["promised"]) == (120, "medium", False)
    assert report["not_promised_because"].startswith("it has 3 pictures, and what the controller knows")
    assert json.loads(server.received[0][1])["mm_processor_kwargs"] == {"size": {"longest_edge": 40}}
    assert len(desk.alone["ttft"].scores.pooled) == 50  # it says nothing of requests with one picture


def test_a_cap_is_each_pictures_own():
    parts = [{"detail": "high"}, {"detail": "low"}]
    report = ask(chat(500, picture=parts), desk=calibrated_desk())[0].document["paceline"]
    assert report["config"]["tier"] == "low" and report["image_tokens"] == 20  # one size for both: the smaller cap's
    assert report["cap"] == {"image_tokens": 20, "undercut": False}
    caller = {"size": {"longest_edge": 60}}
    report = ask(chat(500, picture=2, mm_processor_kwargs=caller), desk=calibrated_desk())[0].document["paceline"]
    assert report["image_tokens"] == 120 and report["cap"] == {"image_tokens": 120, "undercut": False}


def test_a_proxys_ceiling_asks_nobody_for_a_promise_that_cannot_be_given():
    headers = [(b"x-envoy-expected-rq-timeout-ms", b"15000")]
    body = json.dumps(chat()).encode()
    client, server = ask(body, headers=headers)
    assert server.received[0][1] == body and "paceline" not in client.document
    client, server = ask(
        body,
        headers=headers,
        desk=new_desk(controllers={"ttft": new_desk().controllers["ttft"]} | {"total": new_desk().controllers["ttft"]}),
    )
    assert client.document["paceline"]["budget_kind"] == "total"
    assert client.document["paceline"]["within_budget"] is True


def test_the_page_of_metrics_has_ours_behind_the_servers():
    class Metrics(FakeServer):
        async def __call__(self, scope, receive, send):
            self.received.append((scope, b""))
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"14")]})
            await send({"type": "http.response.body", "body": b"vllm:requests ", "more_body": True})
            await send({"type": "http.response.body", "body": b"1\n"})

    client, server = ask(
        b"",
        path="/metrics",
        method="GET",
        server=Metrics(),
        headers=[(b"accept-encoding", b"gzip"), (b"accept", b"application/openmetrics-text")],
    )
    assert client.body.startswith(b"vllm:requests 1\n# HELP paceline:promises_total")
    assert int(client.headers["content-length"]) == len(client.body)
    assert not {b"accept", b"accept-encoding"} & {name for name, _ in server.received[0][0]["headers"]}


def test_who_is_not_admitted_is_not_read():
    server = FakeServer()
    middleware = BudgetMiddleware(server, new_desk(), admits=lambda scope: False)
    client = asyncio.run(Client(chat("no number")).ask(middleware))
    assert client.status == 200 and server.received[0][0] is client.scope


def test_what_is_no_post_of_json_passes():
    for changed in ({"method": "GET"}, {"headers": [(b"content-type", b"Multipart/form-data; boundary=x")]}):
        server, client = FakeServer(), Client(chat("no number"))
        client.scope |= changed
        asyncio.run(client.ask(BudgetMiddleware(server, new_desk())))
        assert client.status == 200 and server.received[0][0] is client.scope


def test_a_table_takes_what_fits_the_budget_itself():
    fastest = min(ms for ms, _ in CONFIGS.values())
    for budget, degraded in (
        (fastest, False),
        (fastest * 0.97, True),
    ):  # within the table's tolerance, not within the budget
        assert ask(chat(budget), desk=calibrated_desk())[0].document["paceline"]["degraded"] is degraded


def test_a_tier_with_answers_of_its_own_is_bounded_by_them():
    desk = calibrated_desk()  # what all take: as predicted
    for _ in range(50):
        desk.alone["ttft"].scores.observe("low", 30.0, 10.0)
    assert desk.alone["ttft"].scores.pooled.upper == pytest.approx(3.0)  # half of the last hundred were slow
    tight, loose = (ask(chat(budget), desk=desk)[0].document["paceline"] for budget in (29, 40))
    assert tight["degraded"] and not loose["degraded"] and loose["bound_ms"] == pytest.approx(36.0)
    for _ in range(60):
        desk.alone["ttft"].scores.observe("medium", 10.0, 10.0)
    report = ask(chat(29), desk=desk)[0].document["paceline"]
    assert report["config"]["tier"] == "medium" and report["bound_ms"] == pytest.approx(28.0) and report["promised"]
    assert report["calibration_n"] == 60


def test_a_second_content_type_lets_nobody_pass_undecided():
    body = chat(30, vllm_xargs={"paceline_top_k": 1})
    client, _ = ask(body, headers=[(b"content-type", b"multipart/form-data; boundary=x")])
    assert client.document["paceline"]["budget_ms"] == 30
    assert "x-paceline-stripped" in client.headers


def test_a_chat_of_more_parts_than_anybody_looks_at_is_refused():
    message = {"role": "user", "content": "a"}
    parts = [{"type": "text", "text": "a"}] * 5000
    for messages in ([message] * 10_001, [{"role": "user", "content": parts}] * 2):
        client, server = ask({"model": "m", "messages": messages, "latency_budget_ms": 30})
        assert client.status == 400 and "more than 10,000 messages and parts" in client.document["error"]["message"]
        assert not server.received
    assert ask({"model": "m", "messages": [message] * 10_000, "latency_budget_ms": 30})[0].status == 200
