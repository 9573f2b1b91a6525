"""OpenTelemetry's spans of a chat: their names, what they say, and that they stand one after the other in the request."""

import time

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from serving_host import ToldModel, ask, chat, listening, told_server

from paceline.server.spans import ChatSpans
from paceline.serving.middleware import FETCHED

STAGES = ["queue", "preprocess", "vision", "prefill", "decode"]


@pytest.fixture
def traced(monkeypatch):
    exporter = InMemorySpanExporter()
    spans = ChatSpans(exporter, model="m")

    def run(model, *asked, headers=None):
        served = told_server(model)
        served.app.finished = spans
        with listening(served) as port:
            replies = [ask(port, each, headers=headers) for each in asked]
            ask(port, path="/health")
        spans.close()
        return replies, exporter.get_finished_spans()

    return run


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_a_span_with_its_stages_in_it(traced, stream):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    began = time.time_ns()
    _, spans = traced(ToldModel(), chat(20, stream=stream), headers={"traceparent": parent})
    *stages, whole = spans
    assert [span.name for span in stages] == STAGES and whole.name == "chat m"
    assert whole.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C and whole.parent.span_id == 0xB7AD6B7169203331
    assert all(span.parent.span_id == whole.context.span_id for span in stages)
    for span in spans:
        assert began - 1e9 < whole.start_time - 1e6 <= span.start_time <= span.end_time <= whole.end_time + 1e6
    said = dict(whole.attributes)
    assert said["gen_ai.usage.input_tokens"] == 7 and said["gen_ai.usage.output_tokens"] == 2
    assert said["gen_ai.response.finish_reasons"] == ("stop",) and said["http.response.status_code"] == 200
    assert said["paceline.budget_ms"] == 20 and said["paceline.config"].count("_") == 2
    assert "How many" not in str([span.attributes for span in spans])
    conventions = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI")}
    assert {name for name in said if name.startswith("gen_ai.")} <= conventions


def test_fetching_its_pictures_is_the_first_stage():
    exporter = InMemorySpanExporter()
    spans, served = ChatSpans(exporter, model="m"), told_server()
    served.app.finished, inner = spans, served.app.app

    async def fetched(scope, receive, send):
        await inner(scope | {FETCHED: 0.01}, receive, send)

    served.app.app = fetched
    with listening(served) as port:
        assert ask(port, chat(20)).status == 200
    spans.close()
    fetch, queue, *_ = exporter.get_finished_spans()
    assert [fetch.name, queue.name] == ["fetch", "queue"]
    assert fetch.end_time - fetch.start_time == pytest.approx(1e4, abs=1e3) and fetch.end_time == queue.start_time


def test_a_failed_chat_is_an_error_and_has_the_stages_that_ran(traced):
    def fails(number):
        raise ZeroDivisionError

    _, spans = traced(ToldModel(at=fails), chat(20))
    assert [span.name for span in spans] == ["queue", "chat m"]
    assert spans[-1].status.status_code.name == "ERROR" and spans[-1].attributes["error.type"] == "engine_failed"


def test_a_header_that_is_no_trace_is_passed_over(traced):
    (reply,), spans = traced(ToldModel(), chat(20), headers={"traceparent": "nonsense"})
    assert reply.status == 200 and spans[-1].parent is None


def test_a_wall_clock_that_jumps_moves_no_span_within_its_request(traced, monkeypatch):
    real = time.time
    model = ToldModel(at=lambda number: monkeypatch.setattr(time, "time", lambda: real() + 3600))
    _, spans = traced(model, chat(20))
    assert all(span.end_time - span.start_time < 60e9 for span in spans)
