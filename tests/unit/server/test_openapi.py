"""Whatever the OpenAPI document allows, and much that it does not: no answer is a 5xx but 503."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_host import ask, listening, told_server

schemathesis = pytest.importorskip("schemathesis", reason="it is in the extra dev")


@pytest.fixture(scope="module")
def port():
    with listening(told_server()) as port:
        yield port


def fine(status):
    return status < 500 or status == 503


def asked_of(operation, port, seen):
    """Ask what the document says of one operation; what was asked and answered is added to `seen`."""

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def each(case):
        arguments = case.as_transport_kwargs(base_url=f"http://127.0.0.1:{int(port)}")
        path = arguments["url"].split(f":{int(port)}", 1)[1]
        reply = ask(port, arguments.get("json"), path=path, method=operation.method.upper())
        assert fine(reply.status), (operation.label, arguments)
        seen.append((operation.label, reply.status))

    each()


@pytest.mark.filterwarnings("ignore")  # of schemathesis' own dependencies
def test_requests_made_from_the_document_are_answered(port):
    schema = schemathesis.openapi.from_dict(ask(port, path="/openapi.json").document)
    seen = []
    for found in schema.get_all_operations():
        asked_of(found.ok(), port, seen)
    assert {label for label, _ in seen} >= {"POST /v1/chat/completions", "GET /v1/models", "GET /health"}
    assert any(label.startswith("POST") and status == 200 for label, status in seen)


parts = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "text", "image_url"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "image_url", "url", "detail", "role", "content"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
FIELDS = (
    "messages",
    "max_tokens",
    "temperature",
    "stop",
    "stream",
    "stream_options",
    "latency_budget_ms",
    "latency_budget_kind",
    "on_infeasible",
    "mm_processor_kwargs",
    "vllm_xargs",
    "chat_template_kwargs",
    "tools",
    "model",
    "n",
)
bodies = st.dictionaries(st.sampled_from(FIELDS), parts, max_size=6)
user = [{"role": "user", "content": "hi"}]


@given(bodies, st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bodies_of_any_shape_are_answered(port, body, whole):
    body = {**body, "messages": user} if whole else body
    reply = ask(port, json.dumps(body).encode())
    assert fine(reply.status), body
    assert reply.status == 200 or reply.document["error"]["message"]


@given(st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bytes_of_any_kind_are_answered(port, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/"):
        assert fine(ask(port, body, path=path).status)
