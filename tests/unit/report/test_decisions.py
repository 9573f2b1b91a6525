"""The slider's tables are made from what an estimator was, and judged with it on requests that neither was made from."""

from pathlib import Path

import polars as pl
import pytest
from latency_models import synthetic_samples, token_linear

from paceline.analyze import latency_of
from paceline.fit import build_lookup_table
from paceline.fit.conformal import calibrate_bounds, known_samples
from paceline.fit.held_out import Judged
from paceline.profiles import CONFIGURATION, Profile, Split, split_samples
from paceline.report import decisions
from paceline.report.decisions import DecidedWith, judged_on_slider

BUDGETS_MS = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)


@pytest.fixture
def parts(monkeypatch):
    """Synthetic samples whose held-out part is three times slower than what tables and bounds were made from."""
    samples = synthetic_samples(300)
    held_out = split_samples(samples, Split(seed=4)).test.select("dataset", "sample_id").unique()
    slowed = pl.col("T_vision_total", "T_LLM_prefill") * 3
    slow = samples.join(held_out, on=["dataset", "sample_id"], how="semi").with_columns(slowed)
    samples = pl.concat([samples.join(held_out, on=["dataset", "sample_id"], how="anti"), slow])
    parted = split_samples(samples, Split(seed=4))
    judged = Judged(model=token_linear(), bounds=calibrate_bounds(token_linear(), parted), parts=parted)
    profile = Profile(samples=samples, provenance=(), source=Path("synthetic"), left_out=())
    monkeypatch.setattr(decisions, "read_profile", lambda *_args, **_settings: profile)
    monkeypatch.setattr(decisions, "judged_with", lambda *_args: judged)
    return profile, parted


def test_tables_are_judged_on_held_out_requests_as_the_bound_is(parts):
    profile, parted = parts
    found = judged_on_slider(Path("p"), BUDGETS_MS, DecidedWith(estimator=Path("e")), latency_kind="prefill")
    names = [each["words"] for each in found["controllers"]]
    assert names == ["estimator with bound", "table", "table per dataset"]
    known = Profile(samples=known_samples(parted), provenance=(), source=profile.source, left_out=())
    table = build_lookup_table(known)
    fitting = 0
    for budget_ms, row in zip(BUDGETS_MS, found["controllers"][1]["rows"], strict=True):
        assert row["taken"] == table.key_at(budget_ms)
        latencies = _latencies(parted.test, table.key_at(budget_ms))
        if table.candidates(budget_ms):
            fitting += 1
            assert row["promised"] == found["requests"] == len(latencies)
            assert row["kept"][0] == pytest.approx(
                sum(each <= budget_ms for each in latencies) / len(latencies), abs=6e-4
            )
        else:
            assert row["kept"] is None
    assert fitting > 2


def _latencies(samples, key):
    keys = pl.concat_str([pl.col(name).cast(pl.String).fill_null("none") for name in CONFIGURATION], separator="_")
    return samples.filter(keys == key).select(latency_of("prefill")).to_series().to_list()
