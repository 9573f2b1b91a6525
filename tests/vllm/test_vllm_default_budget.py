"""A server's own budget over HTTP: `paceline vllm serve --default-budget-ms`, asked by those who know nothing of budgets."""

import json
import urllib.request

import openai
import pytest
from budget_server import GENEROUS_MS, ask, budget_server, chat, transformers_tokens

from paceline.datasets.digits import digit_questions
from paceline.records import KnobConfig

DEFAULT_MS = 14  # of the table's milliseconds, which the first requests are decided by: a middle configuration


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with budget_server(tmp_path_factory.mktemp("default"), "--default-budget-ms", str(DEFAULT_MS)) as started:
        yield started


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=300)


@pytest.fixture(scope="module")
def questions():
    return digit_questions("digits_read", split="test", count=4, seed=7)


def test_who_asks_for_no_budget_is_answered_under_the_servers(client, questions):
    answers = [ask(client, question) for question in questions]
    tokens = transformers_tokens()
    for answer, question in zip(answers, questions, strict=True):
        report = answer.paceline
        assert (report["budget_ms"], report["budget_by_default"]) == (DEFAULT_MS, True)
        assert answer.choices[0].token_ids == tokens(question, KnobConfig(**report["config"]))
    assert answers[0].paceline["config"] != {"tier": "high", "top_k": 8, "num_active_blocks": 16}
    own = ask(client, questions[0], latency_budget_ms=GENEROUS_MS).paceline
    assert own["budget_ms"] == GENEROUS_MS and "budget_by_default" not in own
    assert own["config"] == {"tier": "high", "top_k": 8, "num_active_blocks": 16}


def test_a_stream_without_a_budget_keeps_the_form_that_its_client_asked_for(client, questions):
    """A client that asked for no usage gets no chunk of it: what it never heard of does not change what it parses."""
    with client.chat.completions.with_streaming_response.create(**chat(questions[0]), stream=True) as response:
        assert response.headers["x-paceline-config"] != "high_8_16"
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    assert chunks and all(chunk["choices"] for chunk in chunks)


def test_other_routes_and_broken_bodies_are_the_engines_as_ever(server, client, questions):
    request = urllib.request.Request(
        f"{server.address}/tokenize",
        json.dumps({"model": "digits", "prompt": questions[0].prompt}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.loads(answer.read())["count"] > 0
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="digits", messages=[{"role": "user", "content": 5}])
    assert refused.value.code != "budget_infeasible"
