"""The demonstration as a user runs it, only smaller."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1200)  # profiles 34 questions a set: two minutes on two idle cores
def test_the_demo_runs_offline_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "demo-out"
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "paceline.cli.main",
        "demo",
        "--out",
        str(out),
        "--samples",
        "34",
        "--requests",
        "6",
    ]
    first = subprocess.run(command, capture_output=True, text=True, env=offline())
    assert first.returncode == 0, first.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["model"] == "digits"
    assert summary["profile"] == {
        "n": 34 * 3 * 27,
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
    second = subprocess.run([*command, "--json"], capture_output=True, text=True, env=offline())
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["budgets"] == summary["budgets"]
    assert (out / "profile" / "journal-rank0.jsonl").read_bytes() == journal


def offline():
    """No proxy, no cache, no hub: a request to the network would fail."""
    return {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent", "COLUMNS": "200"}
