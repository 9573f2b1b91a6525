"""The demonstration as a user runs it, after a first run that was killed: most of that one's samples are made up (synthetic)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = 34 * 3 * 27
MEASURED = 120  # of them: four questions under all configurations, and some more


@pytest.mark.slow
def test_the_demo_runs_offline_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "demo-out"
    flags = ["--out", str(out), "--samples", "34", "--requests", "6"]
    interrupted = [sys.executable, str(Path(__file__).with_name("interrupted_demo.py")), str(SAMPLES - MEASURED)]
    killed = subprocess.run([*interrupted, *flags], capture_output=True, text=True, env=offline())
    assert killed.returncode == 9, killed.stderr
    begun = (out / "profile" / "journal-rank0.jsonl").read_bytes()
    command = [sys.executable, "-W", "error", "-m", "paceline.cli.main", "demo", *flags]
    first = subprocess.run(command, capture_output=True, text=True, env=offline())
    assert first.returncode == 0, first.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["model"] == "digits"
    assert summary["profile"] == {
        "n": SAMPLES,
        "configs": 27,
        "datasets": ["digits_read", "digits_count", "digits_exist"],
    }
    assert len(summary["budgets"]) == 5 == len(set(summary["budgets"])) and len(summary["requests"]) == 30
    for request in summary["requests"]:
        assert request["budget_ms"] in summary["budgets"]
        assert request["correct"] == (request["answer"] == request["expected"])
        assert request["within_budget"] == (request["measured_ms"] <= request["budget_ms"])
        assert not request["promised"] or request["expected_ms"] <= request["promised_ms"] <= request["budget_ms"]
    kept = [request["within_budget"] for request in summary["requests"]]
    assert summary["adherence"] == pytest.approx(sum(kept) / len(kept))
    assert all(row["adherence_ci"][0] <= row["adherence"] <= row["adherence_ci"][1] for row in summary["by_budget"])
    following = [line.strip() for line in first.stdout.splitlines() if line.strip().startswith("paceline ")]
    assert [line.split()[1] for line in following] == ["run", "evaluate", "table", "budgets"]
    assert len(summary["table"]["requests"]) == 30
    assert all(request["promised_ms"] == request["expected_ms"] for request in summary["table"]["requests"])
    assert {"estimator", "picture.png", "profile", "report.html", "table.json"} <= {path.name for path in out.iterdir()}
    journal = (out / "profile" / "journal-rank0.jsonl").read_bytes()
    assert 100 < begun.count(b"\n") < SAMPLES == journal.count(b"\n") and journal.startswith(begun)
    second = subprocess.run([*command, "--json"], capture_output=True, text=True, env=offline())
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["budgets"] == summary["budgets"]
    assert (out / "profile" / "journal-rank0.jsonl").read_bytes() == journal


def offline():
    """No proxy, no cache, no hub: a request to the network would fail."""
    return {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent", "COLUMNS": "200"}
