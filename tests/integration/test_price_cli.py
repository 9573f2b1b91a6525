"""`paceline tune price` as a user meets it: a table, JSON, sentences. Profile, trace and step times are synthetic."""

import json

import numpy as np
import pytest
from estimator_samples import synthetic_samples
from simulated_loads import STEP_TIME


@pytest.fixture
def arguments(tmp_path):
    gaps = np.random.default_rng(2).exponential(0.08, 160)
    rows = [f"{at:.3f},{50 + index % 80},{1 + index % 7}" for index, at in enumerate(np.cumsum(gaps))]
    (tmp_path / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    (tmp_path / "step_time.json").write_text(json.dumps(STEP_TIME.document()))
    synthetic_samples(30).write_parquet(tmp_path / "profile.parquet")
    return [
        *("tune", "price", tmp_path / "trace.csv"),
        *("--profile", tmp_path / "profile.parquet", "--step-time", tmp_path / "step_time.json"),
        *("--stretches", 4, "--chunk-size", 512),
    ]


BUDGETS = ("--budgets-ms", 50, 100, 200, "inf")


def test_a_price_is_found_and_judged_on_other_stretches(paceline, arguments):
    prices = ("--prices", 0, 0.25, 1)
    code, out, _ = paceline(*arguments, *BUDGETS, *prices, "--speeds", 1, 2, "--default-budget-ms", 1000, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["simulated"] and document["t0_ms"] > 0
    assert [each["price"] for each in document["tried"]] == [0, 0.25, 1]
    assert document["price_per_arrival"] in (0, 0.25, 1)
    for each in document["tried"]:
        assert set(each["by_speed"]) == {"1.0", "2.0"} and 0 <= each["value"] <= 1
        assert each["value"] == pytest.approx(np.mean(list(each["by_speed"].values())))
    assert [each["speed"] for each in document["held_out"]] == [1, 2]
    for each in document["held_out"]:
        assert 0 <= each["value"] <= each["attainment"] <= 1 and each["promises_kept"] <= each["promised"]
        assert each["over_none"]["half_width"] is not None and each["best_fixed"]
    again = json.loads(
        paceline(*arguments, *BUDGETS, *prices, "--speeds", "1,2", "--default-budget-ms", 1000, "--json")[1]
    )
    assert again == document


def test_the_table_says_what_to_set(paceline, arguments):
    code, out, _ = paceline(*arguments, *BUDGETS, "--prices", 0, 1)
    said = " ".join(out.split())
    assert code == 0 and "stretches that chose nothing" in said and "T0, the largest configuration alone" in said
    settings = json.loads(out[out.index("'{") + 1 : out.index("}}'") + 2])
    assert settings["paceline"]["price_per_arrival"] in (0, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--budgets-ms"),
        (("--budgets-ms", 0), "milliseconds above 0"),
        ((*BUDGETS, "--speeds", 0), "numbers above 0"),
        ((*BUDGETS, "--prices", -1), "at least 0"),
        ((*BUDGETS, "--stretches", 1), "one that chooses, one that judges"),
        ((*BUDGETS, "--stretches", 999), "stretches"),
        ((*BUDGETS, "--alpha", 1), "alpha"),
        ((*BUDGETS, "--price-floor", -1), "floor"),
        ((*BUDGETS, "--default-budget-ms", 0), "default_budget"),
        (("--budgets-ms", "inf"), "requests with a budget"),
    ],
)
def test_wrong_words_are_sentences(paceline, arguments, words, said):
    code, out, err = paceline(*arguments, *words)
    assert code == 2 and not out and said in " ".join(err.split()) and "Traceback" not in err
