"""`paceline serve` over the embedded model: what it answers is what the model answers under that configuration."""

import base64
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import urllib.request
import zlib
from http.client import HTTPConnection

import pytest
from runtime_models import LARGE, SMALL, table
from serving_host import ask, listening

from paceline.fit import save_table
from paceline.page.files import CONTENT_SECURITY_POLICY, page_files
from paceline.quick.run import QuickJudge
from paceline.records import KnobConfig
from paceline.remote import ServerAddress
from paceline.runtime import AdaptiveModel
from paceline.server.serve import ServerSettings, build_server

pytestmark = pytest.mark.filterwarnings("ignore::paceline.errors.PacelineWarning")


def url_of(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def body_of(question, *pictures, budget=None, detail=None, **fields):
    shown = [
        {"type": "image_url", "image_url": {"url": url_of(each)} | ({"detail": detail} if detail else {})}
        for each in pictures
    ]
    parts = [*shown, {"type": "text", "text": question.prompt}]
    asked = {"model": "digits", "messages": [{"role": "user", "content": parts}], "max_tokens": 8, **fields}
    return asked if budget is None else {**asked, "latency_budget_ms": budget}


@pytest.fixture(scope="module")
def lines():
    return []


@pytest.fixture(scope="module")
def port(digits, lines):
    controllers = {"ttft": table(kind="ttft", latencies=(10.0, 1000.0))}
    served = build_server(digits, controllers, ServerSettings(name="digits"), log=lines.append)
    with listening(served) as port:
        yield port


@pytest.mark.parametrize(("budget", "config"), [(500, SMALL), (100_000, LARGE)])
def test_a_budget_is_answered_as_the_model_answers_under_its_configuration(port, digits, questions, budget, config):
    question = questions[0]
    own = AdaptiveModel(model=digits, controller=table(kind="ttft", latencies=(10.0, 1000.0)), max_new_tokens=8)
    expected = own.generate(question.picture, question.prompt, latency_budget_ms=budget)
    for stream in (False, True):
        reply = ask(port, body_of(question, question.picture, budget=budget, stream=stream))
        document = reply.events[-1] if stream else reply.document
        report = document["paceline"]
        assert expected.config == config and reply.headers["x-paceline-config"] == config.key
        assert reply.text == expected.text
        assert report["image_tokens"] == expected.vision_tokens
        counted = expected.vision_tokens + expected.text_tokens
        assert document["usage"] == {
            "prompt_tokens": counted,
            "completion_tokens": expected.times.output_tokens,
            "total_tokens": counted + expected.times.output_tokens,
        }


def test_without_a_budget_all_of_the_model_answers(port, digits, questions):
    question = questions[1]
    whole = KnobConfig(tier="high", top_k=8, num_active_blocks=16)
    own = AdaptiveModel(model=digits, controller=table(latencies=(10.0, 20.0)), max_new_tokens=8)
    expected = own.generate(question.picture, question.prompt, latency_budget_ms=1e6)
    reply = ask(port, body_of(question, question.picture))
    assert expected.config == whole and reply.text == expected.text and "paceline" not in reply.document


def test_several_pictures_and_none(port, questions):
    one, two = questions[0].picture, questions[1].picture
    several = ask(port, body_of(questions[0], one, two)).document["usage"]["prompt_tokens"]
    report = ask(port, body_of(questions[0], one, two, budget=1e5))
    document = report.document["paceline"]
    assert document["image_tokens"] == sum(
        ask(port, body_of(questions[0], each, budget=1e5)).document["paceline"]["image_tokens"] for each in (one, two)
    )
    assert not document["promised"] and report.document["usage"]["prompt_tokens"] == several
    single, none = (ask(port, body_of(questions[0], *each)).document["usage"]["prompt_tokens"] for each in ((one,), ()))
    assert none < single < several


def test_a_callers_caps_are_never_exceeded(port, questions):
    question = questions[0]
    low = ask(port, body_of(question, question.picture, budget=1e5, detail="low"))
    high = ask(port, body_of(question, question.picture, budget=1e5))
    assert low.document["usage"]["prompt_tokens"] < high.document["usage"]["prompt_tokens"]
    limits = {"size": {"longest_edge": 60 * 256, "shortest_edge": 256}}
    capped = ask(port, body_of(question, question.picture, budget=1e5, mm_processor_kwargs=limits))
    report = capped.document["paceline"]
    assert report["config"]["tier"] == "high" and report["cap"]["image_tokens"] == report["image_tokens"] <= 60
    text_tokens = high.document["usage"]["prompt_tokens"] - high.document["paceline"]["image_tokens"]
    assert capped.document["usage"]["prompt_tokens"] == text_tokens + report["image_tokens"]


def test_sampling_is_that_of_the_seed_and_a_stop_sequence_ends_an_answer(port, questions):
    body = body_of(questions[0], questions[0].picture, temperature=2.0, seed=5)
    texts = {ask(port, body | {"stream": stream}).text for stream in (False, True, False)}
    assert len(texts) == 1
    whole = ask(port, body_of(questions[0], questions[0].picture)).text.split()
    stopped = ask(port, body_of(questions[0], questions[0].picture, stop=[whole[1]]))
    assert stopped.text == whole[0] and stopped.document["choices"][0]["finish_reason"] == "stop"
    exact = ask(port, body_of(questions[0], questions[0].picture, max_tokens=12, ignore_eos=True)).document
    assert exact["usage"]["completion_tokens"] == 12 and exact["choices"][0]["finish_reason"] == "length"
    cut = ask(port, body_of(questions[0], questions[0].picture, max_tokens=1))
    assert cut.document["choices"][0]["finish_reason"] == "length" and cut.document["usage"]["completion_tokens"] == 1


def test_what_the_model_cannot_be_asked_is_400(port, questions):
    special = ask(port, body_of(questions[0]) | {"messages": [{"role": "user", "content": "<|image_pad|>"}]})
    too_long = ask(port, body_of(questions[0], questions[0].picture) | {"max_tokens": 5000})
    assert (special.status, too_long.status) == (400, 400)
    assert too_long.document["error"]["code"] == "context_length_exceeded"
    broken = body_of(questions[0], questions[0].picture)
    url = broken["messages"][0]["content"][0]["image_url"]["url"]
    broken["messages"][0]["content"][0]["image_url"]["url"] = url[: len(url) // 2 // 4 * 4]
    for budget in ({}, {"latency_budget_ms": 500}, {"stream": True}):
        reply = ask(port, broken | budget)
        assert (reply.status, reply.document["error"]["code"]) == (400, "invalid_image")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(kind):
    """A picture of 8 x 8 pixels by its head, of which one part unpacks to a hundred megabytes."""
    packed = zlib.compress(bytes(100_000_000))
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    parts = {
        "pixels": chunk(b"IDAT", packed),
        "text": chunk(b"zTXt", b"a\0\0" + packed) + chunk(b"IDAT", zlib.compress(bytes(72))),
        "profile": chunk(b"iCCP", b"a\0\0" + packed) + chunk(b"IDAT", zlib.compress(bytes(72))),
    }
    return head + parts[kind] + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["pixels", "text", "profile"])
def test_what_unpacks_to_far_more_than_its_picture_is_not_unpacked(port, questions, kind):
    url = "data:image/png;base64," + base64.b64encode(bomb(kind)).decode()
    body = body_of(questions[0], questions[0].picture, max_tokens=1)
    body["messages"][0]["content"][0]["image_url"]["url"] = url
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = ask(port, body)
    assert reply.status in (200, 400, 415)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB


def test_a_line_a_request_says_all_but_the_prompt(port, lines, questions):
    lines.clear()
    ask(port, body_of(questions[0], questions[0].picture, budget=500))
    given_up, found = time.monotonic() + 30, []
    while (
        not found and time.monotonic() < given_up
    ):  # a line is written once its answer has gone out, another request's too
        time.sleep(0.01)
        found = [each for each in map(json.loads, [*lines]) if each["status"] == 200]
    (document,) = found
    for name in (
        "time",
        "request_id",
        "config",
        "bound_ms",
        "ttft_ms",
        "queue_ms",
        "vision_ms",
        "prefill_ms",
        "promised",
    ):
        assert name in document
    assert document["status"] == 200 and document["pictures"] == 1 and document["ttft_ms"] > document["prefill_ms"] > 0
    assert "digits" not in lines[-1].lower().replace("/v1/chat/completions", "")


def test_the_page_is_at_the_root_with_its_policy(port):
    for path, file in page_files().items():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            assert answer.read() == file.content
            assert answer.headers["content-type"] == file.media_type
            assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_a_minute_with_the_server_finds_that_it_takes_budgets(port):
    address = ServerAddress.parse(f"http://127.0.0.1:{port}")
    result = QuickJudge(address, budget_ms=60_000, seconds=1, sides_px=(64, 160)).run()
    assert {each.name: each.what for each in result.knobs}["latency_budget_ms"] == "obeyed"
    assert [each.kept.share for each in result.levels] == [1.0] * len(result.levels)
    assert result.levels[0].tokens < result.levels[1].tokens


def test_the_command_serves_until_it_is_told_to_stop(tmp_path, questions):
    save_table(table(kind="ttft"), tmp_path / "table.json")
    (tmp_path / "keys").write_text("# of the tests\nsk-0123456789abcdef\n")
    words = [
        "serve",
        "digits",
        "--controller",
        str(tmp_path / "table.json"),
        "--port",
        "0",
        "--api-key-file",
        str(tmp_path / "keys"),
        "--log-prompts",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "paceline.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        said = next(line for line in server.stderr if "http://" in line)
        address = said.split()[-1]
        with urllib.request.urlopen(address + "/health") as health:
            assert health.status == 200
        host, _, at = address.removeprefix("http://").partition(":")
        connection = HTTPConnection(host, int(at), timeout=120)
        body = body_of(questions[0], questions[0].picture, budget=1000)
        assert ask(None, body, connection=connection).status == 401
        reply = ask(None, body, connection=connection, headers={"authorization": "Bearer sk-0123456789abcdef"})
        assert reply.status == 200 and reply.document["paceline"]["budget_ms"] == 1000
        connection.close()
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=60)
        assert server.returncode == 0
    finally:
        server.kill()
        server.wait()
    refused, answered = map(json.loads, out.splitlines())
    assert (refused["status"], answered["status"]) == (401, 200) and "messages" not in refused
    assert answered["messages"] == [{"role": "user", "text": questions[0].prompt}] and "base64" not in out
