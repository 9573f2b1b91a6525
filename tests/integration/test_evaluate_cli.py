"""`paceline evaluate` on synthetic samples, with a small network trained for the occasion."""

import json
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import typer
from latency_models import GRID, synthetic_samples
from typer.main import get_command
from typer.testing import CliRunner, Result

from paceline.cli.evaluate import command
from paceline.control import LookupTable
from paceline.control.estimated import BoundController
from paceline.control.loading import load_controller
from paceline.errors import EstimatorError, InvalidValueError, TableError, UnknownChoiceError
from paceline.fit import build_lookup_table, save_table
from paceline.fit.conformal import split_for
from paceline.fit.estimator.artifact import train_artifact
from paceline.fit.estimator.settings import EstimatorSettings
from paceline.fit.estimator.training import train_estimator
from paceline.profiles import read_profile
from paceline.records import RequestFeatures

APP = typer.Typer(add_completion=False)
command.register(APP)
QUICK = EstimatorSettings(hidden_dim=16, num_layers=1, num_epochs=60, batch_size=4096, learning_rate=3e-2)
COUNT = 120
SEED = 11
KEYS = "budget_ms accuracy adherence adherence_ci mean_latency_ms p95_latency_ms within_possible"


@pytest.fixture(scope="module")
def profile_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluate") / "synthetic.parquet"
    synthetic_samples(COUNT).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def estimator_path(profile_path: Path) -> Path:
    directory = profile_path.with_name("estimator")
    split = split_for(COUNT, alpha=0.05, seed=SEED)
    train_artifact(read_profile(profile_path), directory, split=split, settings=QUICK)
    return directory


def run(*words: object) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words], catch_exceptions=False)


def test_the_document_holds_every_controller_at_every_budget(profile_path: Path, estimator_path: Path) -> None:
    result = run(profile_path, "--estimator", estimator_path, "--budgets", 10, 20, 40, "--json")
    document = json.loads(result.stdout)
    assert (document["latency_kind"], document["alpha"]) == ("prefill", 0.05)
    named = {"table", "dataset_tables", "point", "bound", "oracle", "oracle_within_bound", "table_equal_adherence"}
    assert set(document["controllers"]) == named | {f"fixed_{config.key}" for config in GRID}
    for rows in document["controllers"].values():
        assert [row["budget_ms"] for row in rows] == [10.0, 20.0, 40.0]
        assert set(KEYS.split()) <= set(rows[0])
    assert document["budgets_from"] == "as asked for"


def test_only_samples_that_the_estimators_own_split_held_out_judge(profile_path: Path, estimator_path: Path) -> None:
    document = json.loads(run(profile_path, "--estimator", estimator_path, "--json").stdout)
    split = split_for(COUNT, alpha=0.05, seed=SEED)
    names = read_profile(profile_path).samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique()
    assert document["n"] == sum(split.part_of(*name) == "test" for name in names.iter_rows())
    with pytest.raises(InvalidValueError, match="nothing beside --estimator"):
        run(profile_path, "--estimator", estimator_path, "--seed", 3)


def test_without_an_estimator_one_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile_path: Path
) -> None:
    monkeypatch.setattr(command, "train_estimator", partial(train_estimator, settings=QUICK))
    out = tmp_path / "evaluation.json"
    text = run(profile_path, "--seed", SEED, "--alpha", 0.1, "--latency", "total", "-o", out).stdout
    document = json.loads(out.read_text())
    assert (document["latency_kind"], document["alpha"]) == ("total", 0.1)
    assert "total latency; budgets from the fastest to the slowest configuration's p95" in " ".join(text.split())
    assert "The bound gives up" in text


def test_document_and_page_are_written(tmp_path: Path, profile_path: Path, estimator_path: Path) -> None:
    out, page = tmp_path / "evaluation.json", tmp_path / "evaluation.html"
    run(profile_path, "--estimator", estimator_path, "--budgets", 20, "-o", out, "--report", page)
    assert json.loads(out.read_text())["n"] > 0
    assert "Paceline evaluation" in page.read_text()


def test_mistakes_are_paceline_errors(tmp_path: Path, profile_path: Path, estimator_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="alpha is 0.001; expected at least"):
        run(profile_path, "--estimator", estimator_path, "--alpha", 0.001)
    with pytest.raises(UnknownChoiceError, match="latency kind 'decode'"):
        run(profile_path, "--estimator", estimator_path, "--latency", "decode")
    with pytest.raises(InvalidValueError, match="latency budget is -5"):
        run(profile_path, "--estimator", estimator_path, "--budgets", "-5")
    with pytest.raises(EstimatorError, match="cannot be read"):
        run(profile_path, "--estimator", tmp_path)


def test_a_path_loads_as_the_controller_that_it_holds(tmp_path: Path, profile_path: Path, estimator_path: Path) -> None:
    table_path = tmp_path / "table.json"
    save_table(build_lookup_table(read_profile(profile_path)), table_path)
    assert isinstance(load_controller(table_path), LookupTable)
    bound = load_controller(estimator_path, alpha=0.1, latency_kind="total")
    assert isinstance(bound, BoundController)
    assert (bound.alpha, bound.latency_kind) == (0.1, "total")
    decision = bound.predict(1e6, features=RequestFeatures(text_tokens=20, vision_tokens={"low": 95, "high": 220}))
    assert decision.bound_ms is not None and decision.bound_ms > decision.latency_ms
    with pytest.raises(TableError, match="cannot be read"):
        load_controller(tmp_path / "absent")
    (estimator_path / "estimator.safetensors").rename(tmp_path / "moved")
    with pytest.raises(EstimatorError, match="cannot be read"):
        load_controller(estimator_path)
    (tmp_path / "moved").rename(estimator_path / "estimator.safetensors")


def test_the_flags_are_what_they_were() -> None:
    params = get_command(APP).params
    assert sorted(flag for param in params for flag in param.opts if flag.startswith("-")) == [
        "--alpha",
        "--budgets",
        "--controller",
        "--datasets",
        "--estimator",
        "--json",
        "--latency",
        "--output",
        "--report",
        "--seed",
        "--skip-bad",
        "-o",
    ]
