"""`paceline plan` as a user meets it: a table, JSON, a chart, sentences. Profile and step times are synthetic."""

import json

import polars as pl
import pytest
from estimator_samples import synthetic_samples
from simulated_loads import STEP_TIME


@pytest.fixture
def arguments(tmp_path):
    rows = [f"{index * 0.03},{50 + index % 80},{1 + index % 7}" for index in range(120)]
    (tmp_path / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    (tmp_path / "step_time.json").write_text(json.dumps(STEP_TIME.document()))
    synthetic_samples(30).write_parquet(tmp_path / "profile.parquet")
    return [
        "plan",
        tmp_path / "trace.csv",
        *("--profile", tmp_path / "profile.parquet", "--step-time", tmp_path / "step_time.json"),
        *("--budget-ms", 150, "--alpha", 0.1, "--stretches", 4, "--chunk-size", 512),
    ]


def test_engines_by_floor_controller_and_router(paceline, arguments, tmp_path):
    chart = tmp_path / "plan.svg"
    code, out, _ = paceline(
        *arguments,
        "--accuracy-floor",
        0.3,
        0.4,
        "--routers",
        "round_robin",
        "least_outstanding",
        "--chart",
        chart,
        "--json",
    )
    assert code == 0
    document = json.loads(out)
    assert document["simulated"] and document["stretches"] == 4
    cells = {(each["accuracy_floor"], each["controller"], each["router"]) for each in document["plans"]}
    assert len(cells) == len(document["plans"]) == 8
    for each in document["plans"]:
        assert each["replicas"] == max(each["by_stretch"]) >= 1 and 0 <= each["held_out_kept"] <= 1
        assert each["attainment"] >= 0.8 and each["accuracy"] >= each["accuracy_floor"] - 0.1
    assert "replicas" not in document  # of several accuracies
    assert chart.read_text().startswith("<svg")
    code, out, _ = paceline(*arguments, "--accuracy-floor", 0.3)
    assert code == 0 and "choices" in out and "fixed" in out
    said = " ".join(out.split())
    assert "memory that never runs out" in said and "requests alone on the profile's own device" in said
    assert "engines that keep 150 ms for 90%" in said


def test_budgets_of_the_trace_go_before_the_one_that_is_given(paceline, arguments, tmp_path):
    trace = tmp_path / "trace.csv"
    header, *rows = trace.read_text().splitlines()
    budgets = ["", "90"] * (len(rows) // 2)
    rows = [f"{row},{budget}" for row, budget in zip(rows, budgets, strict=True)]
    trace.write_text("\n".join([f"{header},budget_ms", *rows]) + "\n")
    code, out, _ = paceline(*arguments, "--accuracy-floor", 0.3)
    assert code == 0 and "engines that keep their own budgets for 90%" in " ".join(out.split())


def test_a_plan_for_one_accuracy_is_told_by_controller_and_router(paceline, arguments):
    routers = ("round_robin", "least_outstanding")
    code, out, _ = paceline(*arguments, "--accuracy-floor", 0.3, "--routers", *routers, "--json")
    assert code == 0
    document = json.loads(out)
    for each in document["plans"]:
        controller, router = each["controller"], each["router"]
        assert document["replicas"][controller][router] == {"replicas": each["replicas"], "ci": each["ci"]}
        for name in ("attainment", "accuracy"):
            assert document[name][controller][router] == each[name] <= 1
    assert set(document["replicas"]) == {"fixed", "choices"}
    assert all(set(cells) == set(routers) for cells in document["replicas"].values())


def test_what_was_measured_in_the_engines_steps_is_no_assumption(paceline, arguments, tmp_path):
    keys = ("top_k", "num_active_blocks")
    found = {tuple(each) for each in synthetic_samples(30).select(keys).unique().rows()}
    configurations = {f"{top_k}_{blocks}": STEP_TIME.document() for top_k, blocks in found}
    document = {**STEP_TIME.document(), "configurations": configurations}
    (tmp_path / "step_time.json").write_text(json.dumps(document))
    code, out, _ = paceline(*arguments, "--accuracy-floor", 0.3, "--json")
    assert code == 0 and "engine's own steps" in json.loads(out)["assumed"]


def test_configurations_of_other_samples_are_said(paceline, arguments, tmp_path):
    _, even, _ = paceline(*arguments, "--accuracy-floor", 0.3, "--json")
    assert "may not be the same ones" not in even
    samples = synthetic_samples(30)
    samples = samples.filter((pl.col("top_k") > 4) | (pl.col("sample_id") != "s0"))
    samples.write_parquet(tmp_path / "profile.parquet")
    code, out, _ = paceline(*arguments, "--accuracy-floor", 0.3, "--json")
    assert code == 0 and "29 to 30 samples: they may not be the same ones" in json.loads(out)["assumed"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--accuracy-floor", "high"], "accuracy floor"),
        (["--accuracy-floor", 0.3, "--alpha", 1.5], "alpha"),
        (["--accuracy-floor", 0.3, "--routers", "best"], "router"),
        (["--accuracy-floor", 0.3, "--controllers", "guess"], "controller"),
        (["--accuracy-floor", 0.3, "--stretches", 500], "stretches"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(paceline, arguments, changed, words):
    code, out, errors = paceline(*arguments, *changed)
    assert code == 2 and words in errors and "Traceback" not in errors and not out.strip()
