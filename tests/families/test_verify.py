"""`paceline verify` on every family: nothing fails, and a knob that the family lacks is named."""

import json
from types import SimpleNamespace

import pytest
from tiny_models import trusted
from torch.nn.modules.module import register_module_forward_pre_hook
from typer.testing import CliRunner

from paceline.cli import verify as command
from paceline.cli.main import app_for
from paceline.measure import one_pass, verify
from paceline.measure.clock import HostClock


@pytest.fixture
def in_module_calls(monkeypatch):
    """Take every time in calls of modules, so that the verdict is of the model: tiny ones are too fast for a clock's noise.

    Such a clock stands still while nothing is computed, and is the same on every machine.
    """
    calls = []
    handle = register_module_forward_pre_hook(lambda _module, _arguments: calls.append(None))

    class Clock(HostClock):
        def mark(self):
            return len(calls) * 10_000  # a hundredth of a millisecond a call

    clock = SimpleNamespace(perf_counter=lambda: len(calls) / 100_000)
    for module in (one_pass, verify):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(verify, "clock_for", lambda _device: Clock())
    monkeypatch.setattr(verify, "GENERATED_TOKENS", 3)
    few = {"pairs": 1}  # one pair tells as much as sixty where nothing is random
    monkeypatch.setattr(command, "verify_model", lambda *a, **k: verify.verify(*a, **{**k, **few}))
    yield
    handle.remove()


def test_verify_exits_with_0_and_names_the_knobs_that_the_family_lacks(family, in_module_calls, tmp_path):
    out = tmp_path / "capability.json"
    has_tiers, parts = family.model.parts.family.has_tiers, family.model.parts
    arguments = ["verify", str(family.folder), "--device", "cpu", "--out", str(out), "--blocks", "5", "6"]
    arguments += ["--tiers", "low", "high"] if has_tiers else []
    arguments += ["--top-k", "1", str(parts.native_top_k)] if parts.routers else []
    pinned = trusted(family.folder)
    arguments += ["--trust-remote-code", pinned] if pinned else []
    run = CliRunner().invoke(app_for(["verify"]), arguments, catch_exceptions=False)
    record = json.loads(out.read_text())
    assert run.exit_code == 0 and not record["failures"], record["failures"]
    assert (
        record["stage_closure"] < 1e-9 and abs(record["hook_overhead"]) < 1e-9 and record["restore_max_abs_diff"] == 0
    )
    assert all(check is None or check["works"] for check in record["knobs"].values())
    assert ("tier" in record["lacking"]) == (not has_tiers)
    assert ("top_k" in record["lacking"]) == (not parts.routers)
    missing = {knob for knob, check in record["knobs"].items() if check is None}
    assert missing == set(record["lacking"]), record
    said = " ".join(run.output.replace("│", " ").split())
    assert "tier" not in record["lacking"] or "every picture has the same" in said
