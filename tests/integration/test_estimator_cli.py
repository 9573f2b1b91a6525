import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from estimator_samples import CONFIGS, synthetic_run, synthetic_samples
from typer.main import get_command
from typer.testing import CliRunner, Result

from paceline.cli.estimator import commands as estimator
from paceline.errors import EstimatorError, InvalidValueError, OutputPathError, PacelineWarning, UnknownChoiceError
from paceline.estimate import NetworkEstimator
from paceline.estimate.bounds_file import load_bounds
from paceline.fit.held_out import judged_with
from paceline.profiles import read_profile
from paceline.profiles.description import StoreDescription
from paceline.profiles.store import write_store

APP = typer.Typer()
estimator.register(APP)
RUNNER = CliRunner()


def run(*words: object) -> Result:
    return RUNNER.invoke(APP, [str(word) for word in words], catch_exceptions=False)


def store(path: Path, samples: pl.DataFrame, model: str = "synthetic") -> Path:
    write_store(path, samples, StoreDescription(provenance=(synthetic_run(model),)))
    return path


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("estimator") / "profile", synthetic_samples(150, noise=0.05))


@pytest.fixture(scope="module")
def trained(profile: Path) -> Path:
    out = profile.with_name("out")
    run("estimator", "train", profile, "--out", out, "--num-epochs", 200)
    return out


def test_train_writes_an_estimator_with_bounds_and_says_how_good_it_is(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("estimator", "train", profile, "--out", out, "--num-epochs", 200, "--json")
    document = json.loads(result.stdout)
    network = NetworkEstimator.load(out)
    assert network.configs == tuple(sorted(CONFIGS, key=lambda config: config.size))
    assert network.description.models == {"synthetic"}
    assert set(load_bounds(out).scores) == {"ttft", "prefill", "total"}
    assert document["epochs"] == 200 and document["training"]["loss"] == "log"
    assert document["prefill"]["relative_error"] < 0.15
    assert document["baselines"]["config_mean"]["estimator_minus_baseline"]["prefill"]["mae_ms"] < 0
    assert f"wrote {out}" in " ".join(result.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no checkpoint stays behind


@pytest.mark.parametrize("spelling", ["-", "_"])
def test_train_takes_the_reference_flags_in_both_spellings(spelling: str, profile: Path, tmp_path: Path) -> None:
    def flag(name: str) -> str:
        return "--" + name.replace("_", spelling)

    words = [flag("results_dir"), profile, flag("output_dir"), tmp_path / "out", flag("dataset_names"), "one"]
    settings = [flag("batch_size"), 512, flag("num_epochs"), 2, "--lr", 0.002, "--device", "cpu", "--seed", 7]
    run("estimator", "train", *words, *settings, "--settings", "reference")
    description = NetworkEstimator.load(tmp_path / "out").description
    expected = {"batch_size": 512, "num_epochs": 2, "learning_rate": 0.002, "seed": 7, "loss": "mse", "epochs": 2}
    assert {name: description.training[name] for name in expected} == expected
    assert (description.datasets, description.split["seed"]) == (("one",), 7)
    everything = [flag("use_all_datasets"), flag("num_epochs"), 1]
    run("estimator", "train", flag("results_dir"), profile, flag("output_dir"), tmp_path / "all", *everything)
    assert NetworkEstimator.load(tmp_path / "all").description.datasets == ("one", "two")


def test_an_estimator_that_is_replaced_is_kept_beside(profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        result = run("estimator", "train", profile, "--out", out, "--num-epochs", 1)
    kept = [path for path in tmp_path.iterdir() if path != out]
    assert len(kept) == 1 and kept[0].name in result.stderr.replace("\n", "")
    assert NetworkEstimator.load(kept[0]).configs == NetworkEstimator.load(out).configs
    load_bounds(kept[0])


def test_eval_prints_the_fixed_keys(trained: Path, profile: Path) -> None:
    document = json.loads(run("estimator", "eval", trained, profile, "--json").stdout)
    assert {"n", "prefill", "decode", "by_config", "by_dataset", "baselines", "coverage"} <= set(document)
    assert set(document["baselines"]) == {"config_mean", "ridge", "gradient_boosting"}
    coverage = document["coverage"]
    assert coverage["target"] == 0.95
    assert coverage["ci"][0] <= coverage["policy_level"] <= coverage["ci"][1]
    assert document["n"] == sum(each["n"] for each in document["by_config"].values())


def test_eval_prints_for_people(trained: Path, profile: Path) -> None:
    text = " ".join(run("estimator", "eval", trained, profile).stdout.split())
    for words in ("Prefill: ", "gradient_boosting", "By data set", "By configuration", "Bounds promise 0.950"):
        assert words in text


def test_eval_says_when_too_few_samples_calibrated_a_promise(trained: Path, profile: Path) -> None:
    result = run("estimator", "eval", trained, profile, "--alpha", 0.001, "--json")
    assert json.loads(result.stdout)["coverage"]["policy_level"] is None
    assert "alpha is 0.001" in result.stderr
    with pytest.raises(InvalidValueError, match="alpha is 2"):
        run("estimator", "eval", trained, profile, "--alpha", 2)


def test_a_profile_of_another_machine_is_warned_of(trained: Path, profile: Path, tmp_path: Path) -> None:
    samples = pl.read_parquet(profile / "samples.parquet")
    elsewhere = replace(synthetic_run("synthetic"), device="another processor")
    write_store(tmp_path / "elsewhere", samples, StoreDescription(provenance=(elsewhere,)))
    with pytest.warns(PacelineWarning, match="different circumstances .device .* there, another processor here"):
        assert run("estimator", "eval", trained, tmp_path / "elsewhere").exit_code == 0
    with pytest.warns(PacelineWarning, match="another processor here"):
        judged_with(read_profile(tmp_path / "elsewhere"), trained)


def test_a_profile_of_another_engine_is_refused(trained: Path, profile: Path, tmp_path: Path) -> None:
    samples = pl.read_parquet(profile / "samples.parquet")
    other = replace(synthetic_run("synthetic"), engine="vllm")
    write_store(tmp_path / "other", samples, StoreDescription(provenance=(other,)))
    with pytest.raises(EstimatorError, match="measured with transformers, and this is vllm"):
        run("estimator", "eval", trained, tmp_path / "other")


def test_predict_shows_one_configuration_or_the_whole_grid(trained: Path) -> None:
    grid = json.loads(run("estimator", "predict", trained, "--json").stdout)
    assert len(grid["configurations"]) == len(CONFIGS)
    knobs = ["--tier", "low", "--top-k", 4, "--blocks", 8]
    tokens = ["--vision-tokens", 300, "--text-tokens", 12]
    one = json.loads(run("estimator", "predict", trained, *knobs, *tokens, "--json").stdout)
    assert one["vision_tokens"]["low"] == 300 and one["text_tokens"] == 12 and one["outside"] == []
    assert list(one["configurations"][0]) == [
        "tier",
        "top_k",
        "num_active_blocks",
        "T_prefill_total",
        "T_decode_per_token",
    ]
    three = json.loads(run("estimator", "predict", trained, "--vision-tokens", 300, 900, 1800, "--json").stdout)
    assert three["vision_tokens"] == {"low": 300, "medium": 900, "high": 1800}
    text = " ".join(run("estimator", "predict", trained, "--vision-tokens", 90_000).stdout.split())
    assert "vision_tokens beyond what the estimator was trained on" in text and "high_8_16" in text


def test_feasible_lists_what_a_budget_allows(trained: Path) -> None:
    words = ["--budget", 60, "--expected-output-tokens", 4]
    document = json.loads(run("estimator", "feasible", trained, *words, "--json").stdout)
    verdicts = {each["feasible"] for each in document["configurations"]}
    assert verdicts == {True, False}
    for each in document["configurations"]:
        total = each["T_prefill_total"] + 3 * each["T_decode_per_token"]
        assert each["T_total"] == pytest.approx(total)
        assert each["feasible"] == (total <= 60) == (each["max_output_tokens"] >= 4)
    text = " ".join(run("estimator", "feasible", trained, *words).stdout.split())
    assert "configurations answer 4 tokens within 60 ms" in text and "about half of the requests exceed" in text


def test_mistakes_are_paceline_errors(trained: Path, profile: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="one path"):
        run("estimator", "train")
    with pytest.raises(InvalidValueError, match="one path"):
        run("estimator", "train", profile, "--results-dir", profile)
    with pytest.raises(UnknownChoiceError, match="did you mean 'reference'"):
        run("estimator", "train", profile, "--settings", "referense", "--out", tmp_path / "out")
    with pytest.raises(UnknownChoiceError, match="did you mean 'huber'"):
        run("estimator", "train", profile, "--loss", "hubr", "--out", tmp_path / "out")
    with pytest.raises(UnknownChoiceError, match="dataset 'onne'"):
        run("estimator", "train", profile, "--datasets", "onne", "--out", tmp_path / "out")
    with pytest.raises(InvalidValueError, match="either it or a list"):
        run("estimator", "train", profile, "--datasets", "one", "--use-all-datasets", "--out", tmp_path / "out")
    with pytest.raises(UnknownChoiceError, match="device 'gpu'"):
        run("estimator", "train", profile, "--device", "gpu", "--out", tmp_path / "out")
    with pytest.raises(OutputPathError, match="holds no estimator"):
        run("estimator", "train", profile, "--out", profile)
    with pytest.raises(EstimatorError, match=r"estimator\.json: cannot be read"):
        run("estimator", "predict", tmp_path)
    with pytest.raises(UnknownChoiceError, match="tier 'hgih'"):
        run("estimator", "predict", trained, "--tier", "hgih", "--top-k", 4, "--blocks", 8)
    with pytest.raises(InvalidValueError, match="vision_tokens is 'many'"):
        run("estimator", "predict", trained, "--vision-tokens", "many")
    with pytest.raises(InvalidValueError, match="latency budget is -1"):
        run("estimator", "feasible", trained, "--budget", -1)
    other = store(tmp_path / "other", synthetic_samples(30), model="digits")
    with pytest.raises(EstimatorError, match="expected an estimator of digits"):
        run("estimator", "eval", trained, other)
    few = store(tmp_path / "few", synthetic_samples(2))
    with pytest.raises(InvalidValueError, match="at least some 20 samples"):
        run("estimator", "train", few, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_flags_are_what_the_documents_say() -> None:
    commands: dict[str, Any] = get_command(APP).commands["estimator"].commands  # pyright: ignore
    flags = {
        name: " ".join(sorted(flag for param in command.params for flag in param.opts if flag[0] == "-"))
        for name, command in commands.items()
    }
    asking = "--blocks --json --num-active-blocks --num_active_blocks"
    about = "--text-tokens --text_tokens --tier --top-k --top_k --vision-tokens --vision_tokens"
    assert flags == {
        "train": "--batch-size --batch_size --dataset-names --dataset_names --datasets --device --json --loss --lr "
        "--num-epochs --num_epochs --out --output-dir --output_dir --patience --results-dir --results_dir --seed "
        "--settings --skip-bad --use-all-datasets --use_all_datasets -o",
        "eval": "--alpha --dataset-names --dataset_names --datasets --json --skip-bad",
        "predict": f"{asking} {about}",
        "feasible": "--blocks --budget --expected-output-tokens --expected_output_tokens "
        f"{asking.removeprefix('--blocks ')} {about}",
    }
