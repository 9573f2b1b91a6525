"""`paceline controller`, and `paceline evaluate` with learned controllers, on synthetic samples with request vectors."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from evaluated_controllers import synthetic_samples_with_vectors
from typer.main import get_command
from typer.testing import CliRunner, Result

from paceline.cli.controller import commands as command
from paceline.cli.evaluate import command as evaluate_command
from paceline.control.learned.description import DESCRIPTION_FILE, read_chooser_description
from paceline.control.learned.reward import Reward
from paceline.errors import ControllerError, InvalidValueError, ProfileDataError, UnknownChoiceError
from paceline.fit.conformal import split_for
from paceline.fit.estimator.artifact import train_artifact
from paceline.fit.estimator.settings import EstimatorSettings
from paceline.fit.learned import artifact as learned_artifact
from paceline.fit.learned.settings import GrpoSettings, SupervisedSettings
from paceline.profiles import read_profile

APP = typer.Typer(add_completion=False)
command.register(APP)
evaluate_command.register(APP)
QUICK = EstimatorSettings(hidden_dim=16, num_layers=1, num_epochs=60, batch_size=4096, learning_rate=3e-2)
SHORT: dict[str, Any] = {"num_steps": 20, "round_steps": 10, "batch_size": 32}
COUNT, SEED = 160, 11
BUDGETS = (10, 20, 40)


def run(*words: object) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def profile_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("controller") / "synthetic.parquet"
    synthetic_samples_with_vectors(COUNT).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def estimator_path(profile_path: Path) -> Path:
    return trained_estimator(profile_path, profile_path.with_name("estimator"))


@pytest.fixture(scope="module")
def supervised_path(profile_path: Path, estimator_path: Path) -> Path:
    return trained("supervised", profile_path, estimator_path)[0]


@pytest.fixture(scope="module")
def grpo_path(profile_path: Path, estimator_path: Path) -> Path:
    return trained("grpo", profile_path, estimator_path)[0]


def trained_estimator(profile: Path, directory: Path) -> Path:
    train_artifact(read_profile(profile), directory, split=split_for(COUNT, alpha=0.05, seed=SEED), settings=QUICK)
    return directory


def trained(learner: str, profile: Path, estimator: Path, *more: object) -> tuple[Path, Result]:
    """Train a controller for a few steps with the command, beside its profile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_artifact, "SupervisedSettings", partial(SupervisedSettings, **SHORT))
        patch.setattr(learned_artifact, "GrpoSettings", partial(GrpoSettings, **SHORT, cloning_steps=5, group_size=4))
        out = profile.with_name(f"{learner}_of_{estimator.name}")
        said = ("--estimator", estimator, "--out", out, "--learner", learner)
        return out, run("controller", "train", profile, *said, *more)


def held_out(profile: Path) -> int:
    split = split_for(COUNT, alpha=0.05, seed=SEED)
    names = read_profile(profile).samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique()
    return sum(split.part_of(*name) == "test" for name in names.iter_rows())


@pytest.mark.parametrize("learner", ["supervised", "grpo"])
def test_a_controller_is_trained_with_the_settings_asked_for(
    tmp_path: Path, profile_path: Path, estimator_path: Path, learner: str
) -> None:
    profile = Path(shutil.copy(profile_path, tmp_path))
    out, result = trained(learner, profile, estimator_path, "--latency-weight", 0.25, "--alpha", 0.1, "--seed", 5)
    description, _ = read_chooser_description(out / DESCRIPTION_FILE)
    assert (description.learner, description.alpha, description.training["seed"]) == (learner, 0.1, 5)
    assert description.latency_kind == "ttft"  # what a caller waits, unless asked otherwise
    assert description.reward == Reward(latency_weight=0.25)
    text = " ".join(result.stdout.split())
    assert f"Trained {learner} on {description.num_requests} requests of synthetic_one, synthetic_two" in text
    assert "rewards a second" in text and "validation accuracy" in text
    assert f"next: paceline controller eval {out} {profile}" in text
    again = trained(learner, profile, estimator_path, "--json")[1]
    document = json.loads(again.stdout)
    assert (document["learner"], document["configs"], document["controller"]) == (learner, 4, str(out))
    assert document["rewards_per_second"] > document["model_requests_per_second"] > 0
    curve = read_chooser_description(out / DESCRIPTION_FILE)[0].learning
    assert document["kept_round"] == min(curve, key=lambda row: row["validation_loss"])
    assert "is kept as" in again.stderr


def test_eval_judges_on_what_the_estimator_held_out(tmp_path: Path, profile_path: Path, supervised_path: Path) -> None:
    out, page = tmp_path / "evaluation.json", tmp_path / "evaluation.html"
    said = ("--budgets", *BUDGETS, "-o", out, "--report", page)
    text = " ".join(run("controller", "eval", supervised_path, profile_path, *said).stdout.split())
    document = json.loads(out.read_text())
    assert document["n"] == held_out(profile_path)
    assert set(document["controllers"]) == {
        "table",
        "bound",
        "supervised",
        "oracle",
        "oracle_within_bound",
        "table_equal_adherence",
        "table_equal_adherence_supervised",
    }
    assert set(document["learned"]) == {"supervised"}
    assert "Accuracy won back by supervised" in text
    assert "Decisions over all budgets" in text and "Over all budgets, supervised: accuracy" in text
    html = page.read_text()
    assert "How they learned" in html and "learning_validation_accuracy" in html


def test_eval_as_json_counts_refusals_and_times_decisions(profile_path: Path, grpo_path: Path) -> None:
    document = json.loads(run("controller", "eval", grpo_path, profile_path, "--budgets", *BUDGETS, "--json").stdout)
    learned = document["learned"]["grpo"]
    assert learned["decisions"] == len(BUDGETS) * document["n"] == document["decision_us"]["grpo"]["count"]
    assert learned["refused"] == sum(row["refused"] for row in document["controllers"]["grpo"])
    assert 0 < document["decision_us"]["grpo"]["median_us"] <= document["decision_us"]["grpo"]["p95_us"]
    assert document["controller"] == str(grpo_path)


def test_evaluate_judges_learned_controllers_beside_the_others(
    profile_path: Path, supervised_path: Path, grpo_path: Path, estimator_path: Path
) -> None:
    both = ("--controller", supervised_path, grpo_path, "--budgets", *BUDGETS)
    document = json.loads(run("evaluate", profile_path, *both, "--json").stdout)
    assert {"grpo", "supervised", "point", "dataset_tables", "fixed_low_4_8"} <= set(document["controllers"])
    assert document["n"] == held_out(profile_path)
    assert document["latency_kind"] == "ttft"  # theirs; the tables' own default is prefill
    named = json.loads(run("evaluate", profile_path, *both, "--estimator", estimator_path, "--json").stdout)
    assert named["controllers"] == document["controllers"]
    assert "Accuracy won back by supervised" in run("evaluate", profile_path, *both).stdout


def test_two_controllers_of_one_learner_go_by_their_directories(
    tmp_path: Path, profile_path: Path, supervised_path: Path
) -> None:
    copy = Path(shutil.copytree(supervised_path, tmp_path / "second"))
    said = ("--controller", f"{supervised_path},{copy}", "--budgets", 20, "--json")
    document = json.loads(run("evaluate", profile_path, *said).stdout)
    first = f"supervised_{supervised_path.name}"
    assert set(document["learned"]) == {first, "supervised_second"}
    assert document["controllers"][first] == document["controllers"]["supervised_second"]
    with pytest.raises(InvalidValueError, match="directories of different names"):
        run("evaluate", profile_path, "--controller", copy, copy)


def test_controllers_of_other_estimators_are_not_judged_together(
    tmp_path: Path, profile_path: Path, estimator_path: Path, supervised_path: Path
) -> None:
    other = tmp_path / "other"
    train_artifact(
        read_profile(profile_path),
        other,
        split=split_for(COUNT, alpha=0.05, seed=SEED + 1),
        settings=QUICK,
    )
    with pytest.raises(InvalidValueError, match=r"estimator is '.*other'; expected the one that .* was trained with"):
        run("evaluate", profile_path, "--estimator", other, "--controller", supervised_path)
    stranger, _ = trained("grpo", profile_path, other)
    with pytest.raises(InvalidValueError, match="was trained with"):
        run("evaluate", profile_path, "--controller", supervised_path, stranger)


def test_samples_without_request_vectors_are_refused(
    tmp_path: Path, profile_path: Path, estimator_path: Path, supervised_path: Path
) -> None:
    without = tmp_path / "synthetic.parquet"
    pl.read_parquet(profile_path).with_columns(metadata=pl.lit("{}")).write_parquet(without)
    for words in (
        ("controller", "eval", supervised_path, without),
        ("evaluate", without, "--controller", supervised_path),
        ("controller", "train", without, "--estimator", estimator_path, "--out", tmp_path / "out"),
    ):
        with pytest.raises(ProfileDataError, match="profiled before request features were stored"):
            run(*words)


def test_mistakes_are_paceline_errors(
    tmp_path: Path, profile_path: Path, estimator_path: Path, supervised_path: Path
) -> None:
    with pytest.raises(InvalidValueError, match="paceline estimator train .*synthetic.parquet"):
        run("controller", "train", profile_path)
    learner = ("controller", "train", profile_path, "--estimator", estimator_path, "--out", tmp_path / "out")
    with pytest.raises(UnknownChoiceError, match="learner 'gpro' is unknown; .*mean 'grpo'"):
        run(*learner, "--learner", "gpro")
    with pytest.raises(UnknownChoiceError, match="latency kind 'decode'"):
        run(*learner, "--latency", "decode")
    with pytest.raises(InvalidValueError, match="latency_weight is -1"):
        run(*learner, "--latency-weight", "-1")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ControllerError, match="controller.json"):
        run("controller", "eval", estimator_path, profile_path)
    with pytest.raises(InvalidValueError, match="nothing beside --estimator or --controller"):
        run("evaluate", profile_path, "--controller", supervised_path, "--seed", 3)
    with pytest.raises(InvalidValueError, match="ttft, which .* was trained for"):
        run("evaluate", profile_path, "--controller", supervised_path, "--latency", "total")


def flags_of(name: str) -> list[str]:
    group = get_command(APP).commands["controller"]  # type: ignore[attr-defined]
    return sorted(flag for param in group.commands[name].params for flag in param.opts if flag.startswith("-"))


def test_the_flags_are_what_they_were() -> None:
    assert flags_of("train") == [
        "--alpha",
        "--datasets",
        "--estimator",
        "--json",
        "--latency",
        "--latency-weight",
        "--learner",
        "--out",
        "--overshoot-weight",
        "--seed",
        "--skip-bad",
        "-o",
    ]
    assert flags_of("eval") == [
        "--budgets",
        "--datasets",
        "--json",
        "--output",
        "--report",
        "--skip-bad",
        "-o",
    ]
