"""aiperf, a load generator that users have, against `paceline serve`'s own server: make test-clients."""

import base64
import io
import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
from serving_host import served_digits

from paceline.datasets import digit_questions
from paceline.models.loading import EMBEDDED

AIPERF = Path(__file__).parents[2] / ".venv-clients" / "bin" / "aiperf"
REQUESTS = 12
pytestmark = pytest.mark.skipif(not AIPERF.exists(), reason="make test-clients")


@pytest.fixture(scope="module")
def address():
    with served_digits() as address:
        yield address


def url_of(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_aiperf_measures_chats_with_pictures_under_a_budget(address, tmp_path):
    questions = digit_questions("digits_read", split="validation", count=REQUESTS)
    lines = [json.dumps({"text": each.prompt, "image": url_of(each.picture)}) for each in questions]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    command = [
        *(AIPERF, "profile", "--model", "digits", "--url", address, "--endpoint-type", "chat", "--streaming"),
        *("--tokenizer", EMBEDDED["digits"], "--custom-dataset-type", "single_turn"),
        *("--input-file", tmp_path / "questions.jsonl", "--extra-inputs", "latency_budget_ms:60000"),
        *("--extra-inputs", "max_tokens:8", "--request-count", REQUESTS, "--concurrency", 2, "--ui", "none"),
        *("--artifact-dir", tmp_path / "measured"),
    ]
    # told to stay offline, it takes a tokenizer's folder for a name on the hub
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    measured = json.loads(next(tmp_path.rglob("profile_export_aiperf.json")).read_text())
    assert measured["request_count"]["avg"] == REQUESTS and not measured["error_summary"]
    with urllib.request.urlopen(f"{address}/paceline/recent") as answer:
        reports = json.load(answer)
    assert len(reports) == REQUESTS and all(report["answered"] and report["budget_ms"] == 60_000 for report in reports)
    assert all(report["image_tokens"] > 0 for report in reports)
    # its clock starts before the request's last byte has come
    assert measured["time_to_first_token"]["max"] >= max(report["ttft_ms"] for report in reports)
    assert measured["output_sequence_length"]["avg"] > 1
